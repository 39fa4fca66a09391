"""Find the data files of a source: those of a folder, of a glob, or one file.

A name that exists is taken as it is, also when it holds the characters of a glob, such as `articles [v2]`.
"""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import escape

import pyarrow.fs as pafs

from raft_spark.common import wording
from raft_spark.config import Config
from raft_spark.errors import InputError
from raft_spark.lake.filesystem import FileInfo, Storage

PARQUET = (".parquet", ".parq", ".pq")
JSON = (".jsonl", ".ndjson", ".json")
COMPRESSED = (".gz", ".bz2", ".zst", ".lz4", ".xz")  # endings that may follow those of JSON
ENDINGS = (*PARQUET, *JSON, *(json + compressed for json in JSON for compressed in COMPRESSED))
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Listing:
    """The data files of a source, and those that have other endings; hidden files are in neither. Sorted by path."""

    storage: Storage
    files: list[FileInfo]
    ignored: list[FileInfo]


def list_files(conf: Config, source: str) -> Listing:
    """List the files of a folder (at any depth), of one file, or of a glob (each * within one folder).

    Raises InputError when no data file is there, OSError when the folder cannot be listed.
    """
    storage, pattern = _locate(conf, source)
    is_single = pattern == escape(source.rpartition("/")[2])
    found = [
        file
        for file in storage.list(recursive="/" in pattern or "**" in pattern)
        if _matches(file.path, pattern) and (is_single or not re.search(r"(^|/)[._]", file.path))
    ]
    files = [file for file in found if file.path.lower().endswith(ENDINGS)]
    ignored = [file for file in found if not file.path.lower().endswith(ENDINGS)]
    if not files:
        others = f" (only {names(ignored)})" if ignored else ""
        msg = (
            f"articles.source is {source!r}: no Parquet or JSON file is there{others}; it must be a folder or glob with "
            f"files that end in {', '.join((*PARQUET, *JSON))} (JSON also with {', '.join(COMPRESSED)} after it), "
            "hf:OWNER/NAME/CONFIG, or sample:N"
        )
        raise InputError(msg)
    return Listing(storage, files, ignored)


def names(files: list[FileInfo], most: int = 5) -> str:
    """Return the names of files for a sentence, `a.csv, b.txt and 3 more`; "" for none."""
    more = f" and {len(files) - most} more" if len(files) > most else ""
    return ", ".join(wording.visible(file.path) for file in files[:most]) + more


def _locate(conf: Config, source: str) -> tuple[Storage, str]:
    """Return the folder to list, and the pattern that the paths below it must match."""
    steps = source.rstrip("/").split("/")
    for index, name in enumerate(steps):
        if _GLOB.search(name) and _kind(conf, "/".join(steps[: index + 1])) == pafs.FileType.NotFound:
            return _folder(conf, steps[:index]), "/".join(steps[index:])
    if _kind(conf, source) == pafs.FileType.Directory:
        return Storage.of(conf.lake, source), "**"
    return _folder(conf, steps[:-1]), escape(steps[-1])


def _folder(conf: Config, steps: list[str]) -> Storage:
    """Return the folder that these names lead to; [""] is the root of the disk, [] the current folder."""
    return Storage.of(conf.lake, "/".join(steps) or ("/" if steps else "."))


def _kind(conf: Config, path: str) -> pafs.FileType:
    storage = Storage.of(conf.lake, path)
    return storage.filesystem.get_file_info(storage.path()).type


def _matches(path: str, pattern: str) -> bool:
    """Say whether a path matches; ** spans folders, and a name that equals its part of the pattern matches, brackets or not."""
    if "**" in pattern:
        return fnmatchcase(path, pattern)
    steps, parts = path.split("/"), pattern.split("/")
    return len(steps) == len(parts) and all(
        name == part or fnmatchcase(name, part) for name, part in zip(steps, parts, strict=True)
    )
