"""Open connections to S3 with the credentials of boto3's chain, and repeat a call that S3 refuses for the moment.

Such a call ends with 500, 503 or a lost connection. filesystem.py alone uses this module. boto3 is imported where it is
called, since that takes a tenth of a second and a lake on a disk does not need it.
"""

import functools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs
from botocore.exceptions import BotoCoreError, ClientError

from raft_spark.common import retries
from raft_spark.errors import InputError

FIRST_PAUSE = 0.1  # seconds, after a call that failed as a whole
S3_ATTEMPTS = 5  # of one request, within a client
ERRORS = (BotoCoreError, ClientError)
_FINAL = re.compile(
    r"ACCESS_DENIED|AccessDenied|NO_SUCH_BUCKET|NoSuchBucket|EXPIRED|Expired|INVALID|Invalid|SIGNATURE|Signature"
)
_LOST_RACES = {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"}
_T = TypeVar("_T")


def filesystem(endpoint: str, region: str) -> pafs.FileSystem:
    """Return pyarrow's file system with credentials that are valid now. Raises InputError when none are found."""
    return _filesystem(endpoint or _environment_endpoint(), region, _credentials())


def client(endpoint: str, region: str) -> Any:  # noqa: ANN401 - boto3 creates the classes of its clients at run time
    """Return boto3's client with credentials that are valid now. Raises InputError when none are found."""
    return _client(endpoint or _environment_endpoint(), region, _credentials())


def upload(client: Any, local: Path, bucket: str, key: str) -> None:  # noqa: ANN401 - as `client` returns it
    """Upload a file, in parts if it is large. Raises OSError when S3 does not take it."""
    from boto3.exceptions import S3UploadFailedError  # noqa: PLC0415 - see above

    try:
        client.upload_file(str(local), bucket, key)
    except S3UploadFailedError as error:
        msg = f"AWS Error: {error}"
        raise OSError(msg) from error


def retrying(file: pa.NativeFile) -> pa.NativeFile:
    """Return an open file of S3 as one that repeats a read that fails for the moment."""
    return pa.PythonFile(_RetryingFile(file), mode="r")


class _RetryingFile:
    """The methods that pa.PythonFile calls."""

    def __init__(self, file: pa.NativeFile) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        start = self._file.tell()

        def read() -> bytes:
            self._file.seek(start)
            return bytes(self._file.read(None if size < 0 else size))

        return retried(read)

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        self._file.close()

    @property
    def closed(self) -> bool:
        return bool(self._file.closed)


def retried(call: Callable[[], _T]) -> _T:
    """Call again, after growing pauses, while S3 fails for the moment; return the result, or raise the last error."""
    return retries.retried(call, (OSError, *ERRORS), _is_transient, FIRST_PAUSE)


def _is_transient(error: Exception) -> bool:
    """Say whether the same call may succeed in a moment: an error of S3, or of the way there, that is no final refusal."""
    if isinstance(error, OSError) and "AWS Error" not in str(error):
        return False
    return not isinstance(error, FileNotFoundError) and not _FINAL.search(str(error))


def code(error: ClientError) -> str:
    """Return the error code of S3, such as NoSuchKey."""
    return str(error.response["Error"]["Code"])


def is_lost_race(error: ClientError) -> bool:
    """Say whether a conditional write was refused because another writer was faster."""
    return code(error) in _LOST_RACES


def _environment_endpoint() -> str:
    """Return the S3 endpoint that the environment names, "" = AWS. boto3 reads these variables itself, old pyarrow does not."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")


def _credentials() -> tuple[str, str, str]:
    """Return access key, secret key and token from boto3's chain, which renews those that expire."""
    try:
        found = _session().get_credentials()
    except BotoCoreError as error:
        msg = f"no AWS credentials can be read: {error}; set AWS_PROFILE or AWS_ACCESS_KEY_ID, or use a role"
        raise InputError(msg) from error
    if found is None:
        msg = "no AWS credentials were found; set AWS_PROFILE or AWS_ACCESS_KEY_ID, or use a role"
        raise InputError(msg)
    frozen = found.get_frozen_credentials()
    return frozen.access_key, frozen.secret_key, frozen.token or ""


@functools.cache
def _session() -> Any:  # noqa: ANN401 - boto3 is imported here, see above
    import boto3  # noqa: PLC0415

    return boto3.Session()


@functools.lru_cache(maxsize=4)
def _filesystem(endpoint: str, region: str, credentials: tuple[str, str, str]) -> pafs.FileSystem:
    access_key, secret_key, token = credentials
    address = urlsplit(endpoint)
    server = {"endpoint_override": address.netloc, "scheme": address.scheme} if endpoint else {}
    return pafs.S3FileSystem(
        access_key=access_key,
        secret_key=secret_key,
        session_token=token or None,
        region=region or _default_region(),
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS),
        **server,
    )


@functools.lru_cache(maxsize=4)
def _client(endpoint: str, region: str, credentials: tuple[str, str, str]) -> Any:  # noqa: ANN401 - made at run time
    import boto3  # noqa: PLC0415 - see above
    from botocore.config import Config  # noqa: PLC0415

    access_key, secret_key, token = credentials
    return boto3.Session().client(
        "s3",
        endpoint_url=endpoint or None,
        region_name=region or _default_region(),
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        aws_session_token=token or None,
        config=Config(retries={"mode": "standard", "total_max_attempts": S3_ATTEMPTS}),
    )


def _default_region() -> str:
    return os.environ.get("AWS_REGION", "") or str(_session().region_name or "us-east-1")
