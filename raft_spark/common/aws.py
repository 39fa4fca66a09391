"""Open boto3 clients that retry, for commands that create, read and delete AWS resources, and turn AWS errors into ConfigError."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from raft_spark.errors import ConfigError

CLIENT_CONFIG = Config(connect_timeout=10, read_timeout=60, retries={"total_max_attempts": 4, "mode": "standard"})
AwsClient = Any  # boto3 creates the classes of its clients at run time


def connect(name: str, region: str = "", url: str = "") -> AwsClient:
    """Open a client for an AWS service; without `region`, in that of AWS's credential chain, without `url`, AWS's own."""
    with config_errors(f"{name} cannot be reached"):
        return boto3.client(name, region_name=region or None, endpoint_url=url or None, config=CLIENT_CONFIG)


def default_region() -> str:
    """Return the region from AWS's environment variables or profile; "" when they name none."""
    return os.environ.get("AWS_REGION") or boto3.Session().region_name or ""


@contextmanager
def config_errors(what: str) -> Iterator[None]:
    """Raise ConfigError, with `what` before the reason, when a call to AWS in the block fails."""
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        msg = f"{what}: {error}"
        raise ConfigError(msg) from error


def list_keys(client: AwsClient, bucket: str, prefix: str) -> list[str]:
    """Return the keys of a bucket that begin with a prefix, 1,000 at most."""
    return [found["Key"] for found in client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])]


def split_uri(uri: str) -> tuple[str, str]:
    """Split s3://bucket/key into bucket and key."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket, key
