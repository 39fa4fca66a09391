"""The files of a table: row groups read and written in tasks with pyarrow, without a turn through Spark.

What a task writes appears whole or not at all, under a name that is a function of the task, and is described for the
manifest by rows, bytes and digest.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from raft_spark.lake.filesystem import Storage, sha256
from raft_spark.lake.schemas import FILES, SCHEMAS

ROW_GROUP_BYTES = 64_000_000
PARQUET: Mapping[str, Any] = {"compression": "zstd", "compression_level": 1, "use_dictionary": False}


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file of a version; `path` is relative to the version's folder (completions: to the table's)."""

    path: str
    rows: int
    bytes: int
    sha256: str
    row_groups: tuple[int, ...] = ()

    @property
    def split(self) -> str:
        """Return the split its rows belong to, "" for a file outside of split=... folders."""
        return self.path.partition("split=")[2].partition("/")[0]


def by_task(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Read back, in a task, what `tasks` handed out: (task, its pieces)."""
    rows = [row for batch in batches for row in batch.to_pylist()]
    for task in sorted({row["task"] for row in rows}):
        yield task, [json.loads(row["piece"]) for row in rows if row["task"] == task]


def read_row_group(piece: Mapping[str, Any], columns: Sequence[str] | None = None) -> pa.Table:
    """Read one row group, in a task; `columns` can be named of what tables.pieces gives."""
    with _opened(piece) as file:
        rows = file.read_row_group(piece["row_group"], columns=columns)
    return rows if columns is None else fill_columns(rows, piece["table"], columns)


def fill_columns(rows: pa.Table, table: str, columns: Sequence[str]) -> pa.Table:
    """Return these columns; one that the table got after the rows were written is null."""
    for name in columns:
        if name not in rows.column_names:
            field = SCHEMAS[table].field(name)
            rows = rows.append_column(field, pa.nulls(len(rows), field.type))
    return rows.select(columns)


def column_bytes(piece: Mapping[str, Any], column: str) -> int:
    """Return the uncompressed size of one column of a row group, from the footer."""
    with _opened(piece) as file:
        group = file.metadata.row_group(piece["row_group"])
    columns = (group.column(index) for index in range(group.num_columns))
    return sum(found.total_uncompressed_size for found in columns if found.path_in_schema.split(".")[0] == column)


@contextmanager
def _opened(piece: Mapping[str, Any]) -> Iterator[pq.ParquetFile]:
    at = Storage(piece["root"], piece["endpoint"], piece["region"])
    with at.filesystem.open_input_file(at.path(piece["path"])) as source, pq.ParquetFile(source) as file:
        yield file


class PartitionedWriter:
    """The Parquet files that one task writes, one a folder; each appears whole when the block ends well.

    Rows gather until they make a row group: `row_group_rows`, or ROW_GROUP_BYTES in memory. `files` is filled at the end.
    """

    def __init__(self, at: Storage, schema: pa.Schema, task: int, row_group_rows: int, suffix: str = "") -> None:
        self.files: list[DataFile] = []
        self._place, self._schema, self._rows = at, schema, row_group_rows
        self._name = f"part-{task:05d}{suffix}.parquet"
        self._stack = ExitStack()
        self._writers: dict[str, pq.ParquetWriter] = {}
        self._gathered: dict[str, list[pa.Table]] = {}

    def __enter__(self) -> Self:
        return self

    def write(self, folder: str, table: pa.Table) -> None:
        """Add rows to the task's file in `folder`; no rows make no file."""
        if table.num_rows:
            gathered = self._gathered.setdefault(folder, [])
            gathered.append(table)
            if sum(map(len, gathered)) >= self._rows or sum(part.nbytes for part in gathered) >= ROW_GROUP_BYTES:
                self._flush(folder)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            for folder in self._gathered:
                self._flush(folder)

    def _flush(self, folder: str) -> None:
        gathered = self._gathered[folder]
        if gathered:
            if folder not in self._writers:
                part = _PartFile(self._place, self._schema, f"{folder}/{self._name}", self.files)
                self._writers[folder] = self._stack.enter_context(part)
            self._writers[folder].write_table(pa.concat_tables(gathered), row_group_size=self._rows)
            self._gathered[folder] = []


class _PartFile:
    """One Parquet file being written; handed to `files` with its digest before it appears."""

    def __init__(self, at: Storage, schema: pa.Schema, path: str, files: list[DataFile]) -> None:
        self._path, self._files = path, files
        self._whole = at.atomic_write(path)
        self._schema = schema

    def __enter__(self) -> pq.ParquetWriter:
        self._local = self._whole.__enter__()
        self._writer = pq.ParquetWriter(self._local, self._schema, **PARQUET)
        return self._writer

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        if error is None:
            self._files.append(describe(self._local, self._path))
        self._whole.__exit__(kind, error, trace)


def describe(local: Path, path: str) -> DataFile:
    """Describe a Parquet file that lies at `local` and will be known as `path`."""
    footer = pq.read_metadata(local)
    return DataFile(path, footer.num_rows, local.stat().st_size, sha256(local), row_group_sizes(footer))


def row_group_sizes(footer: pq.FileMetaData) -> tuple[int, ...]:
    """Return the rows of each row group."""
    return tuple(footer.row_group(index).num_rows for index in range(footer.num_row_groups))


def files_batch(files: Sequence[DataFile]) -> pa.RecordBatch:
    """Return file descriptions as a task yields them, in the schema FILES."""
    return pa.RecordBatch.from_pylist([dataclasses.asdict(file) for file in files], FILES)


def file_from_row(row: Any) -> DataFile:  # noqa: ANN401 - a Spark Row with the columns of FILES
    """Return the file that a collected row describes."""
    return DataFile(row.path, row.rows, row.bytes, row.sha256, tuple(row.row_groups))


def write_file(at: Storage, path: str, table: pa.Table) -> DataFile:
    """Store one whole Parquet file at once."""
    with at.atomic_write(path) as local:
        pq.write_table(table, local, **PARQUET)
        return describe(local, path)


def write_text(at: Storage, path: str, text: str) -> DataFile:
    """Store one text beside the shards."""
    with at.atomic_write(path) as local:
        local.write_text(text, encoding="utf-8")
        return DataFile(path, 0, local.stat().st_size, sha256(local))
