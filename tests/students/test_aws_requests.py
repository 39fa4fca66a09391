"""The requests that train and host a student are valid by the service models of botocore; bad settings are refused
before any request.
"""

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


def requests(*assignments: str, name: str = "mine") -> dict[str, Mapping[str, Any]]:
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
def test_every_request_is_valid_by_the_service_model(assignments: tuple[str, ...], name: str):
    found = {
        operation: aws_model.problems(
            SERVICES.get(kind := operation.partition(",")[0], "sagemaker"), kind, dict(request)
        )
        for operation, request in requests(*assignments, name=name).items()
    }
    assert [line for lines in found.values() for line in lines] == []


def test_the_check_by_the_service_model_finds_invalid_requests():
    request = {**requests()["CreateModel"], "ModelName": "a_b", "Nonsense": 1}
    found = aws_model.problems("sagemaker", "CreateModel", request)
    assert [line.split(":")[0] for line in found] == ["document.ModelName", "Unknown parameter in input"]


def test_amazons_container_reads_the_student_uncompressed_from_s3():
    model = requests()["CreateModel"]["PrimaryContainer"]
    assert model["Image"] == "763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference:0.36.0-lmi20.0.0-cu128"
    assert model["ModelDataSource"]["S3DataSource"] == {
        "S3Uri": "s3://students/one/",
        "S3DataType": "S3Prefix",
        "CompressionType": "None",
    }


def test_an_endpoint_that_scales_to_zero_has_all_that_starts_it_again():
    made = requests("hosting.scale_to_zero=true")
    variant = made["CreateEndpointConfig"]["ProductionVariants"][0]
    assert "ModelName" not in variant
    assert variant["ManagedInstanceScaling"]["MinInstanceCount"] == 0
    assert made["CreateEndpointConfig"]["ExecutionRoleArn"] == ROLE
    assert made["RegisterScalableTarget"]["MinCapacity"] == 0
    assert made["PutMetricAlarm"]["MetricName"] == "NoCapacityInvocationFailures"
    assert made["PutScalingPolicy, up from zero"]["PolicyType"] == "StepScaling"


def test_every_resource_has_the_tag_and_those_of_the_settings():
    for assignments in (("hosting.scale_to_zero=true",), ("hosting.kind=bedrock",)):
        for operation, request in requests(*assignments, 'hosting.tags={team="data"}').items():
            if "Scal" in operation:
                continue  # goes with its component
            tags = request.get("Tags") or request["importedModelTags"]
            named = {tag.get("Key") or tag["key"]: tag.get("Value") or tag["value"] for tag in tags}
            assert named["raft-spark"] == "mine"
            assert named["team"] == "data"


def test_a_failed_import_can_be_repeated_and_a_running_one_cannot_be_started_twice():
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


# The checks of a student's folder

GOOD = {"config.json": 1, "tokenizer.json": 1, "tokenizer_config.json": 1, "model.safetensors": 1_000_000}
LLAMA = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 8192}


def problems(
    files: Mapping[str, int], conf: Mapping[str, Any] = LLAMA, kind: str = "bedrock", region: str = "us-east-1"
):
    found = artifact_checks.problems(ModelFolder(FOLDER, files, conf), settled(f"hosting.kind={kind}").hosting, region)
    assert all(sentence.startswith(FOLDER) for sentence in found)
    return [sentence.removeprefix(f"{FOLDER} ") for sentence in found]


def without(*names: str) -> dict[str, int]:
    return {name: size for name, size in GOOD.items() if name not in names}


def test_a_complete_student_is_accepted():
    assert problems(GOOD) == []
    assert problems(GOOD, {"architectures": ["NewForCausalLM"]}, kind="sagemaker", region="eu-west-3") == []


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, "is empty; it must be the folder of a trained student in S3"),
        (without("config.json"), "has no config.json"),
        (without("tokenizer.json", "tokenizer_config.json"), "has no tokenizer.json, no tokenizer_config.json"),
        (without("model.safetensors"), "has no safetensors"),
        ({**without("model.safetensors"), "model.tar.gz": 1}, "has no safetensors, but model.tar.gz"),
        ({**without("model.safetensors"), "checkpoint-1/model.safetensors": 1}, "has no safetensors"),
        (
            {**without("model.safetensors"), "model-00001-of-00002.safetensors": 1},
            "has 1 of the 2 shards of model.safetensors",
        ),
    ],
)
@pytest.mark.parametrize("kind", ["sagemaker", "bedrock"])
def test_a_folder_that_lacks_something_is_refused(files: dict[str, int], sentence: str, kind: str):
    assert sentence in problems(files, kind=kind)


def test_an_adapter_that_is_not_merged_is_refused():
    files = {**without("model.safetensors"), "adapter_config.json": 1, "adapter_model.safetensors": 1}
    assert problems(files, kind="sagemaker") == [
        "has a LoRA adapter that is not merged; `raft-spark model train` merges it",
        "has no safetensors",
    ]


@pytest.mark.parametrize(
    ("conf", "region", "sentence"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "us-east-1", "is a GPT2LMHeadModel; Bedrock imports"),
        ({}, "us-east-1", "is a model of unknown architecture; Bedrock imports"),
        ({"architectures": ["GptOssForCausalLM"]}, "us-west-2", "imports in us-east-1 only"),
        (LLAMA, "eu-west-1", "cannot be imported in eu-west-1; Bedrock imports in eu-central-1, us-east-1"),
        ({**LLAMA, "max_position_embeddings": 262_144}, "us-east-1", "has a context of 262,144 tokens"),
    ],
)
def test_what_bedrock_does_not_import_is_refused(conf: dict[str, Any], region: str, sentence: str):
    assert [found for found in problems(GOOD, conf, region=region) if sentence in found]


def test_a_student_that_is_too_large_for_bedrock_is_refused():
    assert "has 250 GB of weights" in problems({**GOOD, "model.safetensors": 250_000_000_000})[0]


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("hosting.role_arn=raft", "as arn:aws:iam::123456789012:role/NAME"),
        ("hosting.instance_type=g5.2xlarge", "an instance type of SageMaker, such as ml.g5.2xlarge"),
        ("hosting.region=Frankfurt", "a region, such as us-east-1"),
        ("hosting.kind=vertex", "hosting.kind"),
        ("training.sagemaker.output=/tmp/x", "s3://bucket/prefix"),
        ("training.sagemaker.max_wait_hours=1", "max_wait_hours is 1; it must be at least max_hours, 6"),
        ("training.sagemaker.instance_type=p4d", "an instance type of SageMaker"),
    ],
)
def test_a_wrong_setting_is_one_sentence(assignment: str, sentence: str):
    with pytest.raises(ConfigError, match=sentence.replace(".", r"\.")):
        settled(assignment)


def test_a_region_without_a_default_image_needs_hosting_image():
    with pytest.raises(ConfigError, match=r"hosting\.image must be set in eu-south-2"):
        requests("hosting.region=eu-south-2")
    own = "1.dkr.ecr.eu-south-2.amazonaws.com/djl-inference:0.36.0-lmi20.0.0-cu128"
    assert (
        requests("hosting.region=eu-south-2", f"hosting.image={own}")["CreateModel"]["PrimaryContainer"]["Image"] == own
    )


# Costs


def test_a_leftover_is_described_with_its_age_its_cost_and_how_to_remove_it():
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


def test_an_imported_model_costs_its_units():
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
def test_converse_is_used_where_it_is_supported(model: dict[str, Any], codec: str):
    assert bedrock_import.codec(model) == codec


def test_a_printed_section_can_be_loaded_as_settings(tmp_path: Path):
    endpoint = config.Endpoint(kind="sagemaker", endpoint_name="raft-spark-a-1", codec="openai", hourly_price=1.5)
    (tmp_path / "a.toml").write_text(hosting.to_toml("a-1", endpoint))
    assert config.load([str(tmp_path / "a.toml")]).endpoints["a-1"] == endpoint


def test_a_student_that_starts_again_is_retried_for_ten_minutes_and_more():
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


def test_name_and_checkpoints_identify_a_training():
    first, again, other = plan(), plan(), plan("training.seed=5")
    assert first == again
    assert first["name"].startswith("raft-spark-train-")
    assert (first["name"], first["checkpoints"]) != (other["name"], other["checkpoints"])
    assert first["checkpoints"].startswith("s3://students/out/checkpoints/")


@pytest.mark.parametrize(
    "assignment", ["spot=false", "max_hours=12", "instance_type=ml.g6.2xlarge", "disk_gb=200", f"role_arn={ROLE}2"]
)
def test_more_hours_or_another_machine_resume_from_the_same_checkpoints(assignment: str):
    other = plan(f"training.sagemaker.{assignment}")
    assert (other["name"], other["checkpoints"]) == (plan()["name"], plan()["checkpoints"])


def test_the_container_runs_sft_script_with_every_setting():
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


def test_a_dataset_is_in_s3_or_is_uploaded_from_here(tmp_path: Path):
    assert plan()["data"].startswith("s3://lake/raft/")
    assert plan()["data"].endswith("/v-1/prompt_completion/")
    assert plan(f"lake.root={tmp_path}")["data"].startswith(str(tmp_path))


def test_metrics_are_read_from_the_output_of_sft_script():
    line = "train_loss=0.9 eval_loss=1.1 learning_rate=2e-05 grad_norm=0.5 step=10 epoch=0.5 seconds_per_step=4.2"
    found = {name: re.search(regex, line)[1] for name, regex in plan()["metrics"].items()}
    assert found["learning_rate"] == "2e-05"
    assert found["step"] == "10"
    assert set(found) == set(sagemaker_training.METRICS)


@pytest.mark.parametrize(
    ("assignments", "sentence"),
    [
        (
            ("training.sagemaker.role_arn=", "training.sagemaker.output="),
            "role_arn, training.sagemaker.output must be set",
        ),
        (("training.model=",), "training.model is ''; for SageMaker it must be a name on the hub"),
        (("training.model=build/student.gguf.x/y/z",), "for SageMaker it must be a name on the hub"),
    ],
)
def test_what_sagemaker_cannot_train_with_is_refused(assignments: tuple[str, ...], sentence: str):
    with pytest.raises(ConfigError) as caught:
        plan(*assignments)
    assert sentence in str(caught.value)


def test_a_dataset_without_prompts_and_completions_is_refused():
    with pytest.raises(InputError, match="has no format 'prompt_completion'"):
        plan(held=version("messages/train.jsonl"))
