"""The door to AWS where things are made, looked at and removed: clients that repeat what passes, and what AWS refuses as one sentence."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from raft_spark.errors import ConfigError

CLIENT_CONFIG = Config(connect_timeout=10, read_timeout=60, retries={"total_max_attempts": 4, "mode": "standard"})
AwsClient = Any  # boto3 makes its clients' classes while it runs


def connect(name: str, region: str = "") -> AwsClient:
    """Open a client with the credentials of AWS's chain, and in its region where none is given."""
    with config_errors(f"{name} cannot be reached"):
        return boto3.client(name, region_name=region or None, config=CLIENT_CONFIG)


def default_region() -> str:
    """Return the region of AWS's chain, "" where it names none."""
    return os.environ.get("AWS_REGION") or boto3.Session().region_name or ""


@contextmanager
def config_errors(what: str) -> Iterator[None]:
    """Turn what AWS refuses into a ConfigError: nothing was started."""
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        msg = f"{what}: {error}"
        raise ConfigError(msg) from error


def split_uri(uri: str) -> tuple[str, str]:
    """Return the bucket and the key of s3://bucket/key."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket, key
