"""Start a SageMaker training job through the SDK's ModelTrainer: read a plan from standard input, print the name of the
job.

    SDK-PYTHON sagemaker_launcher.py [--dry-run] < plan.json

With --dry-run it contacts nothing and prints the CreateTrainingJob request instead. The Python environment that runs it
has the SageMaker SDK 3 and not raft_spark, so the script imports nothing of raft_spark. sagemaker_training.plan
documents the keys of the plan.
"""

import json
import logging
import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.awsrequest import AWSResponse
from sagemaker.core import image_uris
from sagemaker.core.helper.session_helper import Session
from sagemaker.train import ModelTrainer
from sagemaker.train.configs import (
    CheckpointConfig,
    Compute,
    InputData,
    MetricDefinition,
    OutputDataConfig,
    SourceCode,
    StoppingCondition,
    Tag,
)

PYTORCH, PYTHON = "2.8.0", "py312"  # of the container image
Plan = Mapping[str, Any]


class CapturedRequest(Exception):  # noqa: N818 - no error: the end of a dry run
    """The CreateTrainingJob request that a dry run has built."""


class UnsentSession(Session):  # type: ignore[misc] # its class is unknown where it is not installed
    """A session that uploads nothing and returns where an upload would go."""

    def upload_data(self, path: str, bucket: str, key_prefix: str, **_: object) -> str:
        """Return the S3 URI of the upload."""
        del path
        return f"s3://{bucket}/{key_prefix}"

    def default_bucket(self) -> str:
        """Return the bucket of the plan; the SDK's method contacts S3 to check that it exists."""
        return str(self._default_bucket_name_override)


def main() -> None:
    """Start the job, or print its request."""
    logging.disable(logging.WARNING)
    plan, is_dry = json.load(sys.stdin), "--dry-run" in sys.argv[1:]
    boto = boto3.Session(region_name=plan["region"], **(_fake_credentials() if is_dry else {}))
    if is_dry:
        boto.events.register("before-call", _capture_request)
    bucket = urlsplit(plan["output"]).netloc
    prefix = urlsplit(plan["output"]).path.strip("/")
    session = (UnsentSession if is_dry else Session)(
        boto_session=boto, default_bucket=bucket, default_bucket_prefix=prefix or None
    )
    trainer = build_trainer(plan, session)
    try:
        channels = {"dataset": plan["data"], **({"student": plan["student"]} if plan["student"] else {})}
        data = [InputData(channel_name=name, data_source=uri) for name, uri in channels.items()]
        trainer.train(input_data_config=data, wait=False, logs=False)
    except CapturedRequest as captured:
        json.dump(captured.args[0], sys.stdout, indent=2)
        return
    print(trainer._latest_training_job.training_job_name)  # noqa: SLF001, T201 - train() returns nothing


def build_trainer(plan: Plan, session: Session) -> ModelTrainer:
    """Return the SDK's trainer: one instance, checkpoints in S3, an uncompressed model, metrics read from the log."""
    image = plan["image"] or image_uris.retrieve(
        "pytorch",
        region=plan["region"],
        version=PYTORCH,
        py_version=PYTHON,
        image_scope="training",
        instance_type=plan["instance_type"],
    )
    wait = plan["max_wait_seconds"] if plan["spot"] else None
    trainer = ModelTrainer(
        sagemaker_session=session,
        role=plan["role_arn"],
        base_job_name=plan["name"],
        training_image=image,
        source_code=SourceCode(source_dir=plan["source"], requirements=plan["requirements"], command=plan["command"]),
        compute=Compute(
            instance_type=plan["instance_type"],
            instance_count=1,
            volume_size_in_gb=plan["disk_gb"],
            enable_managed_spot_training=plan["spot"],
        ),
        stopping_condition=StoppingCondition(max_runtime_in_seconds=plan["max_seconds"], max_wait_time_in_seconds=wait),
        output_data_config=OutputDataConfig(s3_output_path=plan["students"], compression_type="NONE"),
        checkpoint_config=CheckpointConfig(s3_uri=plan["checkpoints"], local_path="/opt/ml/checkpoints"),
        tags=[Tag(key=key, value=value) for key, value in plan["tags"].items()],
    )
    return trainer.with_metric_definitions(
        [MetricDefinition(name=name, regex=regex) for name, regex in plan["metrics"].items()]
    )


def _fake_credentials() -> dict[str, str]:
    return {"aws_access_key_id": "nobody", "aws_secret_access_key": "nobody"}


def _capture_request(model: Any, params: Mapping[str, Any], **_: object) -> tuple[AWSResponse, dict[str, Any]]:  # noqa: ANN401
    """Answer in place of AWS: raise CapturedRequest for the training job, return nothing to other calls."""
    if model.name == "CreateTrainingJob":
        raise CapturedRequest(json.loads(params["body"]))
    return AWSResponse("", 200, {}, None), {}


if __name__ == "__main__":
    main()
