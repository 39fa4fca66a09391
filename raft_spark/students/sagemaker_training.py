"""The current dataset -> a training job of SageMaker that runs sft_script.py, started once, followed to its student in S3.

The SDK has a Python of its own (it pins an old pyarrow): sagemaker_launcher.py runs there and gets the plan that is made here.
The same settings and the same dataset are one training: while it goes on it is followed, once it is done its student is named.
"""

import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from raft_spark import __version__, config
from raft_spark.common import aws
from raft_spark.common.aws import AwsClient
from raft_spark.errors import ConfigError, InputError, RunError
from raft_spark.lake import schemas, tables
from raft_spark.students import aws_requests, sagemaker_endpoint, scripts
from raft_spark.students.sagemaker_endpoint import Progress

Plan = dict[str, Any]
FORMAT = "prompt_completion"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
DATA_CHANNEL, STUDENT_CHANNEL = "/opt/ml/input/data/dataset", "/opt/ml/input/data/student"
# What AWS's image of PyTorch lacks, at the versions that sft_script.py is tested with.
REQUIREMENTS = ("accelerate==1.15.0", "datasets==5.2.0", "peft==0.21.2", "transformers==5.23.0", "trl==1.16.0")
# What may change, and the student is the same one.
NOT_IN_IDENTITY = {"role_arn", "instance_type", "disk_gb", "spot", "max_seconds", "max_wait_seconds", "metrics"}
NUMBER = r"([0-9.eE+-]+)"
METRICS = ("train_loss", "eval_loss", "learning_rate", "grad_norm", "step", "epoch", "seconds_per_step")
# The SDK asks IAM about the role, which takes rights that nothing else needs, and tells its makers of each call; neither is wanted.
SDK_SETTINGS = "SchemaVersion: '1.0'\nSageMaker:\n  PythonSDK:\n    Modules:\n      TelemetryOptOut: true\n"


def plan(conf: config.Config, version: tables.Version, region: str) -> Plan:
    """Return what sagemaker_launcher.py reads. Raises ConfigError with all that is wrong, InputError for a dataset without the format."""
    trouble = problems(conf, region)
    if trouble:
        raise ConfigError("\n".join(trouble))
    job, student = conf.training.sagemaker, conf.training.model
    output = job.output.rstrip("/")
    about = {"dataset": version.id, "raft_spark": __version__}
    told = {
        "region": region,
        "role_arn": job.role_arn,
        "image": job.image,
        "output": output,
        "students": f"{output}/students",
        "data": dataset_location(conf.lake, version),
        "student": student if student.startswith("s3://") else "",
        "command": container_command(conf.training, about),
        "instance_type": job.instance_type,
        "disk_gb": job.disk_gb,
        "spot": job.spot,
        "max_seconds": round(job.max_hours * 3600),
        "max_wait_seconds": round(job.max_wait_hours * 3600),
        "metrics": {name: rf"\b{name}={NUMBER}" for name in METRICS},
    }
    learned = {key: value for key, value in told.items() if key not in NOT_IN_IDENTITY}
    identity = aws_requests.digest([learned, scripts.SFT_SCRIPT.read_text(), REQUIREMENTS])
    tags = {
        **job.tags,
        aws_requests.TAG: "training",
        aws_requests.IDENTITY_TAG: identity,
        "raft-spark:dataset": version.id,
    }
    named = {
        "name": f"{aws_requests.TAG}-train-{identity[:12]}",
        "checkpoints": f"{output}/checkpoints/{identity[:12]}",
    }
    return {**told, **named, "tags": tags}


def problems(conf: config.Config, region: str) -> list[str]:
    """Return a sentence for each setting that SageMaker cannot train with."""
    job, student = conf.training.sagemaker, conf.training.model
    missing = [f"training.sagemaker.{name}" for name in ("role_arn", "output") if not getattr(job, name)]
    found = [f"{', '.join(missing)} must be given"] if missing else []
    if not region:
        found.append("no AWS region is known: set training.sagemaker.region, or AWS_DEFAULT_REGION")
    if not (student.startswith("s3://") or (HUB_NAME.fullmatch(student) and not Path(student).exists())):
        found.append(
            f"training.model is {student!r}; SageMaker reads a name on the hub, as OWNER/NAME, or a folder in S3, s3://bucket/prefix"
        )
    return found


def dataset_location(lake: config.Lake, version: tables.Version) -> str:
    """Return where the dataset lies: in S3, or in a folder of this machine, which the SDK uploads below the output."""
    if not any(file.path.startswith(f"{FORMAT}/") for file in version.files):
        msg = f"dataset {version.id} has no format {FORMAT!r}; add it to dataset.formats and run `raft-spark dataset` again"
        raise InputError(msg)
    at = tables.storage(lake, version.table).at("versions", version.id, FORMAT)
    return str(Path(at.path()).absolute()) if at.is_local else f"s3://{at.path()}/"


def container_command(training: config.Training, about: Mapping[str, Any]) -> str:
    """Return the command that the container runs, beside sft_script.py."""
    student = STUDENT_CHANNEL if training.model.startswith("s3://") else training.model
    told = {
        "data": DATA_CHANNEL,
        "model": student,
        "to": "/opt/ml/model",
        "checkpoints": "/opt/ml/checkpoints",
        "settings": json.dumps(training.script_settings()),
        "about": json.dumps(about),
    }
    return shlex.join(
        ["python", scripts.SFT_SCRIPT.name, *(word for name, text in told.items() for word in (f"--{name}", text))]
    )


def region(job: config.TrainingJob) -> str:
    """Return the region of the settings, or of AWS's chain."""
    return job.region or aws.default_region()


def current_plan(conf: config.Config) -> Plan:
    """Return the plan for the lake's current dataset."""
    version = tables.require(conf.lake, schemas.DATASET)
    return plan(conf, version, region(conf.training.sagemaker))


def dry_run_request(conf: config.Config) -> Any:  # noqa: ANN401 - JSON
    """Return what CreateTrainingJob would be sent; nothing is contacted."""
    return json.loads(_run_launcher(conf.training.sagemaker.python, current_plan(conf), "--dry-run"))


def start_or_find(conf: config.Config, tell: Progress) -> str:
    """Start the training or find it; return its name."""
    made = current_plan(conf)
    client = aws.connect("sagemaker", made["region"])
    with aws.config_errors("trainings cannot be listed"):
        pages = client.get_paginator("list_training_jobs").paginate(NameContains=made["name"])
        there = {
            job["TrainingJobName"]: job["TrainingJobStatus"] for page in pages for job in page["TrainingJobSummaries"]
        }
    for state in ("InProgress", "Completed"):
        for name, known in there.items():
            if known == state:
                tell(f"training {name} is there already: nothing was started")
                return str(name)
    name = _run_launcher(conf.training.sagemaker.python, made).split()[-1]
    tell(f"training {name} started")
    return name


def _run_launcher(python: str, made: Plan, *flags: str) -> str:
    """Run sagemaker_launcher.py in the SDK's Python; return what it prints. Raises ConfigError with its last line."""
    with tempfile.TemporaryDirectory() as folder:
        source, settings = Path(folder) / "source", Path(folder) / "sdk.yaml"
        source.mkdir()
        shutil.copy(scripts.SFT_SCRIPT, source)
        (source / "requirements.txt").write_text("\n".join(REQUIREMENTS))
        settings.write_text(SDK_SETTINGS)
        whole = json.dumps({**made, "source": str(source), "requirements": "requirements.txt"})
        ours = {"SAGEMAKER_VALIDATE_ROLE": "false", "SAGEMAKER_ADMIN_CONFIG_OVERRIDE": str(settings)}
        command = [python, "-P", str(scripts.SAGEMAKER_LAUNCHER), *flags]
        try:
            done = subprocess.run(
                command, input=whole, env={**ours, **os.environ}, check=False, capture_output=True, text=True
            )
        except OSError as error:
            msg = f"training.sagemaker.python is {python!r}, which does not run ({error.strerror}); `make sagemaker` makes one"
            raise ConfigError(msg) from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        if "No module named" in last:
            last += f"; {python} lacks the SageMaker SDK: `make sagemaker` makes a Python with it"
        msg = f"the training cannot be started: {last}"
        raise ConfigError(msg)
    return done.stdout


def follow(client: AwsClient, name: str, hourly: float, tell: Progress) -> str:
    """Wait for a training's end; return its student's folder in S3. Raises RunError when it failed, was stopped, or went out of sight."""
    before = ""
    try:
        for told in looks(client, name):
            said = f"{told['TrainingJobStatus']}, {told.get('SecondaryStatus', '')}"
            if said != before:
                tell(f"training {name}: {said}")
            before = said
            if told["TrainingJobStatus"] in {"Completed", "Failed", "Stopped"}:
                return report_end(told, hourly, tell)
    except (ClientError, BotoCoreError) as error:
        msg = f"training {name} cannot be looked at: {error}; it goes on, and the same command follows it"
        raise RunError(msg) from error
    raise AssertionError


def looks(client: AwsClient, name: str) -> Iterator[Mapping[str, Any]]:
    """Yield what SageMaker says of a training, ever less often; SageMaker itself ends one that takes too long."""
    pause = sagemaker_endpoint.FIRST
    for _ in itertools.count():
        yield client.describe_training_job(TrainingJobName=name)
        time.sleep(pause)
        pause = min(sagemaker_endpoint.LONGEST, pause * sagemaker_endpoint.GROWTH)


def report_end(told: Mapping[str, Any], hourly: float, tell: Progress) -> str:
    """Say what a training cost and measured; return its student's folder."""
    paid, took = told.get("BillableTimeInSeconds", 0), told.get("TrainingTimeInSeconds", 0)
    priced = f": at most ${hourly * paid / 3600:,.2f}" if hourly else ""
    tell(f"billed {paid / 60:,.1f} minutes of {took / 60:,.1f}{priced}")
    values = {metric["MetricName"]: metric["Value"] for metric in told.get("FinalMetricDataList", ())}
    if values:
        tell(" ".join(f"{name}={value:.4g}" for name, value in values.items()))
    if told["TrainingJobStatus"] != "Completed":
        msg = f"training {told['TrainingJobName']} {told['TrainingJobStatus']}: {told.get('FailureReason', 'no reason is given')}"
        raise RunError(msg)
    return str(told["ModelArtifacts"]["S3ModelArtifacts"])
