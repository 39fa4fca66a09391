"""Read, write and list the files of a lake on a local disk or an S3 server, on the driver and in tasks.

Every write is atomic: readers see the whole file or none, and a file on a disk is synced before its name appears. A Storage
holds a few strings only, so Spark can send it to workers; each worker opens its own connection, and opens a new one when the
credentials of boto3's chain have changed, since they can expire during a long task.

What cannot be read or written is an InputError that names it; s3.py repeats a call that S3 refuses for the moment. Whole objects
are read and written by boto3, since pyarrow repeats no failed read of under 300 bytes (an error's text does not fit into its
buffer) and its copy_files returns as if it had written when every attempt failed.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import tempfile
import time
import uuid
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.fs as pafs
from botocore.exceptions import BotoCoreError, ClientError

from raft_spark import config
from raft_spark.common import retries
from raft_spark.errors import DamageError, InputError
from raft_spark.lake import s3

_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
FIRST_LISTING_PAUSE = 0.01  # seconds before listing again what another process changes


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

    def elsewhere(self, root: str) -> "Storage":
        """Return another root with the same endpoint and region."""
        return Storage(root, self.endpoint, self.region)

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
        return s3.filesystem(self.endpoint, self.region)

    @property
    def _client(self) -> Any:  # noqa: ANN401 - boto3 creates the classes of its clients at run time
        return s3.client(self.endpoint, self.region)

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes; None when there is no such file. Raises InputError when it cannot be read."""
        with self._named(path, "read"):
            try:
                return Path(self.path(path)).read_bytes() if self.is_local else s3.retried(lambda: self._get(path))
            except FileNotFoundError:
                return None

    def _get(self, path: str) -> bytes:
        bucket, _, key = self.path(path).partition("/")
        try:
            return bytes(self._client.get_object(Bucket=bucket, Key=key)["Body"].read())
        except ClientError as error:
            if s3.code(error) == "NoSuchKey":
                raise FileNotFoundError(key) from error
            raise

    def read_json(self, path: str) -> Any:  # noqa: ANN401 - what the file holds
        """Return the value of a JSON file; None when there is no such file. Raises DamageError when it is no JSON."""
        text = self.read(path)
        if text is None:
            return None
        try:
            return json.loads(text)
        except ValueError as error:
            msg = f"{self.root}/{path} is damaged: {error}, in a file of {len(text)} bytes; restore it from a copy, or delete it"
            raise DamageError(msg) from error

    def open(self, path: str) -> pa.NativeFile:
        """Open a file for reading at any position. Raises InputError when it is missing or cannot be opened."""
        with self._named(path, "read"):
            file = s3.retried(lambda: self.filesystem.open_input_file(self.path(path)))
        return file if self.is_local else s3.retrying(file)

    def write(self, path: str, data: bytes) -> None:
        """Write a file atomically, replacing one that exists."""
        with self.atomic_write(path) as local:
            local.write_bytes(data)

    @contextlib.contextmanager
    def atomic_write(self, path: str) -> Iterator[Path]:
        """Yield a local path to write to, and move that file to `path` when the block ends.

        When the block raises, the local file is deleted and the file at `path` stays as it was. Raises InputError when the
        disk or the server does not take the file.
        """
        name = f".{uuid.uuid4().hex}.tmp"
        local = (Path(self.path(path)).parent if self.is_local else Path(tempfile.gettempdir())) / name
        with self._named(path, "written"):
            _make_folder(local.parent)
        try:
            with self._named(path, "written", _OF_THE_DISK):
                yield local
            with self._named(path, "written"):
                self._replace_local(local, path) if self.is_local else s3.retried(lambda: self._upload(local, path))
        finally:
            with contextlib.suppress(OSError):
                local.unlink(missing_ok=True)

    def _replace_local(self, local: Path, path: str) -> None:
        """Sync the file, give it its name, then sync the folder, so that a power failure takes neither away again."""
        _sync(local)
        local.replace(self.path(path))
        _sync(local.parent)

    def _upload(self, local: Path, path: str) -> None:
        bucket, _, key = self.path(path).partition("/")
        s3.upload(self._client, local, bucket, key)

    @contextlib.contextmanager
    def _named(
        self, path: str, verb: Literal["read", "written", "listed", "deleted"], only: Container[int] | None = None
    ) -> Iterator[None]:
        """Raise InputError that names the file when the disk or the server refuses it; with `only`, for these errors."""
        try:
            yield
        except (OSError, *s3.ERRORS) as error:
            if only is not None and getattr(error, "errno", None) not in only:
                raise
            msg = f"{self.root}/{path}".rstrip("/") + f" cannot be {verb}: {self._reason(error, path)}"
            raise InputError(msg) from error

    def _file_in_the_way(self, path: str = "") -> Path | None:
        """Return the file that is where a folder above `path` must be."""
        folder = Path(self.path(path)).parent if path else Path(self.path())
        return next((each for each in (folder, *folder.parents) if self.is_local and each.is_file()), None)

    def _reason(self, error: Exception, path: str) -> str:
        if file := self._file_in_the_way(path):
            return f"{file} is a file, where a folder must be"
        return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)

    @property
    def is_folder(self) -> bool:
        """Return True when the folder exists (on S3: when an object has this prefix)."""
        return bool(self._info().type == pafs.FileType.Directory)

    def _info(self, path: str = "") -> pafs.FileInfo:
        with self._named(path, "read"):
            return s3.retried(lambda: self.filesystem.get_file_info(self.path(path)))

    def list(self, *, recursive: bool = True) -> list[FileInfo]:
        """Return the files below this folder, or with `recursive=False` directly in it, sorted by path.

        Hidden files, whose names start with a dot, are left out. A folder that does not exist is empty.
        """
        selector = pafs.FileSelector(self.path(), allow_not_found=True, recursive=recursive)
        base = len(self.path().rstrip("/")) + 1
        with self._named("", "listed"):
            found = [info for info in self._infos(selector) if info.type == pafs.FileType.File]
            if not found and self._file_in_the_way():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), self.path())
        files = (FileInfo(info.path[base:], info.size, (info.mtime_ns or 0) / 1e9) for info in found)
        return sorted(
            (file for file in files if not file.path.rpartition("/")[2].startswith(".")), key=lambda f: f.path
        )

    def existing(self, paths: Sequence[str]) -> set[str]:
        """Return which of these files exist; on S3 they are looked for in parallel."""
        with self._named("", "read"):
            infos = s3.retried(lambda: self.filesystem.get_file_info([self.path(path) for path in paths]))
        return {path for path, info in zip(paths, infos, strict=True) if info.type == pafs.FileType.File}

    def paths(self) -> Sequence[str]:
        """Return the paths of all files below this folder, as `list` has them."""
        return [file.path for file in self.list()]

    def _infos(self, selector: pafs.FileSelector) -> Sequence[pafs.FileInfo]:
        """List, and again when another process created or deleted a folder meanwhile: pyarrow does not find it then."""
        infos: Sequence[pafs.FileInfo] = retries.retried(
            lambda: s3.retried(lambda: self.filesystem.get_file_info(selector)),
            (FileNotFoundError,),
            lambda _: True,
            FIRST_LISTING_PAUSE,
        )
        return infos

    def delete(self, path: str) -> None:
        """Delete a file, or a folder with everything below it; do nothing when `path` does not exist."""
        kind = self._info(path).type
        with self._named(path, "deleted"), contextlib.suppress(FileNotFoundError):  # another process was faster
            if kind == pafs.FileType.Directory:
                s3.retried(lambda: self.filesystem.delete_dir(self.path(path)))
            elif kind == pafs.FileType.File:
                s3.retried(lambda: self.filesystem.delete_file(self.path(path)))

    def compare_and_swap(self, path: str, data: bytes, expected: bytes | None) -> bool:
        """Write a file if its bytes still are `expected` (None: if it does not exist), and return whether it was written.

        When several writers expect the same bytes, exactly one of those that write different bytes returns True.
        Raises InputError when the disk or the server refuses.
        """
        return (self._compare_and_swap_local if self.is_local else self._compare_and_swap_s3)(path, data, expected)

    def _compare_and_swap_local(self, path: str, data: bytes, expected: bytes | None) -> bool:
        lock = Path(self.path(path)).with_name("." + path.rpartition("/")[2] + ".lock")
        with self._named(path, "written"):
            _make_folder(lock.parent)
            lock_file = lock.open("w")
        with lock_file:
            fcntl.flock(lock_file, fcntl.LOCK_EX)
            if self.read(path) != expected:
                return False
            self.write(path, data)
            return True

    def _compare_and_swap_s3(self, path: str, data: bytes, expected: bytes | None) -> bool:
        """Use S3's conditional writes: If-None-Match for a new object, If-Match with the ETag read before for an existing one.

        A write that was refused may be the repetition of one that succeeded and whose reply was lost: the object says.
        """
        with self._named(path, "written"):
            try:
                return self._put_if(path, data, expected)
            except (BotoCoreError, ClientError) as error:
                if self.read(path) == data:
                    return True
                if isinstance(error, ClientError) and s3.is_lost_race(error):
                    return False
                raise

    def _put_if(self, path: str, data: bytes, expected: bytes | None) -> bool:
        bucket, _, key = self.path(path).partition("/")
        if expected is None:
            self._client.put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
            return True
        stored, tag = s3.retried(lambda: self._get_tagged(bucket, key))
        if stored != expected:
            return False
        self._client.put_object(Bucket=bucket, Key=key, Body=data, IfMatch=tag)
        return True

    def _get_tagged(self, bucket: str, key: str) -> tuple[bytes, str]:
        stored = self._client.get_object(Bucket=bucket, Key=key)
        return stored["Body"].read(), stored["ETag"]


def _make_folder(folder: Path) -> None:
    """Create a folder and those above it that are missing, and sync each one's parent."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in reversed(missing):
        _sync(each.parent)


def _sync(path: Path) -> None:
    """Write what the system still buffers of a file or folder to the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def sha256(path: Path) -> str:
    """Return the SHA-256 digest of a local file in hexadecimal digits, as sha256sum prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def age_hours(found: FileInfo) -> float:
    """Return how long ago a file was last written, in hours."""
    return (time.time() - found.mtime) / 3600
