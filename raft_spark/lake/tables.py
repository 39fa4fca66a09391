"""Tables of the lake: versions, files and rows. The only place that knows how a table is kept.

    ROOT/current.json                          which version of each table is current (see pointers)
    ROOT/TABLE/versions/ID/manifest.json       written last but the pointer: names every file with rows, bytes, digest
    ROOT/TABLE/versions/ID/data/split=.../part-00000.parquet
    ROOT/completions/data/day=.../*.parquet    the append-only store, outside of its versions; so in evaluation

A version's folder belongs to the run that makes it, and a task's file is a function of the input, so a repeated task
writes the same bytes to the same name: there is nothing to rename and nothing to clean up when all goes well. What an
interrupted run left has no manifest; `sweep` deletes it when it is old enough.
"""

import dataclasses
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from raft_spark import __version__
from raft_spark.common import ids, logs
from raft_spark.config import Config, Lake
from raft_spark.errors import InputError
from raft_spark.lake import refs
from raft_spark.lake.filesystem import Storage, age_hours
from raft_spark.lake.parquet import DataFile, fill_columns, read_row_group
from raft_spark.lake.schemas import COMPLETIONS, DATASET, SCHEMAS, SPLITS

LINES_BYTES = 1 << 18  # of JSON Lines, read at once


@dataclass(frozen=True, slots=True)
class Version:
    """What manifest.json holds: the list of files that is this version, and where it comes from.

    `identity` is a hash of everything the content depends on: same identity, nothing to do. `inputs` names the versions
    read, by table. `counts` are the stage's own sums. `merged_from` names files that became part of others with it.
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
    merged_from: tuple[str, ...] = ()

    def data(self) -> list[DataFile]:
        """Return the files of the table itself, without quarantine."""
        return [file for file in self.files if file.path.startswith("data/")]

    def summary(self) -> dict[str, Any]:
        """Return what a job prints of it."""
        return {"table": self.table, "version": self.id, "counts": self.counts}


@dataclass(frozen=True, slots=True)
class Draft:
    """A version that is being written; nobody sees it before `publish`."""

    table: str
    id: str
    identity: str
    storage: Storage
    previous: str | None


def storage(lake: Lake, table: str) -> Storage:
    """Return the folder of a table."""
    return Storage.of(lake).at(table)


def current(lake: Lake, table: str) -> Version | None:
    """Return the published version, None before the first, and when its folder was deleted."""
    pointed = _pointed(lake, table)
    return None if pointed is None else find(lake, table, pointed)


def _pointed(lake: Lake, table: str) -> str | None:
    return refs.read(without_branch(lake, table)).tables.get(table)


def without_branch(lake: Lake, table: str) -> Lake:
    """Return the lake whose pointers a table goes by: answers are facts, so they are in no branch."""
    return lake.model_copy(update={"branch": ""}) if table == COMPLETIONS else lake


def require(lake: Lake, table: str) -> Version:
    """Return the published version. Raises InputError that names the stage to run when there is none."""
    version = current(lake, table)
    if version is None:
        raise _missing(lake, table)
    return version


def _missing(lake: Lake, table: str) -> InputError:
    return InputError(f"{lake.root} holds no table {table!r}; run `raft-spark {table}` first")


def load(lake: Lake, table: str, version: str) -> Version:
    """Return any version, also an old one. Raises InputError that lists the versions when there is no such one."""
    there = find(lake, table, version)
    if there is None:
        known = ", ".join(finished_ids(lake, table)) or "none"
        msg = f"{lake.root}/{table} has no version {version!r}; it has: {known}"
        raise InputError(msg)
    return there


def find(lake: Lake, table: str, version: str) -> Version | None:
    """Return a version, None where there is no such one."""
    manifest = storage(lake, table).read(f"versions/{version}/manifest.json")
    if manifest is None:
        return None
    stored = json.loads(manifest)
    files = tuple(DataFile(**{**file, "row_groups": tuple(file["row_groups"])}) for file in stored.pop("files"))
    return Version(files=files, merged_from=tuple(stored.pop("merged_from", ())), **stored)


def history(lake: Lake, table: str) -> list[Version]:
    """Return every version that was finished, oldest first."""
    return [load(lake, table, name) for name in finished_ids(lake, table)]


def require_history(lake: Lake, table: str) -> list[Version]:
    """Return every version that was finished, oldest first. Raises InputError, as `needed`, when there is none."""
    versions = history(lake, table)
    if not versions:
        raise _missing(lake, table)
    return versions


def finished_ids(lake: Lake, table: str) -> list[str]:
    """Return the id of every version that was finished, oldest first."""
    found = storage(lake, table).at("versions").list()
    return [file.path.split("/")[0] for file in found if file.path.endswith("/manifest.json")]


def find_existing(lake: Lake, table: str, identity: str) -> Version | None:
    """Return the version of this identity, made current if it is not: what was made before is not made again.

    So settings that are set back give the old version, and what a run that died had finished is used.
    """
    now = current(lake, table)
    if now and now.identity == identity:
        return now
    named = [name for name in finished_ids(lake, table) if f"-{identity[:8]}-" in name]
    same = [version for name in named if (version := load(lake, table, name)).identity == identity]
    if not same:
        return None
    _point(lake, same[-1], _pointed(lake, table))
    return find(lake, table, same[-1].id)  # None: it expired just now


def identity(*parts: object) -> str:
    """Name all that a version's content depends on, this package's version included: 16 hexadecimal digits."""
    text = json.dumps([__version__, *parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def open_draft(lake: Lake, table: str, identity: str) -> Draft:
    """Open a new version; its folder is this run's alone, and its name sorts after those of the versions before it.

    From here on the run is known by this name, also in its lines.
    """
    name = ids.new_id(identity[:8])
    logs.set_context(run_id=name)
    folder = storage(lake, table)
    return Draft(table, name, identity, folder.at("versions", name), _pointed(lake, table))


def publish(
    new: Draft,
    conf: Config,
    files: Iterable[DataFile],
    inputs: Mapping[str, Version],
    counts: Mapping[str, Any],
    merged_from: Sequence[str] = (),
) -> Version:
    """Write the manifest, then move the pointer, then sweep.

    Raises InputError, and leaves the pointer, when another run has published since the draft was opened.
    """
    version = Version(
        table=new.table,
        id=new.id,
        identity=new.identity,
        inputs={name: found.id for name, found in inputs.items()},
        counts=counts,
        files=tuple(sorted(files, key=lambda file: file.path)),
        settings=conf.settings(),
        code=__version__,
        run_id=new.id,
        created_at=ids.now(),
        merged_from=tuple(merged_from),
    )
    new.storage.write("manifest.json", json.dumps(dataclasses.asdict(version), indent=1).encode())
    _point(conf.lake, version, new.previous)
    sweep(conf.lake, new.table)
    return version


def _point(lake: Lake, version: Version, previous: str | None) -> None:
    expected = {} if previous is None else {version.table: previous}
    if not refs.compare_and_swap(without_branch(lake, version.table), {version.table: version.id}, expected):
        msg = (
            f"another run published table {version.table} of {lake.root} while this one ran; its version stays, {version.id} can "
            "be read by its name"
        )
        raise InputError(msg)


def sweep(lake: Lake, table: str) -> list[str]:
    """Delete version folders without a manifest that are older than lake.sweep_after_hours; return their names."""
    folder = storage(lake, table).at("versions")
    ages: dict[str, float] = {}
    whole = set()
    for file in folder.list():
        version, _, name = file.path.partition("/")
        ages[version] = min(ages.get(version, age_hours(file)), age_hours(file))
        whole |= {version} if name == "manifest.json" else set()
    left = [version for version, age in ages.items() if version not in whole and age >= lake.sweep_after_hours]
    for version in left:
        folder.delete(version)
    return left


def row_groups(lake: Lake, version: Version) -> list[dict[str, Any]]:
    """Return the row groups of a version, in order: the units that bulk stages hand to tasks."""
    folder = storage(lake, version.table).at("versions", version.id)
    at = {**dataclasses.asdict(folder), "table": version.table}
    return [
        {**at, "path": file.path, "split": file.split, "row_group": group, "rows": rows}
        for file in version.data()
        for group, rows in enumerate(file.row_groups)
    ]


def folder(lake: Lake, version: Version) -> str:
    """Return the folder of a version, as a person would type it: manifest.json, quarantine/ and the folders of its rows."""
    return _typed(storage(lake, version.table).at("versions", version.id))


def rows_folder(lake: Lake, version: Version) -> str:
    """Return the folder that readers of Parquet take as it is, since no other file lies in it.

    Of completions this is the store, with all answers and failures of all runs. Of a dataset it is the folder of its formats.
    """
    if version.table == DATASET:
        return folder(lake, version)
    at = storage(lake, version.table)
    return _typed((at if version.table == COMPLETIONS else at.at("versions", version.id)).at("data"))


def format_folder(lake: Lake, version: Version, form: str) -> str:
    """Return the folder of one format's shards. Raises InputError that lists the formats when the dataset has no such one."""
    paths = [
        file.path.partition("/") for file in version.files if file.rows and not file.path.startswith("quarantine/")
    ]
    formats = sorted({name for name, _, _ in paths})
    if form not in formats:
        msg = f"dataset {version.id} has no format {form!r}; it has: {', '.join(formats)}"
        raise InputError(msg)
    has_data = any(name == form and path.startswith("data/") for name, _, path in paths)
    return f"{folder(lake, version)}/{form}{'/data' if has_data else ''}"


def _typed(at: Storage) -> str:
    return str(Path(at.root).absolute()) if at.is_local else at.root


def head(lake: Lake, version: Version, rows: int, *, quarantine: bool = False) -> list[dict[str, Any]]:
    """Return the first rows of a version without Spark, at most `rows`; of a dataset, records of its first format."""
    at = storage(lake, version.table)
    at = at if version.table == COMPLETIONS else at.at("versions", version.id)
    wanted = [file for file in version.files if file.path.startswith("quarantine/") == quarantine and file.rows]
    wanted.sort(
        key=lambda file: (
            not file.path.startswith("data/"),
            SPLITS.index(file.split) if file.split else 0,
            "/train-" not in file.path,
            file.path,
        )
    )
    return list(islice(chain.from_iterable(_rows(at, version.table, file) for file in wanted), rows))


def _rows(at: Storage, table: str, file: DataFile) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file from its beginning, read a row group or some lines at a time."""
    with at.filesystem.open_input_file(at.path(file.path)) as stream:
        if file.path.endswith(".jsonl"):
            yield from map(json.loads, io.BufferedReader(stream, LINES_BYTES))
            return
        parquet = pq.ParquetFile(stream)
        for group in range(parquet.num_row_groups):
            found = parquet.read_row_group(group)
            if file.path.startswith("data/"):
                names = SCHEMAS[table].names
                found = fill_columns(
                    found, table, [*names, *(name for name in found.column_names if name not in names)]
                )
            yield from ({**row, "split": file.split} if file.split else row for row in found.to_pylist())


def first_row(lake: Lake, version: Version, pubid: int | None) -> dict[str, Any]:
    """Return the row of an article, or the first. Raises InputError when there is no such article."""
    if pubid is None:
        return head(lake, version, 1)[0]
    for piece in row_groups(lake, version):
        table = read_row_group(piece, SCHEMAS[version.table].names)
        found = table.filter(pc.equal(table["pubid"], pubid))
        if found.num_rows:
            return dict(found.to_pylist()[0])
    msg = f"table {version.table} has no pubid {pubid}"
    raise InputError(msg)
