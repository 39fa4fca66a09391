"""A release -> objects below emr.code, each written once: what is there with its size is left, and nothing is ever replaced."""

from collections.abc import Callable
from pathlib import Path

from botocore.exceptions import ClientError

from raft_spark.common import aws
from raft_spark.common.aws import AwsClient
from raft_spark.emr.release import LIST, Release
from raft_spark.errors import ConfigError

HIDDEN = frozenset(
    {"403", "404"}
)  # without s3:ListBucket, S3 does not tell what is missing from what is not to be seen
TAKEN = frozenset({"PreconditionFailed", "ConditionalRequestConflict"})


def put(client: AwsClient, release: Release, uri: str, tell: Callable[[str], None]) -> int:
    """Upload what is not there yet, the list of all files last; return the bytes sent.

    Raises ConfigError when an object is another one, or S3 refuses.
    """
    names = [*(file.path for file in release.files), LIST]
    return sum(_put(client, release.folder / name, f"{uri}/{name}", tell) for name in names)


def _put(client: AwsClient, file: Path, uri: str, tell: Callable[[str], None]) -> int:
    size = file.stat().st_size
    there = _size(client, uri)
    if there is None:
        tell(f"uploading {uri}, {size:,} bytes")
        if _is_new(client, file, uri):
            return size
        there = _size(client, uri)  # somebody else was faster, or it is hidden from us
    if there not in {None, size}:
        msg = f"{uri} has {there:,} bytes, and {file} has {size:,}; objects of a release are never replaced: delete it, or take another emr.code"
        raise ConfigError(msg)
    return 0


def _size(client: AwsClient, uri: str) -> int | None:
    bucket, key = aws.split_uri(uri)
    with aws.config_errors(f"{uri} cannot be looked at"):
        try:
            return int(client.head_object(Bucket=bucket, Key=key)["ContentLength"])
        except ClientError as error:
            if error.response["Error"]["Code"] in HIDDEN:
                return None
            raise


def _is_new(client: AwsClient, file: Path, uri: str) -> bool:
    """Write an object if none has its name; return whether it was written."""
    bucket, key = aws.split_uri(uri)
    with aws.config_errors(f"{uri} cannot be written"), file.open("rb") as body:
        try:
            client.put_object(Bucket=bucket, Key=key, Body=body, IfNoneMatch="*")
        except ClientError as error:
            if error.response["Error"]["Code"] in TAKEN:
                return False
            raise
    return True
