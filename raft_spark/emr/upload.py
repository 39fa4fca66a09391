"""Upload a release to S3 below emr.code. An object is written once, by a conditional write, and never replaced."""

from collections.abc import Callable
from pathlib import Path

from botocore.exceptions import ClientError

from raft_spark.common import aws
from raft_spark.common.aws import AwsClient
from raft_spark.emr.release import MANIFEST, Release
from raft_spark.errors import ConfigError

NOT_FOUND = frozenset({"403", "404"})  # without s3:ListBucket, S3 answers 403 for a missing object
ALREADY_EXISTS = frozenset({"PreconditionFailed", "ConditionalRequestConflict"})


def upload_release(client: AwsClient, release: Release, uri: str, say: Callable[[str], None]) -> int:
    """Upload the files that are missing, the manifest last; return the bytes sent.

    Raises ConfigError when an object exists with another size, or when S3 refuses.
    """
    names = [*(file.path for file in release.files), MANIFEST]
    return sum(_upload_file(client, release.folder / name, f"{uri}/{name}", say) for name in names)


def _upload_file(client: AwsClient, file: Path, uri: str, say: Callable[[str], None]) -> int:
    size = file.stat().st_size
    existing = _size(client, uri)
    if existing is None:
        say(f"uploading {uri}, {size:,} bytes")
        if _create(client, file, uri):
            return size
        existing = _size(client, uri)  # another upload was faster, or reading is not allowed
    if existing not in {None, size}:
        msg = f"{uri} has {existing:,} bytes, and {file} has {size:,}; objects of a release are never replaced: delete it, or set another emr.code"
        raise ConfigError(msg)
    return 0


def _size(client: AwsClient, uri: str) -> int | None:
    bucket, key = aws.split_uri(uri)
    with aws.config_errors(f"{uri} cannot be read"):
        try:
            return int(client.head_object(Bucket=bucket, Key=key)["ContentLength"])
        except ClientError as error:
            if error.response["Error"]["Code"] in NOT_FOUND:
                return None
            raise


def _create(client: AwsClient, file: Path, uri: str) -> bool:
    """Write an object unless it exists; return whether it was written."""
    bucket, key = aws.split_uri(uri)
    with aws.config_errors(f"{uri} cannot be written"), file.open("rb") as body:
        try:
            client.put_object(Bucket=bucket, Key=key, Body=body, IfNoneMatch="*")
        except ClientError as error:
            if error.response["Error"]["Code"] in ALREADY_EXISTS:
                return False
            raise
    return True
