"""raft-spark model host, unhost, list and submit against SageMaker, Bedrock, Auto Scaling and CloudWatch on loopback."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from click.testing import CliRunner, Result

from conftest import ROOT
from raft_spark import config
from raft_spark.cli.main import main
from raft_spark.common import background
from raft_spark.errors import ConfigError, RunError
from raft_spark.students import sagemaker_endpoint, sagemaker_training
from support import aws_model, loopback_sagemaker
from support.loopback_sagemaker import Service

ROLE = "arn:aws:iam::123456789012:role/raft-spark-student"
RESOURCE_NAME = "raft-spark-mine"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, s3: str, tmp_path: Path) -> Iterator[Service]:
    """Serve SageMaker, Bedrock and Auto Scaling on loopback, since moto has no inference components; S3 and CloudWatch
    are moto's.
    """
    with loopback_sagemaker.serving() as service:
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", service.url)
        monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK", service.url)
        monkeypatch.setenv("AWS_ENDPOINT_URL_APPLICATION_AUTO_SCALING", service.url)
        monkeypatch.setattr(background, "FIRST_PAUSE", 0.01)
        monkeypatch.setattr(background, "PAUSE_GROWTH", 1.0)
        monkeypatch.chdir(tmp_path)
        yield service
        assert service.invalid == []


@pytest.fixture
def bucket(s3: str) -> Any:
    bucket = boto3.resource("s3", endpoint_url=s3).Bucket(f"students-{uuid.uuid4()}")
    bucket.create()
    for name in ("tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        bucket.put_object(Key=f"one/{name}", Body=b"{}")
    bucket.put_object(Key="one/config.json", Body=json.dumps({"architectures": ["LlamaForCausalLM"]}).encode())
    return bucket


@pytest.fixture
def student(bucket: Any) -> str:
    return f"s3://{bucket.name}/one"


def call(*words: str, sets: tuple[str, ...] = ()) -> Result:
    assignments = (f"hosting.role_arn={ROLE}", *sets)
    return CliRunner().invoke(main, ["model", *words, *(part for text in assignments for part in ("--set", text))])


def host(student: str, *words: str, sets: tuple[str, ...] = ()) -> Result:
    return call("host", "mine", "--model", student, *words, sets=sets)


def test_a_command_finds_the_endpoint_and_at_its_end_nothing_is_left(aws: Service, student: str, tmp_path: Path):
    aws.states["Endpoint"] = ("Creating", "Creating", "InService")
    look = "import pathlib; pathlib.Path('seen.toml').write_text(pathlib.Path('build/hosted/mine.toml').read_text())"
    done = host(student, "--run", f'{sys.executable} -c "{look}"')
    assert done.exit_code == 0, done.output
    seen = config.load(["seen.toml"]).endpoints["mine"]
    assert (seen.kind, seen.endpoint_name, seen.codec, seen.hourly_price) == (
        "sagemaker",
        RESOURCE_NAME,
        "openai",
        1.515,
    )
    assert "costs $1.51 an hour" in done.output
    assert aws.things == {}
    assert not Path("build/hosted/mine.toml").exists()


def test_a_command_that_fails_is_reported_and_the_endpoint_is_removed(aws: Service, student: str):
    done = host(student, "--run", f'{sys.executable} -c "raise SystemExit(3)"')
    assert done.exit_code == RunError.exit_status
    assert "the command ended with status 3" in done.output
    assert aws.things == {}


def test_an_unknown_command_is_refused_before_anything_is_created(aws: Service, student: str):
    done = host(student, "--run", "raft-sparc run")
    assert done.exit_code == ConfigError.exit_status
    assert aws.asked == []


def test_an_endpoint_that_is_kept_exists_until_it_is_removed(aws: Service, student: str):
    assert host(student, "--keep").exit_code == 0
    assert sorted(aws.things) == [
        ("Endpoint", RESOURCE_NAME),
        ("EndpointConfig", RESOURCE_NAME),
        ("Model", RESOURCE_NAME),
    ]
    assert Path("build/hosted/mine.toml").exists()
    assert call("unhost", "mine").exit_code == 0
    assert aws.things == {}
    assert call("unhost", "mine").exit_code == 0  # again, of nothing


def test_a_second_hosting_creates_nothing_and_an_interrupted_one_continues(aws: Service, student: str):
    aws.refuses["CreateEndpoint"] = "ResourceLimitExceeded"
    refused = host(student, "--keep")
    assert refused.exit_code == ConfigError.exit_status
    assert "ResourceLimitExceeded" in refused.output
    assert aws.names("Endpoint") == []
    assert aws.names("Model") == [RESOURCE_NAME]
    aws.refuses.clear()
    assert host(student, "--keep").exit_code == 0
    again = host(student, "--keep")
    assert again.exit_code == 0
    assert f"Endpoint {RESOURCE_NAME} already exists" in again.output
    made = [operation for operation in aws.asked if operation.startswith("Create")]
    assert made == ["CreateModel", "CreateEndpointConfig", "CreateEndpoint", "CreateEndpoint"]


def test_another_student_under_the_same_name_is_refused(aws: Service, student: str, bucket: Any):
    for thing in list(bucket.objects.all()):
        bucket.copy({"Bucket": bucket.name, "Key": thing.key}, thing.key.replace("one", "two"))
    host(student, "--keep")
    done = host(f"s3://{bucket.name}/two", "--keep")
    assert done.exit_code == ConfigError.exit_status
    message = "already exists with another student or other settings; first run: raft-spark model unhost mine"
    assert message in done.output.replace("\n", "")


@pytest.mark.parametrize("sets", [(), ("hosting.kind=bedrock",)])
def test_a_refused_hosting_removes_nothing_of_the_other_student(
    aws: Service, student: str, bucket: Any, sets: tuple[str, ...]
):
    for thing in list(bucket.objects.all()):
        bucket.copy({"Bucket": bucket.name, "Key": thing.key}, thing.key.replace("one", "two"))
    host(student, "--keep", sets=sets)
    there = sorted(aws.things)
    done = host(f"s3://{bucket.name}/two", "--run", "true", sets=sets)
    assert done.exit_code == ConfigError.exit_status
    assert sorted(aws.things) == there
    assert Path("build/hosted/mine.toml").exists()


def test_a_failed_removal_names_the_command_that_removes_the_rest(aws: Service, student: str):
    aws.refuses["DeleteEndpoint"] = "ExpiredTokenException"
    done = host(student, "--run", "true")
    text = " ".join(done.output.split())
    assert done.exit_code == RunError.exit_status
    assert "ExpiredTokenException" in text
    remedy = "raft-spark model unhost mine --set hosting.region=us-east-1 --set hosting.kind=sagemaker"
    assert f"the resources that are left cost money until you run: {remedy}" in text
    aws.refuses.clear()
    assert call(*remedy.split()[2:]).exit_code == 0
    assert aws.things == {}


def test_an_endpoint_that_fails_says_why_and_is_removed(aws: Service, student: str):
    aws.states["Endpoint"] = ("Creating", "Failed")
    done = host(student, "--run", "true")
    assert done.exit_code == RunError.exit_status
    assert "no capacity in this zone" in done.output
    assert aws.things == {}


def test_an_endpoint_that_is_being_created_is_removed_once_that_is_possible(aws: Service, student: str):
    aws.states["Endpoint"] = ("InService",)
    host(student, "--keep")
    aws.things["Endpoint", RESOURCE_NAME].states = ["Creating", "Creating", "Creating", "InService"]
    done = call("unhost", "mine")
    assert done.exit_code == 0, done.output
    assert aws.things == {}


def test_an_endpoint_that_scales_to_zero_is_created_and_removed_completely(aws: Service, student: str, s3: str):
    sets = ("hosting.scale_to_zero=true", "hosting.max_copies=3")
    aws.states["InferenceComponent"] = ("Creating", "InService")
    done = host(student, "--keep", sets=sets)
    assert done.exit_code == 0, done.output
    assert 'inference_component = "raft-spark-mine"' in done.output
    assert sorted(aws.scaling) == [f"{RESOURCE_NAME}-requests", f"{RESOURCE_NAME}-wake", "target"]
    assert (aws.scaling["target"]["MinCapacity"], aws.scaling["target"]["MaxCapacity"]) == (0, 3)
    wakes = loopback_sagemaker.arn("policy", f"{RESOURCE_NAME}-wake", "autoscaling")
    watch = boto3.client("cloudwatch", endpoint_url=s3)
    assert watch.describe_alarms(AlarmNames=[RESOURCE_NAME])["MetricAlarms"][0]["AlarmActions"] == [wakes]
    assert call("unhost", "mine", sets=sets).exit_code == 0
    assert aws.things == {}
    assert aws.scaling == {}
    assert watch.describe_alarms(AlarmNames=[RESOURCE_NAME])["MetricAlarms"] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_takes_the_endpoint_down(aws: Service, student: str, number: int):
    command = [sys.executable, "-m", "raft_spark.cli.main", "model", "host", "mine", "--model", student]
    heard = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)"  # though nohup began these tests
    code = f"{heard}; import sys; from raft_spark.cli.main import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, *command[3:], "--set", f"hosting.role_arn={ROLE}"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    for line in running.stdout:
        if "Ctrl-C removes it" in line:
            break
    assert aws.names("Endpoint") == [RESOURCE_NAME]
    running.send_signal(number)
    rest, _ = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "interrupted; the student was removed" in rest
    assert aws.things == {}


def test_ctrl_c_ends_the_command_once_and_waits_for_it_before_the_endpoint_is_removed(
    aws: Service, student: str, tmp_path: Path
):
    program = tmp_path / "asks.py"
    program.write_text(
        "import pathlib, signal, sys, time\n"
        "heard = []\n"
        "for number in (signal.SIGINT, signal.SIGTERM):\n"
        "    signal.signal(number, lambda which, _: heard.append(which))\n"
        "pathlib.Path('asking').touch()\n"
        "while not heard: time.sleep(0.05)\n"
        "time.sleep(1)\n"
        "pathlib.Path('heard').write_text(f'{len(heard)} at {time.time()}')\n"
    )
    code = "import sys; from raft_spark.cli.main import main; main(sys.argv[1:])"
    words = ["model", "host", "mine", "--model", student, "--run", f"{sys.executable} {program}"]
    command = [sys.executable, "-c", code, *words, "--set", f"hosting.role_arn={ROLE}"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, start_new_session=True)
    while not Path("asking").exists():
        assert running.poll() is None
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does
    running.communicate(timeout=60)
    assert running.returncode == 130
    assert Path("heard").read_text().startswith("1 at ")
    assert aws.things == {}


def test_problems_of_a_student_are_reported_before_anything_is_created(aws: Service, student: str, bucket: Any):
    bucket.Object("one/tokenizer.json").delete()
    bucket.put_object(Key="one/adapter_config.json", Body=b"{}")
    done = host(student, "--run", "true", sets=("hosting.kind=bedrock", "hosting.region=eu-west-1"))
    text = " ".join(done.output.split())
    assert done.exit_code == ConfigError.exit_status
    for sentence in ("has no tokenizer.json", "a LoRA adapter that is not merged", "cannot be imported in eu-west-1"):
        assert sentence in text
    assert aws.asked == []


def test_a_dry_run_contacts_nothing(aws: Service, student: str):
    done = host(student, "--dry-run", sets=("hosting.scale_to_zero=true",))
    assert list(json.loads(done.output))[:3] == ["CreateModel", "CreateEndpointConfig", "CreateEndpoint"]
    assert aws.asked == []


# Bedrock


BEDROCK = ("hosting.kind=bedrock",)


def test_a_model_is_imported_once_used_and_deleted(aws: Service, student: str):
    aws.states["Job"] = ("InProgress", "InProgress", "Completed")
    done = host(student, "--keep", sets=BEDROCK)
    assert done.exit_code == 0, done.output
    assert 'model = "arn:aws:bedrock:us-east-1:123456789012:imported-model/000000000001"' in done.output
    assert 'codec = "converse"' in done.output
    assert host(student, "--keep", sets=BEDROCK).exit_code == 0
    assert aws.asked.count("CreateModelImportJob") == 1
    assert call("unhost", "mine", sets=BEDROCK).exit_code == 0
    assert aws.names("Imported") == []
    assert host(student, "--run", "true", sets=BEDROCK).exit_code == 0
    assert aws.asked.count("CreateModelImportJob") == 2
    assert aws.names("Imported") == []


def test_a_running_import_is_followed_not_started_again(aws: Service, student: str):
    aws.states["Job"] = ("InProgress", "Failed")
    failed = host(student, "--keep", sets=BEDROCK)
    assert failed.exit_code == RunError.exit_status
    assert "the role cannot read the bucket" in failed.output
    aws.states["Job"] = ("InProgress", "InProgress", "Completed")
    host(student, "--keep", sets=BEDROCK)
    aws.things.pop(("Imported", "000000000002"))
    aws.things["Job", "000000000002"].states = ["InProgress", "Completed"]
    assert host(student, "--keep", sets=BEDROCK).exit_code == 0
    assert aws.asked.count("CreateModelImportJob") == 2


def test_another_import_under_the_same_name_is_refused(aws: Service, student: str, bucket: Any):
    host(student, "--keep", sets=BEDROCK)
    other = (*BEDROCK, "hosting.role_arn=arn:aws:iam::123456789012:role/other")
    done = call("host", "mine", "--model", student, "--keep", sets=other)
    assert done.exit_code == ConfigError.exit_status
    assert "is another student or has other settings" in done.output.replace("\n", " ")


# Leftovers


def test_leftovers_are_listed_with_their_cost(aws: Service, student: str):
    assert "no endpoint, imported model or training exists" in call("list").output
    host(student, "--keep")
    aws.things["Endpoint", RESOURCE_NAME].created = time.time() - 10 * 3600
    aws.add(
        "Model", "raft-spark-half", {"ModelName": "raft-spark-half", "Tags": [{"Key": "raft-spark", "Value": "half"}]}
    )
    aws.add("Endpoint", "raft-spark-of-others", {"EndpointName": "raft-spark-of-others", "EndpointConfigName": "x"})
    host(student, "--keep", sets=BEDROCK)
    done = call("list")
    lines = done.output.splitlines()
    assert lines[0].startswith(
        f"endpoint {RESOURCE_NAME}: InService on 1 ml.g5.2xlarge, 10.0 hours, $1.51 an hour, $15.15 so far at most; remove it: raft-spark model unhost mine"
    )
    assert any(line.startswith("Model raft-spark-half: without an endpoint") for line in lines)
    assert any(line.startswith(f"imported model {RESOURCE_NAME}: ") and "price unknown" in line for line in lines)
    assert "of-others" not in done.output
    assert "together $1.51 an hour" in done.output


def test_a_training_is_listed_and_a_kind_that_cannot_be_listed_is_a_line(aws: Service):
    job = {
        "TrainingJobName": "raft-spark-train-1",
        "TrainingJobArn": loopback_sagemaker.arn("training-job", "raft-spark-train-1"),
        "TrainingJobStatus": "InProgress",
        "CreationTime": time.time() - 7200,
        "ResourceConfig": {"InstanceType": "ml.p9.huge", "InstanceCount": 1, "VolumeSizeInGB": 1},
    }
    aws.trainings["raft-spark-train-1"] = job
    aws.refuses["ListInferenceComponents"] = "AccessDeniedException"
    done = call("list")
    assert "training raft-spark-train-1: InProgress, 2.0 hours, price unknown" in done.output
    assert "inference components cannot be listed: " in done.output


def test_an_account_that_cannot_be_read_is_not_reported_as_empty(aws: Service):
    for operation in ("ListEndpoints", "ListInferenceComponents", "ListModels", "ListEndpointConfigs"):
        aws.refuses[operation] = "ExpiredTokenException"
    done = call("list")
    assert "endpoints cannot be listed: " in done.output
    assert "no endpoint, imported model or training exists" not in done.output


# moto's SageMaker


def test_moto_s_sagemaker_takes_the_same_requests(aws: Service, student: str, s3: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", s3)
    sets = ("hosting.instance_type=ml.m5.xlarge",)  # it knows none of the newer ones
    client = boto3.client("sagemaker", endpoint_url=s3)
    for _ in range(2):
        done = host(student, "--keep", sets=sets)
        assert done.exit_code == 0, done.output
    told = client.describe_model(ModelName=RESOURCE_NAME)
    assert told["PrimaryContainer"]["ModelDataSource"]["S3DataSource"]["S3Uri"] == f"{student}/"
    listed = call("list", sets=sets).output
    assert f"endpoint {RESOURCE_NAME}: InService on 1 ml.m5.xlarge" in listed
    for kind in (
        sagemaker_endpoint.ENDPOINT,
        sagemaker_endpoint.CONFIG,
        sagemaker_endpoint.MODEL,
    ):  # it has no inference components to look for
        assert sagemaker_endpoint._remove_and_wait(client, kind, RESOURCE_NAME, print)
    assert [*client.list_endpoints()["Endpoints"], *client.list_models()["Models"]] == []


# Training


def job(state: str, **more: object) -> dict[str, Any]:
    name = "raft-spark-train-1"
    return {
        "TrainingJobName": name,
        "TrainingJobArn": loopback_sagemaker.arn("training-job", name),
        "TrainingJobStatus": state,
        "SecondaryStatus": "Training",
        "BillableTimeInSeconds": 1200,
        "TrainingTimeInSeconds": 3600,
        "ModelArtifacts": {"S3ModelArtifacts": "s3://students/out/students/raft-spark-train-1/output/model/"},
        **more,
    }


def test_a_training_is_followed_to_its_student_and_priced(aws: Service):
    measured = {"MetricName": "eval_loss", "Value": 0.25, "Timestamp": 0}
    aws.trainings["raft-spark-train-1"] = job("Completed", FinalMetricDataList=[measured])
    said: list[str] = []
    student = sagemaker_training.follow(boto3.client("sagemaker"), "raft-spark-train-1", 1.5, said.append)
    assert student == "s3://students/out/students/raft-spark-train-1/output/model/"
    assert "billed 20.0 minutes of 60.0: at most $0.50" in said
    assert "eval_loss=0.25" in said


def test_a_training_that_failed_reports_the_reason(aws: Service):
    aws.trainings["raft-spark-train-1"] = job("Failed", FailureReason="AlgorithmError: out of memory")
    with pytest.raises(RunError, match="Failed: AlgorithmError: out of memory"):
        sagemaker_training.follow(boto3.client("sagemaker"), "raft-spark-train-1", 0.0, print)


def test_a_training_whose_state_cannot_be_read_is_said_to_continue(aws: Service):
    aws.trainings["raft-spark-train-1"] = job("InProgress")
    aws.refuses["DescribeTrainingJob"] = "ExpiredTokenException"
    with pytest.raises(RunError, match=r"cannot be read: .*ExpiredTokenException.*; the job continues"):
        sagemaker_training.follow(boto3.client("sagemaker"), "raft-spark-train-1", 0.0, print)


@pytest.mark.slow
def test_the_sdk_makes_a_legal_request_and_contacts_nobody(tmp_path: Path):
    """Needs `make sagemaker`, as make chaos does it."""
    (tmp_path / "sft_script.py").write_text("")
    (tmp_path / "requirements.txt").write_text("trl")
    plan = {
        "region": "us-east-1",
        "role_arn": ROLE,
        "image": "",
        "output": "s3://students/out",
        "students": "s3://students/out/students",
        "checkpoints": "s3://students/out/checkpoints/1",
        "data": "s3://lake/dataset/",
        "student": "s3://weights/small/",
        "name": "raft-spark-train-1",
        "source": str(tmp_path),
        "requirements": "requirements.txt",
        "command": "python sft_script.py",
        "instance_type": "ml.g5.2xlarge",
        "disk_gb": 100,
        "spot": True,
        "max_seconds": 3600,
        "max_wait_seconds": 7200,
        "tags": {"raft-spark": "training"},
        "metrics": {"train_loss": "train_loss=([0-9.]+)"},
    }
    script = ROOT / "raft_spark/students/sagemaker_launcher.py"
    command = [str(ROOT / "build/env-sagemaker/bin/python"), "-P", str(script), "--dry-run"]
    nowhere = {
        "PATH": os.environ["PATH"],
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "SAGEMAKER_VALIDATE_ROLE": "false",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    done = subprocess.run(command, input=json.dumps(plan), env=nowhere, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    request = json.loads(done.stdout)
    assert aws_model.problems("sagemaker", "CreateTrainingJob", request) == []
    assert request["EnableManagedSpotTraining"] is True
    assert request["OutputDataConfig"]["CompressionType"] == "NONE"
    assert request["CheckpointConfig"]["LocalPath"] == "/opt/ml/checkpoints"
    assert {channel["ChannelName"] for channel in request["InputDataConfig"]} >= {"dataset", "student", "code"}
