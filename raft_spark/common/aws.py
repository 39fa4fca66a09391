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


def read_object(client: AwsClient, uri: str, *, is_needed: bool) -> bytes | None:
    """Return the content of an object of S3; None if it is missing and not needed. Raises ConfigError otherwise.

    Without s3:ListBucket, S3 says AccessDenied of a missing object.
    """
    bucket, key = split_uri(uri)
    with config_errors(f"{uri} cannot be read"):
        try:
            return bytes(client.get_object(Bucket=bucket, Key=key)["Body"].read())
        except ClientError as error:
            if not is_needed and error.response["Error"]["Code"] in {"NoSuchKey", "AccessDenied"}:
                return None
            raise


def split_uri(uri: str) -> tuple[str, str]:
    """Split s3://bucket/key into bucket and key."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket, key
