"""A lake's root -> its files, on a local disk or an S3 server: the one door of driver and workers to storage.

Every object appears whole or not at all. A Place is a few strings, so it travels to workers; the connection is opened
where it is used, with credentials taken from boto3's chain anew when they have changed (they expire in long tasks).
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
from urllib.parse import urlsplit

import boto3
import pyarrow.fs as pafs
from botocore.exceptions import BotoCoreError, ClientError

from raft_spark import config
from raft_spark.errors import InputError


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One file of a listing: `path` relative to the place, size in bytes, mtime in seconds since 1970."""

    path: str
    size: int
    mtime: float


@dataclass(frozen=True, slots=True)
class Storage:
    """A folder, or a prefix in a bucket. `endpoint` and `region` only matter on S3; "" = as AWS's chain says."""

    root: str
    endpoint: str = ""
    region: str = ""

    @classmethod
    def of(cls, lake: config.Lake, root: str = "") -> "Storage":
        """Return the lake's root, or another root reached the same way."""
        return cls(root or lake.root, lake.s3_endpoint, lake.s3_region)

    @property
    def is_local(self) -> bool:
        """Say whether this is a disk of this machine."""
        return "://" not in self.root

    def at(self, *names: str) -> "Storage":
        """Return the place below."""
        return Storage("/".join((self.root, *names)), self.endpoint, self.region)

    def uri(self, path: str = "") -> str:
        """Return the address for Spark: file:/... or s3a://..."""
        joined = f"{self.root}/{path}" if path else self.root
        return f"file://{Path(joined).absolute()}" if self.is_local else "s3a://" + joined.partition("://")[2]

    def path(self, path: str = "") -> str:
        """Return the name that `filesystem` knows: an absolute path, or bucket/key."""
        joined = f"{self.root}/{path}" if path else self.root
        return str(Path(joined).absolute()) if self.is_local else joined.partition("://")[2]

    @property
    def filesystem(self) -> pafs.FileSystem:
        """Return the file system, with credentials that are valid now. Raises InputError where there are none."""
        if self.is_local:
            return pafs.LocalFileSystem()
        return _s3(self.endpoint or _named_endpoint(), self.region, _credentials())

    def read(self, path: str) -> bytes | None:
        """Return an object's bytes, None where there is none."""
        try:
            with self.filesystem.open_input_stream(self.path(path)) as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None

    def write(self, path: str, data: bytes) -> None:
        """Store one whole object, replacing what was there."""
        with self.atomic_write(path) as local:
            local.write_bytes(data)

    @contextlib.contextmanager
    def atomic_write(self, path: str) -> Iterator[Path]:
        """Lend a local file to write; when the block ends well it becomes the object at `path`, else nothing does."""
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
        """Say whether a folder is there (on S3: whether anything has this prefix)."""
        return bool(self.filesystem.get_file_info(self.path()).type == pafs.FileType.Directory)

    def list(self, *, recursive: bool = True) -> list[FileInfo]:
        """List every file below (not `deep`: every file right here), hidden ones left out, sorted by path."""
        selector = pafs.FileSelector(self.path(), allow_not_found=True, recursive=recursive)
        base = len(self.path().rstrip("/")) + 1
        found = (info for info in self._infos(selector) if info.type == pafs.FileType.File)
        mtime = 1e9
        files = (FileInfo(info.path[base:], info.size, (info.mtime_ns or 0) / mtime) for info in found)
        return sorted(
            (file for file in files if not file.path.rpartition("/")[2].startswith(".")), key=lambda f: f.path
        )

    def _infos(self, selector: pafs.FileSelector, tries: int = 5) -> Sequence[pafs.FileInfo]:
        try:
            infos: Sequence[pafs.FileInfo] = self.filesystem.get_file_info(selector)
        except FileNotFoundError:  # a folder came or went while pyarrow looked
            if tries == 1:
                raise
            return self._infos(selector, tries - 1)
        return infos

    def delete(self, path: str) -> None:
        """Delete one file, or a folder with all below; what is not there is no error."""
        info = self.filesystem.get_file_info(self.path(path))
        if info.type == pafs.FileType.Directory:
            self.filesystem.delete_dir(self.path(path))
        elif info.type == pafs.FileType.File:
            self.filesystem.delete_file(self.path(path))

    def compare_and_swap(self, path: str, data: bytes, expected: bytes | None) -> bool:
        """Replace an object only if it still is `expected` (None = not there yet): of two writers one wins."""
        return (self._compare_and_swap_local if self.is_local else self._compare_and_swap_s3)(path, data, expected)

    def _compare_and_swap_local(self, path: str, data: bytes, expected: bytes | None) -> bool:
        lock = Path(self.path(path)).with_name("." + path.rpartition("/")[2] + ".lock")
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            if self.read(path) != expected:
                return False
            self.write(path, data)
            return True

    def _compare_and_swap_s3(self, path: str, data: bytes, expected: bytes | None) -> bool:
        """Use S3's conditional PUT: If-None-Match for the first, If-Match with the MD5 ETag of a small object after."""
        bucket, _, key = self.path(path).partition("/")
        client = boto3.client("s3", endpoint_url=self.endpoint or None, region_name=self.region or None)
        try:
            if expected is None:
                client.put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
                return True
            there = client.get_object(Bucket=bucket, Key=key)
            if there["Body"].read() != expected:
                return False
            client.put_object(Bucket=bucket, Key=key, Body=data, IfMatch=there["ETag"])
        except ClientError as error:
            if error.response["Error"]["Code"] in {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"}:
                return False
            raise _translated(self, path, error) from error
        return True


def sha256(path: Path) -> str:
    """Return the digest of a local file, as sha256sum prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _translated(place: Storage, path: str, error: Exception) -> InputError:
    return InputError(f"{place.root}/{path} cannot be written: {error}")


def _named_endpoint() -> str:
    """Return where S3 is by the environment, which boto3 and newer pyarrow take by themselves; "" = AWS."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")


def _credentials() -> tuple[str, str, str]:
    """Take the credentials that are valid now from boto3's chain, which renews those that expire."""
    try:
        found = _session().get_credentials()
    except BotoCoreError as error:
        msg = f"no AWS credentials: {error}"
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
    endpoint = (
        endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    )  # as boto3 does
    address = urlsplit(endpoint)
    other = {"endpoint_override": address.netloc, "scheme": address.scheme} if endpoint else {}
    region = region or os.environ.get("AWS_REGION", "") or _session().region_name or "us-east-1"
    return pafs.S3FileSystem(
        access_key=access_key, secret_key=secret_key, session_token=token or None, region=region, **other
    )


def age_hours(found: FileInfo) -> float:
    """Return how long ago a file was written."""
    return (time.time() - found.mtime) / 3600
