"""Keep answers that the store refused on the driver's machine, and store them when the next run begins there.

    TEMPORARY FOLDER/raft-spark-USER/unstored/HASH OF THE STORE'S ADDRESS/data/day=YYYY-MM-DD/*.parquet

A task returns the answers that it could not store to the driver, since an executor's disk may be lost with the executor.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from raft_spark.errors import InputError
from raft_spark.inference.answer_store import STORE_ERRORS, AnswerFile
from raft_spark.lake import lease
from raft_spark.lake.filesystem import Storage


@dataclass(frozen=True, slots=True)
class Rescued:
    """What became of answers that the tasks could not store: the files that are `stored` now, and how many answers are `kept`."""

    stored: tuple[AnswerFile, ...]
    kept: int


def folder(storage: Storage) -> Storage:
    """Return where answers are kept that the store at `storage` refused."""
    address = hashlib.sha256(storage.path().encode()).hexdigest()[:16]
    return Storage(f"{_user_folder()}/unstored/{address}")


def _user_folder() -> Path:
    """Return a folder that only this user may read and write."""
    return Path(tempfile.gettempdir(), f"raft-spark-{os.getuid()}")


def _is_own(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and path.stat().st_uid == os.getuid()


def rescue(storage: Storage, files: Iterable[AnswerFile]) -> Rescued:
    """Write files that a task could not write: to the store once more, else to the folder of this machine."""
    stored, kept = [], 0
    for file in files:
        if lease.is_present(storage) and _try_write(storage, file):
            stored.append(file)
        elif _try_keep(storage, file):
            kept += file.answered
    return Rescued(tuple(stored), kept)


def restore(storage: Storage) -> int:
    """Move the files that an earlier run kept on this machine into the store; return their number.

    Raises InputError when the store refuses them again; they stay where they are.
    """
    kept = folder(storage)
    files = kept.list() if _is_own(_user_folder()) else []
    for file in files:
        try:
            storage.write(file.path, kept.read(file.path) or b"")
        except STORE_ERRORS as error:
            msg = f"answers of an earlier run, kept in {kept.root}, cannot be stored in {storage.root}: {error}; nothing was sent"
            raise InputError(msg) from error
        kept.delete(file.path)
    return len(files)


def _try_write(storage: Storage, file: AnswerFile) -> bool:
    try:
        storage.write(file.path, file.data)
    except STORE_ERRORS:
        return False
    return True


def _try_keep(storage: Storage, file: AnswerFile) -> bool:
    try:
        _user_folder().mkdir(mode=0o700, exist_ok=True)
    except OSError:
        return False
    return _is_own(_user_folder()) and _try_write(folder(storage), file)
