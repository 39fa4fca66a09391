"""Build documents for StartJobRun, and check them with the service's own model."""

from pathlib import Path
from typing import Any

from raft_spark import config
from raft_spark.emr import job_run
from raft_spark.emr.release import Release, ReleaseFile
from raft_spark.stages import registry
from support import aws_model

FILES = tuple(f"jobs/{job}.py" for job in registry.JOBS)
ARCHIVES = tuple(f"{kind}-{machine}.tar.gz" for kind in ("environment", "hub") for machine in ("x86_64", "aarch64"))
RELEASE = Release(
    Path("unread"),
    "raft-spark-1.0.0-0123456789ab",
    "1.0.0",
    tuple(ReleaseFile(path, 1, "") for path in (*FILES, *ARCHIVES)),
)
SETTINGS = (
    "lake.root=s3://lake/raft",
    "articles.source=s3://lake/pubmedqa",
    'endpoints.mine={kind="bedrock", model="us.amazon.nova-lite-v1:0"}',
    "completions.endpoint=mine",
    "evaluation.students=mine",
    "emr.application_id=00f1abcdefgh2345",
    "emr.role_arn=arn:aws:iam::123456789012:role/raft-spark-job",
    "emr.code=s3://code/releases/",
)
EVERYTHING = (
    "emr.logs=s3://logs/emr",
    "emr.log_group=/emr-serverless/raft-spark",
    "emr.prometheus_url=https://aps-workspaces.us-east-1.amazonaws.com/workspaces/ws-0a1b/api/v1/remote_write",
    "emr.flex=true",
    "emr.attempts=10",
    'emr.tags={team="data science", "cost:center"="12/3"}',
)


def settled(*assignments: str) -> config.Config:
    return config.load(assignments=[*SETTINGS, *assignments])


def built(*assignments: str, job: str = "refresh", release: Release = RELEASE) -> dict[str, Any]:
    """Return the document that StartJobRun is called with."""
    return job_run.build(settled(*assignments), job, (), release)


def found(made: dict[str, Any]) -> list[str]:
    """Return what the service's own model finds wrong with a job's document."""
    return aws_model.problems("emr-serverless", "StartJobRun", {**made, "clientToken": job_run.client_token(made, "")})
