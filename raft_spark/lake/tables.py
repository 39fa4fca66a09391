"""Keep the versions of the lake's tables: open a draft, publish it, find and list versions, sweep what was interrupted.

    ROOT/current.json                          the current version of each table (see refs)
    ROOT/TABLE/versions/ID/manifest.json       names every file with rows, bytes and digest; written after all of them
    ROOT/TABLE/versions/ID/data/split=.../part-00000.parquet
    ROOT/articles/versions/ID/index/split=.../part-00000.parquet   the corpus index of these articles, which base reads
    ROOT/completions/data/day=.../*.parquet    the append-only store of answers, outside of the versions; also in evaluation
                                               and embeddings, which has vectors and no versions
    ROOT/completions/merged/day=.../*.parquet  the answers of small files of data/, merged when a version was published

Each version has its own folder, which one run writes. A task's file name and bytes depend only on its input, so a repeated
task overwrites its file with the same bytes: nothing has to be renamed or cleaned up. A run that was interrupted leaves a
folder without a manifest, which `sweep` deletes when it is old enough.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raft_spark import __version__
from raft_spark.common import ids, logs
from raft_spark.config import Config, Lake
from raft_spark.errors import DamageError, InputError
from raft_spark.lake import parquet, refs
from raft_spark.lake.filesystem import Storage, age_hours
from raft_spark.lake.parquet import DataFile
from raft_spark.lake.schemas import COMPLETIONS

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Version:
    """The content of manifest.json: which files a version consists of, and what it was built from.

    `identity` is a hash of everything that the content depends on; a stage that finds its identity has nothing to do.
    `inputs` maps each table that was read to its version. `counts` are the stage's own sums. `merged_from` maps each
    file of completions that was merged into one of `files` and is not deleted yet to the time when it was merged.
    """

    table: str
    id: str
    identity: str
    inputs: Mapping[str, str]
    counts: Mapping[str, Any]
    files: tuple[DataFile, ...]
    settings: Mapping[str, Any]
    code: str
    run_id: str
    created_at: str
    merged_from: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def data(self) -> list[DataFile]:
        """Return the files that hold the table's rows, without the quarantine."""
        return [file for file in self.files if file.is_data]

    def summary(self) -> dict[str, Any]:
        """Return what a job prints about the version: table, version, counts."""
        return {"table": self.table, "version": self.id, "counts": self.counts}


@dataclass(frozen=True, slots=True)
class Draft:
    """A version that is being written; readers cannot see it before `publish`."""

    table: str
    id: str
    identity: str
    storage: Storage
    previous: str | None


def storage(lake: Lake, table: str) -> Storage:
    """Return the folder of a table."""
    return Storage.of(lake).at(table)


def without_branch(lake: Lake, table: str) -> Lake:
    """Return the lake whose refs hold a table's current version: completions have no branches, since answers are facts."""
    return lake.model_copy(update={"branch": ""}) if table == COMPLETIONS else lake


# Find


def current(lake: Lake, table: str) -> Version | None:
    """Return the published version; None before the first one, and after its folder was deleted."""
    version = _current_id(lake, table)
    return None if version is None else find(lake, table, version)


def require(lake: Lake, table: str) -> Version:
    """Return the published version. Raises InputError that names the stage to run when there is none."""
    version = current(lake, table)
    if version is None:
        raise _missing(lake, table)
    return version


def load(lake: Lake, table: str, version: str) -> Version:
    """Return the version with this id, current or not. Raises InputError that lists the table's versions."""
    found = find(lake, table, version)
    if found is None:
        known = ", ".join(finished_ids(lake, table)) or "none"
        msg = f"{lake.root}/{table} has no version {version!r}; it has: {known}"
        raise InputError(msg)
    return found


def find(lake: Lake, table: str, version: str) -> Version | None:
    """Return the version with this id, or None. Raises DamageError when its manifest cannot be read."""
    path = f"versions/{version}/manifest.json"
    manifest = storage(lake, table).read(path)
    if manifest is None:
        return None
    try:
        return _parsed(manifest)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        msg = (
            f"{lake.root}/{table}/{path} is damaged: its {len(manifest)} bytes are no manifest of a version; restore it from a "
            f"copy, or delete it and run `raft-spark {table}`, which makes the version again"
        )
        raise DamageError(msg) from error


def _parsed(manifest: bytes) -> Version:
    stored = json.loads(manifest)
    files = tuple(DataFile(**{**file, "row_groups": tuple(file["row_groups"])}) for file in stored.pop("files"))
    merged = stored.pop("merged_from", {})
    if isinstance(merged, list):  # of a version before 0.2: names alone
        merged = dict.fromkeys(merged, stored["created_at"])
    return Version(files=files, merged_from=merged, **stored)


def find_existing(lake: Lake, table: str, identity: str) -> Version | None:
    """Return the version with this identity and make it the current one; None when it has to be built.

    So settings that are set back to earlier values give the earlier version, and a version that a crashed run finished
    is not built again.
    """
    now = current(lake, table)
    if now and now.identity == identity:
        return now
    candidates = [version for version in finished_ids(lake, table) if f"-{identity[:8]}-" in version]
    same = [found for found in _undamaged(lake, table, candidates) if found.identity == identity]
    if not same:
        return None
    _make_current(lake, same[-1], _current_id(lake, table))
    return find(lake, table, same[-1].id)  # None when it has expired meanwhile


def history(lake: Lake, table: str) -> list[Version]:
    """Return every finished version, oldest first. One whose manifest is damaged is left out, with a warning."""
    return list(_undamaged(lake, table, finished_ids(lake, table)))


def require_history(lake: Lake, table: str) -> list[Version]:
    """Return every finished version, oldest first. Raises InputError that names the stage to run when there is none."""
    versions = history(lake, table)
    if not versions:
        raise _missing(lake, table)
    return versions


def finished_ids(lake: Lake, table: str) -> list[str]:
    """Return the id of every version that has a manifest, oldest first."""
    files = storage(lake, table).at("versions").list()
    return [file.path.split("/")[0] for file in files if file.path.endswith("/manifest.json")]


def _undamaged(lake: Lake, table: str, versions: Iterable[str]) -> Iterator[Version]:
    for version in versions:
        try:
            found = find(lake, table, version)
        except DamageError as error:
            LOG.warning("version %s of %s is passed over: %s", version, table, error)
        else:
            yield from [found] if found else []  # None: it has expired meanwhile


def files_folder(lake: Lake, version: Version) -> Storage:
    """Return the folder that the paths of the version's files are relative to."""
    at = storage(lake, version.table)
    return at if version.table == COMPLETIONS else at.at("versions", version.id)


def require_files(lake: Lake, version: Version) -> None:
    """List the folder of a version. Raises DamageError when a file with rows is missing or has another size."""
    folder = files_folder(lake, version)
    wrong = _wrong_files(folder, version.data())
    if wrong:
        first, size = wrong[0]
        found = "is missing" if size is None else f"has {size} bytes instead of {first.bytes}"
        more = f" ({len(wrong)} files of the version are damaged)" if len(wrong) > 1 else ""
        msg = (
            f"{folder.root}/{first.path} {found}{more}; restore it from a copy, or delete {lake.root}/{version.table}/versions/"
            f"{version.id}/manifest.json and run `raft-spark {version.table}`, which makes the version again"
        )
        raise DamageError(msg)


def _wrong_files(folder: Storage, files: Sequence[DataFile]) -> list[tuple[DataFile, int | None]]:
    """List the folders of the files; return each file that has another size there, with that size, None if it is missing."""
    names = {file.path.partition("/")[0] for file in files if "/" in file.path}
    sizes = {f"{name}/{file.path}": file.size for name in names for file in folder.at(name).list()}
    if any("/" not in file.path for file in files):
        sizes |= {file.path: file.size for file in folder.list(recursive=False)}
    return [(file, sizes.get(file.path)) for file in files if sizes.get(file.path) != file.bytes]


def answer_files(lake: Lake, table: str = COMPLETIONS) -> list[str]:
    """List the files of a store of answers, each answer once: without those that the current version has merged.

    The version is read first. So a file that it has merged is left out only if the merged one is there to be listed; when
    another version is published in between, both are listed, and neither is deleted for lake.sweep_after_hours.
    """
    version, at = current(lake, table), storage(lake, table)
    merged = version.merged_from if version else {}
    paths = [f"{name}/{file.path}" for name in ("data", "merged") for file in at.at(name).list()]
    return [path for path in paths if path not in merged]


def row_groups(lake: Lake, version: Version) -> list[dict[str, Any]]:
    """Return where each row group of a version is, in order, and its number of rows: the input of bulk stages' tasks.

    Raises DamageError when a file is missing or has another size.
    """
    require_files(lake, version)
    return _located(lake, version, version.data())


def index_row_groups(lake: Lake, version: Version) -> list[dict[str, Any]]:
    """Return where the row groups of the corpus index beside articles are, in the order of the articles.

    A version of an earlier release has none.
    """
    return _located(lake, version, [file for file in version.files if file.is_index])


def _located(lake: Lake, version: Version, files: Iterable[DataFile]) -> list[dict[str, Any]]:
    folder = storage(lake, version.table).at("versions", version.id)
    return [{**group, "table": version.table} for group in parquet.row_groups(folder, files)]


def _current_id(lake: Lake, table: str) -> str | None:
    return refs.read(without_branch(lake, table)).tables.get(table)


def _missing(lake: Lake, table: str) -> InputError:
    return InputError(f"{lake.root} holds no table {table!r}; run `raft-spark {table}` first")


# Write


def identity(*parts: object) -> str:
    """Return a hash of all that a version's content depends on, this package's version included: 16 hexadecimal digits."""
    text = json.dumps([__version__, *parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def open_draft(lake: Lake, table: str, identity: str) -> Draft:
    """Open a new version with a folder that only this run writes; its id sorts after the ids of earlier versions.

    The id also becomes the run_id of this process's log lines.
    """
    version = ids.new_id(identity[:8])
    logs.set_context(run_id=version)
    return Draft(table, version, identity, storage(lake, table).at("versions", version), _current_id(lake, table))


def publish(
    new: Draft,
    conf: Config,
    files: Iterable[DataFile],
    inputs: Mapping[str, Version],
    counts: Mapping[str, Any],
    merged_from: Mapping[str, str] | None = None,
) -> Version:
    """Write the manifest, make the version the current one, then sweep.

    Raises InputError, and leaves the current version, when another run has published since the draft was opened, or when
    a file is not there with all its bytes.
    """
    version = Version(
        table=new.table,
        id=new.id,
        identity=new.identity,
        inputs={table: read.id for table, read in inputs.items()},
        counts=counts,
        files=tuple(sorted(files, key=lambda file: file.path)),
        settings=conf.settings(),
        code=__version__,
        run_id=new.id,
        created_at=ids.now(),
        merged_from=dict(merged_from or {}),
    )
    _require_files(conf.lake, new, version)
    new.storage.write("manifest.json", json.dumps(dataclasses.asdict(version), indent=1).encode())
    _make_current(conf.lake, version, new.previous)
    sweep(conf.lake, new.table)
    return version


def _require_files(lake: Lake, new: Draft, version: Version) -> None:
    """Raise InputError when a file of the version is missing or has another size, as on an executor's own disk."""
    folder = storage(lake, new.table) if new.table == COMPLETIONS else new.storage
    wrong = _wrong_files(folder, version.files)
    if wrong:
        first, size = wrong[0]
        is_there = "is missing" if size is None else f"has {size:,} of {first.bytes:,} bytes"
        msg = (
            f"table {new.table} is not published, because {len(wrong)} of {len(version.files)} files that tasks wrote are "
            f"not in {folder.root}: {first.path} {is_there}; lake.root must be a folder that the driver and all executors "
            "share, or s3://bucket/prefix"
        )
        raise InputError(msg)


def _make_current(lake: Lake, version: Version, previous: str | None) -> None:
    expected = {} if previous is None else {version.table: previous}
    if not refs.compare_and_swap(without_branch(lake, version.table), {version.table: version.id}, expected):
        msg = (
            f"another run published table {version.table} of {lake.root} while this one ran; the other run's version stays "
            f"current, and version {version.id} of this run can be read by its id"
        )
        raise InputError(msg)


def sweep(lake: Lake, table: str) -> list[str]:
    """Delete version folders without a manifest that are older than lake.sweep_after_hours; return their names."""
    folder = storage(lake, table).at("versions")
    ages: dict[str, float] = {}  # of the newest file of each folder, in hours
    finished = set()
    for file in folder.list():
        version, _, name = file.path.partition("/")
        ages[version] = min(ages.get(version, age_hours(file)), age_hours(file))
        if name == "manifest.json":
            finished.add(version)
    expired = [version for version, age in ages.items() if version not in finished and age >= lake.sweep_after_hours]
    for version in expired:
        folder.delete(version)
    return expired
