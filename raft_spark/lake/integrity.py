"""Compare the files of a version with its manifest: each has its bytes and its SHA-256, or is named."""

import hashlib
from collections.abc import Iterator, Sequence

from raft_spark.config import Lake
from raft_spark.errors import DamageError, InputError
from raft_spark.lake import tables
from raft_spark.lake.filesystem import Storage
from raft_spark.lake.parquet import DataFile
from raft_spark.lake.tables import Version

READ_BYTES = 1 << 23  # at once
NAMED = 3  # damaged files in a message


def intact(lake: Lake, table: str, versions: Sequence[str]) -> Iterator[Version]:
    """Yield each version that is as it was written. Raises DamageError that names all the others at the end."""
    damage = []
    for version in versions:
        try:
            found = tables.load(lake, table, version)
            check(lake, found)
        except DamageError as error:
            damage.append(str(error))
        else:
            yield found
    if damage:
        raise DamageError("\n".join(damage))


def check(lake: Lake, version: Version) -> None:
    """Read every file of a version, the quarantine too. Raises DamageError that names those that differ."""
    at = tables.files_folder(lake, version)
    damage = [f"{at.root}/{file.path} {found}" for file in version.files for found in _damage(at, file)]
    if damage:
        more = f", and {len(damage) - NAMED} more" if len(damage) > NAMED else ""
        msg = (
            f"{len(damage)} of the {len(version.files)} files of {version.table} {version.id} are not as they were written: "
            f"{'; '.join(damage[:NAMED])}{more}; restore them from a copy, or delete {lake.root}/{version.table}/versions/"
            f"{version.id}/manifest.json and run `raft-spark {version.table}`, which makes the version again"
        )
        raise DamageError(msg)


def _damage(at: Storage, file: DataFile) -> Iterator[str]:
    """Yield at most one sentence's end: how the file differs from its manifest."""
    try:
        size, digest = _measure(at, file.path)
    except InputError as error:
        yield "is missing" if isinstance(error.__cause__, FileNotFoundError) else f"cannot be read ({error})"
        return
    if size != file.bytes:
        yield f"has {size} bytes instead of {file.bytes}"
    elif digest != file.sha256:
        yield f"has the SHA-256 {digest[:12]}... instead of {file.sha256[:12]}..."


def _measure(at: Storage, path: str) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with at.open(path) as stream:
        while data := stream.read(READ_BYTES):
            digest.update(data)
            size += len(data)
    return size, digest.hexdigest()
