"""What AWS is sent to train and host a student: legal by the services' own models; and what is refused before anything is made."""

import datetime as dt
import json
import re
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from raft_spark import config
from raft_spark.endpoints.base import Reply, Request
from raft_spark.errors import ConfigError, InputError
from raft_spark.inference.admission import InFlightRequest
from raft_spark.inference.executor import RetryLimits, _next_attempt
from raft_spark.lake.parquet import DataFile
from raft_spark.lake.tables import Version
from raft_spark.students import artifact_checks, aws_requests, bedrock_import, hosting, inventory, sagemaker_training
from raft_spark.students.artifact_checks import ModelFolder
from support import aws_model

pytestmark = pytest.mark.row

ROLE = "arn:aws:iam::123456789012:role/raft-spark-student"
FOLDER = "s3://students/one"
SERVICES = {
    "CreateModelImportJob": "bedrock",
    "RegisterScalableTarget": "application-autoscaling",
    "PutScalingPolicy": "application-autoscaling",
    "PutMetricAlarm": "cloudwatch",
}


def settled(*assignments: str) -> config.Config:
    return config.load(assignments=[f"hosting.role_arn={ROLE}", "hosting.region=us-east-1", *assignments])


def told(*assignments: str, name: str = "mine") -> dict[str, Mapping[str, Any]]:
    return hosting.planned_requests(settled(*assignments).hosting, name, FOLDER)


@pytest.mark.parametrize("name", ["mine", "a" * 32, "a-1"])
@pytest.mark.parametrize(
    "assignments",
    [
        (),
        ("hosting.scale_to_zero=true", "hosting.max_copies=4", "hosting.ami=al2-ami-sagemaker-inference-gpu-3-1"),
        ('hosting.tags={team="data science"}', "hosting.start_minutes=60"),
        ("hosting.kind=bedrock",),
    ],
)
def test_every_request_is_legal_by_the_services_own_model(assignments: tuple[str, ...], name: str):
    found = {
        operation: aws_model.found(SERVICES.get(kind := operation.partition(",")[0], "sagemaker"), kind, dict(request))
        for operation, request in told(*assignments, name=name).items()
    }
    assert [line for lines in found.values() for line in lines] == []


def test_the_check_by_the_model_finds_what_is_not_legal():
    request = {**told()["CreateModel"], "ModelName": "a_b", "Nonsense": 1}
    found = aws_model.found("sagemaker", "CreateModel", request)
    assert [line.split(":")[0] for line in found] == ["document.ModelName", "Unknown parameter in input"]


def test_a_student_is_read_as_it_lies_in_s3_by_amazons_container():
    model = told()["CreateModel"]["PrimaryContainer"]
    assert model["Image"] == "763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference:0.36.0-lmi20.0.0-cu128"
    assert model["ModelDataSource"]["S3DataSource"] == {
        "S3Uri": "s3://students/one/",
        "S3DataType": "S3Prefix",
        "CompressionType": "None",
    }


def test_an_endpoint_that_scales_to_zero_has_all_that_wakes_it():
    made = told("hosting.scale_to_zero=true")
    variant = made["CreateEndpointConfig"]["ProductionVariants"][0]
    assert "ModelName" not in variant
    assert variant["ManagedInstanceScaling"]["MinInstanceCount"] == 0
    assert made["CreateEndpointConfig"]["ExecutionRoleArn"] == ROLE
    assert made["RegisterScalableTarget"]["MinCapacity"] == 0
    assert made["PutMetricAlarm"]["MetricName"] == "NoCapacityInvocationFailures"
    assert made["PutScalingPolicy, up from zero"]["PolicyType"] == "StepScaling"


def test_everything_bears_the_tag_and_a_persons_own():
    for assignments in (("hosting.scale_to_zero=true",), ("hosting.kind=bedrock",)):
        for operation, request in told(*assignments, 'hosting.tags={team="data"}').items():
            if "Scal" in operation:
                continue  # goes with its component
            tags = request.get("Tags") or request["importedModelTags"]
            named = {tag.get("Key") or tag["key"]: tag.get("Value") or tag["value"] for tag in tags}
            assert named["raft-spark"] == "mine"
            assert named["team"] == "data"


def test_an_import_that_failed_can_be_asked_again_and_a_double_click_cannot():
    conf = settled("hosting.kind=bedrock").hosting
    first, twice = (aws_requests.import_job(conf, "mine", FOLDER, "") for _ in range(2))
    again = aws_requests.import_job(conf, "mine", FOLDER, "arn:of:the:failed:job")
    assert first == twice
    assert first["jobName"] != again["jobName"]
    assert first["clientRequestToken"] != again["clientRequestToken"]
    assert first["importedModelTags"] == again["importedModelTags"]


def test_every_operation_of_the_docs_list_is_known_to_botocore():
    text = (
        (ROOT / "docs/hosting.md")
        .read_text()
        .partition("## Permissions for training and hosting")[2]
        .partition("\n## ")[0]
    )
    named = [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")]
    assert len(named) > 4
    prefixes = {"autoscaling": "application-autoscaling"}
    for actions in named:
        service, _, operations = actions.partition(":")
        if service in {"iam", "s3"}:
            continue  # PassRole is no operation, and S3 names its rights otherwise than its operations
        model = aws_model.model(prefixes.get(service, service))
        known = set(model.operation_names)
        assert {name.strip() for name in operations.split(",")} <= known


# A student's folder

GOOD = {"config.json": 1, "tokenizer.json": 1, "tokenizer_config.json": 1, "model.safetensors": 1_000_000}
LLAMA = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 8192}


def wrong(files: Mapping[str, int], conf: Mapping[str, Any] = LLAMA, kind: str = "bedrock", region: str = "us-east-1"):
    found = artifact_checks.problems(ModelFolder(FOLDER, files, conf), settled(f"hosting.kind={kind}").hosting, region)
    assert all(sentence.startswith(FOLDER) for sentence in found)
    return [sentence.removeprefix(f"{FOLDER} ") for sentence in found]


def without(*names: str) -> dict[str, int]:
    return {name: size for name, size in GOOD.items() if name not in names}


def test_a_good_student_is_taken():
    assert wrong(GOOD) == []
    assert wrong(GOOD, {"architectures": ["NewForCausalLM"]}, kind="sagemaker", region="eu-west-3") == []


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, "holds nothing: it must be the folder of a trained student in S3"),
        (without("config.json"), "holds no config.json"),
        (without("tokenizer.json", "tokenizer_config.json"), "holds no tokenizer.json, no tokenizer_config.json"),
        (without("model.safetensors"), "holds no safetensors"),
        ({**without("model.safetensors"), "model.tar.gz": 1}, "holds no safetensors, but model.tar.gz"),
        ({**without("model.safetensors"), "checkpoint-1/model.safetensors": 1}, "holds no safetensors"),
        (
            {**without("model.safetensors"), "model-00001-of-00002.safetensors": 1},
            "holds 1 of the 2 parts of model.safetensors",
        ),
    ],
)
@pytest.mark.parametrize("kind", ["sagemaker", "bedrock"])
def test_a_folder_that_lacks_something_is_refused(files: dict[str, int], sentence: str, kind: str):
    assert sentence in wrong(files, kind=kind)


def test_an_adapter_that_is_not_merged_is_refused():
    files = {**without("model.safetensors"), "adapter_config.json": 1, "adapter_model.safetensors": 1}
    assert wrong(files, kind="sagemaker") == [
        "holds a LoRA adapter that is not merged; `raft-spark model train` merges it",
        "holds no safetensors",
    ]


@pytest.mark.parametrize(
    ("conf", "region", "sentence"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "us-east-1", "is a GPT2LMHeadModel; Bedrock imports"),
        ({}, "us-east-1", "is a model of no known architecture; Bedrock imports"),
        ({"architectures": ["GptOssForCausalLM"]}, "us-west-2", "imports in us-east-1 alone"),
        (LLAMA, "eu-west-1", "cannot be imported in eu-west-1; Bedrock imports in eu-central-1, us-east-1"),
        ({**LLAMA, "max_position_embeddings": 262_144}, "us-east-1", "has a context of 262,144 tokens"),
    ],
)
def test_what_bedrock_does_not_import_is_refused(conf: dict[str, Any], region: str, sentence: str):
    assert [found for found in wrong(GOOD, conf, region=region) if sentence in found]


def test_a_student_that_is_too_heavy_for_bedrock_is_refused():
    assert "has 250 GB of weights" in wrong({**GOOD, "model.safetensors": 250_000_000_000})[0]


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("hosting.role_arn=raft", "as arn:aws:iam::123456789012:role/NAME"),
        ("hosting.instance_type=g5.2xlarge", "an instance type of SageMaker, as ml.g5.2xlarge"),
        ("hosting.region=Frankfurt", "a region, as us-east-1"),
        ("hosting.kind=vertex", "hosting.kind"),
        ("training.sagemaker.output=/tmp/x", "s3://bucket/prefix"),
        ("training.sagemaker.max_wait_hours=1", "max_wait_hours below its max_hours"),
        ("training.sagemaker.instance_type=p4d", "an instance type of SageMaker"),
    ],
)
def test_a_wrong_setting_is_one_sentence(assignment: str, sentence: str):
    with pytest.raises(ConfigError, match=sentence.replace(".", r"\.")):
        settled(assignment)


def test_a_region_whose_container_is_not_known_wants_its_address():
    with pytest.raises(ConfigError, match=r"hosting\.image must be given in eu-south-2"):
        told("hosting.region=eu-south-2")
    own = "1.dkr.ecr.eu-south-2.amazonaws.com/djl-inference:0.36.0-lmi20.0.0-cu128"
    assert told("hosting.region=eu-south-2", f"hosting.image={own}")["CreateModel"]["PrimaryContainer"]["Image"] == own


# What it costs


def test_what_is_left_is_told_with_its_age_its_cost_and_how_it_goes():
    since = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
    now = since + dt.timedelta(hours=30)
    left = inventory.Leftover(
        "endpoint", "raft-spark-mine", "InService", since, 1.515, 45.45, "raft-spark model unhost mine"
    )
    assert (
        inventory.describe(left, now)
        == "endpoint raft-spark-mine: InService, 1.2 days, $1.51 an hour, $45.45 so far at most; remove it: raft-spark model unhost mine"
    )
    unknown = inventory.Leftover("endpoint", "raft-spark-x", "InService", since, None, None)
    assert inventory.describe(unknown, since + dt.timedelta(hours=2)).endswith("2.0 hours, price unknown")


def test_cost_is_price_times_instances_times_hours():
    assert inventory.dollars(1.5, 2, 10.0) == (3.0, 30.0)
    assert inventory.dollars(1.5, 0, 10.0) == (0.0, 15.0)  # at zero now: it cost at most this
    assert inventory.dollars(0.0, 2, 10.0) == (None, None)


def test_a_model_of_bedrock_costs_its_units():
    conf = settled('prices={"bedrock-custom-model-unit-v1.0"={hourly_price=3.0}}')
    units = {"customModelUnits": {"customModelUnitsPerModelCopy": 2, "customModelUnitsVersion": "v1.0"}}
    assert hosting.imported_model_price(conf, units) == 6.0
    assert hosting.imported_model_price(conf, {}) == 0.0


@pytest.mark.parametrize(
    ("model", "codec"),
    [
        ({"instructSupported": True, "modelArchitecture": "llama"}, "converse"),
        ({"instructSupported": False, "modelArchitecture": "llama"}, "openai"),
        ({"instructSupported": True, "modelArchitecture": "Qwen2ForCausalLM"}, "openai"),
    ],
)
def test_a_model_is_asked_as_it_can_be(model: dict[str, Any], codec: str):
    assert bedrock_import.codec(model) == codec


def test_a_printed_section_settles_as_settings(tmp_path: Path):
    endpoint = config.Endpoint(kind="sagemaker", endpoint_name="raft-spark-a-1", codec="openai", hourly_price=1.5)
    (tmp_path / "a.toml").write_text(hosting.to_toml("a-1", endpoint))
    assert config.load([str(tmp_path / "a.toml")]).endpoints["a-1"] == endpoint


def test_a_student_that_wakes_is_waited_for_ten_minutes_and_more():
    reply = Reply(error_class="throttled", error="ModelNotReadyException: waking")
    waking = InFlightRequest(
        1, Request("k", "m", {}), attempts=40, throttles=40, reply=reply, first_sent=time.monotonic() - 590
    )
    assert _next_attempt(waking, RetryLimits(5, 1800.0)) is not None
    assert _next_attempt(waking, RetryLimits(5, 590.0)) is None


# Training


def version(*files: str) -> Version:
    held = tuple(DataFile(path, 1, 1, "") for path in files or ("prompt_completion/train.jsonl",))
    return Version("dataset", "v-1", "i", {}, {}, held, {}, "c", "r", "2026-11-01")


TRAINING = (
    f"training.sagemaker.role_arn={ROLE}",
    "training.sagemaker.output=s3://students/out/",
    "training.model=org/Small-Instruct",
    "lake.root=s3://lake/raft",
)


def plan(*assignments: str, held: Version | None = None) -> dict[str, Any]:
    return sagemaker_training.plan(config.load(assignments=[*TRAINING, *assignments]), held or version(), "us-east-1")


def test_the_same_training_has_the_same_name_and_checkpoints_and_another_has_others():
    first, again, other = plan(), plan(), plan("training.seed=5")
    assert first == again
    assert first["name"].startswith("raft-spark-train-")
    assert (first["name"], first["checkpoints"]) != (other["name"], other["checkpoints"])
    assert first["checkpoints"].startswith("s3://students/out/checkpoints/")


@pytest.mark.parametrize(
    "assignment", ["spot=false", "max_hours=12", "instance_type=ml.g6.2xlarge", "disk_gb=200", f"role_arn={ROLE}2"]
)
def test_more_hours_or_another_machine_go_on_from_the_same_checkpoints(assignment: str):
    other = plan(f"training.sagemaker.{assignment}")
    assert (other["name"], other["checkpoints"]) == (plan()["name"], plan()["checkpoints"])


def test_the_container_runs_training_py_with_every_setting():
    words = shlex.split(plan("training.sagemaker.spot=true")["command"])
    given = dict(zip(words[2::2], words[3::2], strict=True))
    assert words[:2] == ["python", "sft_script.py"]
    assert given["--data"] == "/opt/ml/input/data/dataset"
    assert given["--to"] == "/opt/ml/model"
    assert given["--checkpoints"] == "/opt/ml/checkpoints"
    assert json.loads(given["--settings"]) == config.load().training.script_settings()
    assert "sagemaker" not in given["--settings"]


def test_a_student_in_s3_is_a_channel_of_its_own():
    made = plan("training.model=s3://weights/small/")
    assert made["student"] == "s3://weights/small/"
    assert "--model /opt/ml/input/data/student" in made["command"]


def test_a_dataset_lies_in_s3_or_is_uploaded_from_here(tmp_path: Path):
    assert plan()["data"].startswith("s3://lake/raft/")
    assert plan()["data"].endswith("/v-1/prompt_completion/")
    assert plan(f"lake.root={tmp_path}")["data"].startswith(str(tmp_path))


def test_metrics_are_read_from_what_training_py_prints():
    line = "train_loss=0.9 eval_loss=1.1 learning_rate=2e-05 grad_norm=0.5 step=10 epoch=0.5 seconds_per_step=4.2"
    found = {name: re.search(regex, line)[1] for name, regex in plan()["metrics"].items()}
    assert found["learning_rate"] == "2e-05"
    assert found["step"] == "10"
    assert set(found) == set(sagemaker_training.METRICS)


@pytest.mark.parametrize(
    ("assignments", "sentence"),
    [
        (("training.sagemaker.role_arn=", "training.sagemaker.output="), "role_arn, training.sagemaker.output must be"),
        (("training.model=",), "training.model is ''; SageMaker reads a name on the hub"),
        (("training.model=build/student.gguf.x/y/z",), "SageMaker reads a name on the hub"),
    ],
)
def test_what_sagemaker_cannot_train_with_is_refused(assignments: tuple[str, ...], sentence: str):
    with pytest.raises(ConfigError) as caught:
        plan(*assignments)
    assert sentence in str(caught.value)


def test_a_dataset_without_prompts_and_completions_is_refused():
    with pytest.raises(InputError, match="has no format 'prompt_completion'"):
        plan(held=version("messages/train.jsonl"))
