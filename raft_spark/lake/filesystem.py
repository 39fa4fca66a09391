"""Read, write and list the files of a lake on a local disk or an S3 server, on the driver and in tasks.

Every write is atomic: readers see the whole file or none. A Storage holds a few strings only, so Spark can send it to
workers; each worker opens its own connection, and opens a new one when the credentials of boto3's chain have changed, since
they can expire during a long task.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pyarrow.fs as pafs
from botocore.exceptions import BotoCoreError, ClientError

from raft_spark import config
from raft_spark.errors import InputError


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One file of a listing: `path` relative to the listed folder, size in bytes, mtime in seconds since 1970."""

    path: str
    size: int
    mtime: float


@dataclass(frozen=True, slots=True)
class Storage:
    """A folder, or a prefix in a bucket. `endpoint` and `region` are used on S3 only; "" = from AWS's chain."""

    root: str
    endpoint: str = ""
    region: str = ""

    @classmethod
    def of(cls, lake: config.Lake, root: str = "") -> "Storage":
        """Return the lake's root, or another root with the lake's endpoint and region."""
        return cls(root or lake.root, lake.s3_endpoint, lake.s3_region)

    def __reduce__(self) -> tuple[Any, ...]:
        """Give another process an absolute path: an executor has another working directory."""
        return Storage, tuple(self.location().values())

    def location(self) -> dict[str, str]:
        """Return the fields by name, with an absolute path: what `Storage(**location)` needs in another process."""
        root = str(Path(self.root).absolute()) if self.is_local else self.root
        return {"root": root, "endpoint": self.endpoint, "region": self.region}

    @property
    def is_local(self) -> bool:
        """Return True for a folder of this machine, False for a bucket."""
        return "://" not in self.root

    def at(self, *names: str) -> "Storage":
        """Return a folder below this one."""
        return Storage("/".join((self.root, *names)), self.endpoint, self.region)

    def uri(self, path: str = "") -> str:
        """Return the address that Spark takes: file:///... or s3a://..."""
        joined = f"{self.root}/{path}" if path else self.root
        return f"file://{Path(joined).absolute()}" if self.is_local else "s3a://" + joined.partition("://")[2]

    def path(self, path: str = "") -> str:
        """Return the path that `filesystem` takes: an absolute path, or bucket/key."""
        joined = f"{self.root}/{path}" if path else self.root
        return str(Path(joined).absolute()) if self.is_local else joined.partition("://")[2]

    @property
    def filesystem(self) -> pafs.FileSystem:
        """Return pyarrow's file system with credentials that are valid now. Raises InputError when none are found."""
        if self.is_local:
            return pafs.LocalFileSystem()
        return _s3(self.endpoint or _environment_endpoint(), self.region, _credentials())

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes; None when there is no such file."""
        try:
            with self.filesystem.open_input_stream(self.path(path)) as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None

    def write(self, path: str, data: bytes) -> None:
        """Write a file atomically, replacing one that exists."""
        with self.atomic_write(path) as local:
            local.write_bytes(data)

    @contextlib.contextmanager
    def atomic_write(self, path: str) -> Iterator[Path]:
        """Yield a local path to write to, and move that file to `path` when the block ends.

        When the block raises, the local file is deleted and the file at `path` stays as it was.
        """
        name = f".{uuid.uuid4().hex}.tmp"
        local = (Path(self.path(path)).parent if self.is_local else Path(tempfile.gettempdir())) / name
        local.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield local
            if self.is_local:
                local.replace(self.path(path))
            else:
                pafs.copy_files(str(local), self.path(path), pafs.LocalFileSystem(), self.filesystem)
        finally:
            local.unlink(missing_ok=True)

    @property
    def is_folder(self) -> bool:
        """Return True when the folder exists (on S3: when an object has this prefix)."""
        return bool(self.filesystem.get_file_info(self.path()).type == pafs.FileType.Directory)

    def list(self, *, recursive: bool = True) -> list[FileInfo]:
        """Return the files below this folder, or with `recursive=False` directly in it, sorted by path.

        Hidden files, whose names start with a dot, are left out. A folder that does not exist is empty.
        """
        selector = pafs.FileSelector(self.path(), allow_not_found=True, recursive=recursive)
        base = len(self.path().rstrip("/")) + 1
        found = (info for info in self._infos(selector) if info.type == pafs.FileType.File)
        files = (FileInfo(info.path[base:], info.size, (info.mtime_ns or 0) / 1e9) for info in found)
        return sorted(
            (file for file in files if not file.path.rpartition("/")[2].startswith(".")), key=lambda f: f.path
        )

    def _infos(self, selector: pafs.FileSelector, tries: int = 5) -> Sequence[pafs.FileInfo]:
        try:
            infos: Sequence[pafs.FileInfo] = self.filesystem.get_file_info(selector)
        except FileNotFoundError:  # another process created or deleted a folder while pyarrow listed
            if tries == 1:
                raise
            return self._infos(selector, tries - 1)
        return infos

    def delete(self, path: str) -> None:
        """Delete a file, or a folder with everything below it; do nothing when `path` does not exist."""
        info = self.filesystem.get_file_info(self.path(path))
        if info.type == pafs.FileType.Directory:
            self.filesystem.delete_dir(self.path(path))
        elif info.type == pafs.FileType.File:
            self.filesystem.delete_file(self.path(path))

    def compare_and_swap(self, path: str, data: bytes, expected: bytes | None) -> bool:
        """Write a file if its bytes still are `expected` (None: if it does not exist), and return whether it was written.

        When several writers expect the same bytes, exactly one of them returns True.
        """
        return (self._compare_and_swap_local if self.is_local else self._compare_and_swap_s3)(path, data, expected)

    def _compare_and_swap_local(self, path: str, data: bytes, expected: bytes | None) -> bool:
        lock = Path(self.path(path)).with_name("." + path.rpartition("/")[2] + ".lock")
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("w") as lock_file:
            fcntl.flock(lock_file, fcntl.LOCK_EX)
            if self.read(path) != expected:
                return False
            self.write(path, data)
            return True

    def _compare_and_swap_s3(self, path: str, data: bytes, expected: bytes | None) -> bool:
        """Use S3's conditional writes: If-None-Match for a new object, If-Match with the ETag read before for an existing one."""
        bucket, _, key = self.path(path).partition("/")
        client = boto3.client("s3", endpoint_url=self.endpoint or None, region_name=self.region or None)
        try:
            if expected is None:
                client.put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
                return True
            stored = client.get_object(Bucket=bucket, Key=key)
            if stored["Body"].read() != expected:
                return False
            client.put_object(Bucket=bucket, Key=key, Body=data, IfMatch=stored["ETag"])
        except ClientError as error:
            if error.response["Error"]["Code"] in {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"}:
                return False
            msg = f"{self.root}/{path} cannot be written: {error}"
            raise InputError(msg) from error
        return True


def sha256(path: Path) -> str:
    """Return the SHA-256 digest of a local file in hexadecimal digits, as sha256sum prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
def _session() -> boto3.Session:
    return boto3.Session()


@functools.lru_cache(maxsize=4)
def _s3(endpoint: str, region: str, credentials: tuple[str, str, str]) -> pafs.FileSystem:
    access_key, secret_key, token = credentials
    address = urlsplit(endpoint)
    server = {"endpoint_override": address.netloc, "scheme": address.scheme} if endpoint else {}
    region = region or os.environ.get("AWS_REGION", "") or _session().region_name or "us-east-1"
    return pafs.S3FileSystem(
        access_key=access_key, secret_key=secret_key, session_token=token or None, region=region, **server
    )


def age_hours(found: FileInfo) -> float:
    """Return how long ago a file was last written, in hours."""
    return (time.time() - found.mtime) / 3600
