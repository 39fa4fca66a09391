"""Train a student on the current dataset in a SageMaker training job that runs sft_script.py, and follow the job to its
end.

The SageMaker SDK needs a Python environment of its own, since it pins an old pyarrow. sagemaker_launcher.py runs there
and reads the plan that this module builds. The same settings and the same dataset are one training: a running job is
followed, not started again, and of a completed job the student's folder is returned.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from raft_spark import __version__, config
from raft_spark.common import aws, background
from raft_spark.common.aws import AwsClient
from raft_spark.errors import ConfigError, RunError
from raft_spark.lake import schemas, tables
from raft_spark.students import aws_requests, scripts, train
from raft_spark.students.sagemaker_endpoint import Progress

Plan = dict[str, Any]
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
DATA_CHANNEL, STUDENT_CHANNEL = "/opt/ml/input/data/dataset", "/opt/ml/input/data/student"
# What AWS's image of PyTorch lacks, at the versions that sft_script.py is tested with.
REQUIREMENTS = ("accelerate==1.15.0", "datasets==5.2.0", "peft==0.21.2", "transformers==5.23.0", "trl==1.16.0")
# The parts of a plan that do not change the student.
NOT_IN_IDENTITY = {"role_arn", "instance_type", "disk_gb", "spot", "max_seconds", "max_wait_seconds", "metrics"}
NUMBER = r"([0-9.eE+-]+)"
METRICS = ("train_loss", "eval_loss", "learning_rate", "grad_norm", "step", "epoch", "seconds_per_step")
# Turn off the SDK's telemetry. Its check of the role, which needs permissions for IAM, is off by SAGEMAKER_VALIDATE_ROLE.
SDK_SETTINGS = "SchemaVersion: '1.0'\nSageMaker:\n  PythonSDK:\n    Modules:\n      TelemetryOptOut: true\n"


def plan(conf: config.Config, version: tables.Version, region: str) -> Plan:
    """Return what sagemaker_launcher.py reads.

    Raises ConfigError with every problem, InputError when the dataset lacks the format.
    """
    found = problems(conf, region)
    if found:
        raise ConfigError("\n".join(found))
    job, student = conf.training.sagemaker, conf.training.model
    output = job.output.rstrip("/")
    about = {"dataset": version.id, "raft_spark": __version__}
    contents = {
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
    relevant = {key: value for key, value in contents.items() if key not in NOT_IN_IDENTITY}
    identity = aws_requests.digest([relevant, scripts.SFT_SCRIPT.read_text(), REQUIREMENTS])
    tags = {
        **job.tags,
        aws_requests.TAG: "training",
        aws_requests.IDENTITY_TAG: identity,
        "raft-spark:dataset": version.id,
    }
    names = {
        "name": f"{aws_requests.TAG}-train-{identity[:12]}",
        "checkpoints": f"{output}/checkpoints/{identity[:12]}",
    }
    return {**contents, **names, "tags": tags}


def problems(conf: config.Config, region: str) -> list[str]:
    """Return one sentence for each setting that SageMaker cannot train with."""
    job, student = conf.training.sagemaker, conf.training.model
    missing = [f"training.sagemaker.{name}" for name in ("role_arn", "output") if not getattr(job, name)]
    found = [f"{', '.join(missing)} must be set"] if missing else []
    if not region:
        found.append("no AWS region is set: set training.sagemaker.region or AWS_DEFAULT_REGION")
    if not (student.startswith("s3://") or (HUB_NAME.fullmatch(student) and not Path(student).exists())):
        found.append(
            f"training.model is {student!r}; for SageMaker it must be a name on the hub, OWNER/NAME, or a folder in S3, s3://bucket/prefix"
        )
    return found


def dataset_location(lake: config.Lake, version: tables.Version) -> str:
    """Return the S3 URI of the dataset, or its local folder, which the SDK uploads below the output."""
    at = train.training_data(lake, version)
    return str(Path(at.path()).absolute()) if at.is_local else f"s3://{at.path()}/"


def container_command(training: config.Training, about: Mapping[str, Any]) -> str:
    """Return the command that the container runs in the folder of sft_script.py."""
    student = STUDENT_CHANNEL if training.model.startswith("s3://") else training.model
    arguments = {
        "data": DATA_CHANNEL,
        "model": student,
        "to": "/opt/ml/model",
        "checkpoints": "/opt/ml/checkpoints",
        "settings": json.dumps(training.script_settings()),
        "about": json.dumps(about),
    }
    return shlex.join(
        ["python", scripts.SFT_SCRIPT.name, *(word for name, text in arguments.items() for word in (f"--{name}", text))]
    )


def region(job: config.TrainingJob) -> str:
    """Return training.sagemaker.region, or the default region of the AWS environment, "" when neither is set."""
    return job.region or aws.default_region()


def current_plan(conf: config.Config) -> Plan:
    """Return the plan for the lake's current dataset."""
    version = tables.require(conf.lake, schemas.DATASET)
    return plan(conf, version, region(conf.training.sagemaker))


def dry_run_request(conf: config.Config) -> Any:  # noqa: ANN401 - JSON
    """Return the CreateTrainingJob request that would be sent; nothing is contacted."""
    return json.loads(_run_launcher(conf.training.sagemaker.python, current_plan(conf), "--dry-run"))


def start_or_find(conf: config.Config, tell: Progress) -> str:
    """Start the training unless a job for it is running or completed; return the name of the job."""
    wanted = current_plan(conf)
    client = aws.connect("sagemaker", wanted["region"])
    with aws.config_errors("trainings cannot be listed"):
        pages = client.get_paginator("list_training_jobs").paginate(NameContains=wanted["name"])
        jobs = [job for page in pages for job in page["TrainingJobSummaries"]]
    for status in ("InProgress", "Completed"):
        for job in jobs:
            if job["TrainingJobStatus"] == status:
                tell(f"training {job['TrainingJobName']} is {status} already: nothing was started")
                return str(job["TrainingJobName"])
    name = _run_launcher(conf.training.sagemaker.python, wanted).split()[-1]
    tell(f"training {name} started")
    return name


def _run_launcher(python: str, plan: Plan, *flags: str) -> str:
    """Run sagemaker_launcher.py in the SDK's Python and return its output.

    Raises ConfigError with the last line of its log.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, settings = Path(folder) / "source", Path(folder) / "sdk.yaml"
        source.mkdir()
        shutil.copy(scripts.SFT_SCRIPT, source)
        (source / "requirements.txt").write_text("\n".join(REQUIREMENTS))
        settings.write_text(SDK_SETTINGS)
        text = json.dumps({**plan, "source": str(source), "requirements": "requirements.txt"})
        variables = {"SAGEMAKER_VALIDATE_ROLE": "false", "SAGEMAKER_ADMIN_CONFIG_OVERRIDE": str(settings)}
        command = [python, "-P", str(scripts.SAGEMAKER_LAUNCHER), *flags]
        try:
            done = subprocess.run(
                command, input=text, env={**variables, **os.environ}, check=False, capture_output=True, text=True
            )
        except OSError as error:
            msg = f"training.sagemaker.python is {python!r}, which cannot be run ({error.strerror}); `make sagemaker` creates one"
            raise ConfigError(msg) from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        if "No module named" in last:
            last += f"; {python} lacks the SageMaker SDK; `make sagemaker` creates an environment with it"
        msg = f"the training cannot be started: {last}"
        raise ConfigError(msg)
    return done.stdout


def follow(client: AwsClient, name: str, hourly: float, tell: Progress) -> str:
    """Wait for the end of a training job; return the student's folder in S3.

    SageMaker itself stops a job that takes too long.

    Raises RunError when the job failed, was stopped, or can no longer be read.
    """
    state = ""
    try:
        for job in background.poll(lambda: client.describe_training_job(TrainingJobName=name)):
            before, state = state, f"{job['TrainingJobStatus']}, {job.get('SecondaryStatus', '')}"
            if state != before:
                tell(f"training {name}: {state}")
            if job["TrainingJobStatus"] in {"Completed", "Failed", "Stopped"}:
                return report_end(job, hourly, tell)
    except (ClientError, BotoCoreError) as error:
        msg = (
            f"the state of training {name} cannot be read: {error}; the job continues, and the same command follows it"
        )
        raise RunError(msg) from error
    raise AssertionError


def report_end(job: Mapping[str, Any], hourly: float, tell: Progress) -> str:
    """Report the cost and the metrics of a training job that ended; return the student's folder.

    Raises RunError when it failed.
    """
    billed, elapsed = job.get("BillableTimeInSeconds", 0), job.get("TrainingTimeInSeconds", 0)
    cost = f": at most ${hourly * billed / 3600:,.2f}" if hourly else ""
    tell(f"billed {billed / 60:,.1f} minutes of {elapsed / 60:,.1f}{cost}")
    values = {metric["MetricName"]: metric["Value"] for metric in job.get("FinalMetricDataList", ())}
    if values:
        tell(" ".join(f"{name}={value:.4g}" for name, value in values.items()))
    if job["TrainingJobStatus"] != "Completed":
        msg = f"training {job['TrainingJobName']} {job['TrainingJobStatus']}: {job.get('FailureReason', 'AWS gave no reason')}"
        raise RunError(msg)
    return str(job["ModelArtifacts"]["S3ModelArtifacts"])
