"""Read and write the files of a table with pyarrow inside tasks, so that their rows need not pass through Spark.

Each file is written atomically, under a name that is a function of the task, and is described for the manifest by its rows,
bytes and digest.
"""

import dataclasses
import json
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from raft_spark.errors import DamageError
from raft_spark.lake.filesystem import Storage, sha256
from raft_spark.lake.schemas import FILES, SCHEMAS

ROW_GROUP_BYTES = 64_000_000  # in memory
READERS = 8  # row groups of a table that the driver reads at once
FOOTERS = 64  # of files, that a process keeps: a task reads the row groups of a file one after the other
PARQUET: Mapping[str, Any] = {"compression": "zstd", "compression_level": 1, "use_dictionary": False}
_footers: dict[tuple[Storage, str, int], pq.FileMetaData] = {}


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file of a version; `path` is relative to the version's folder, for completions to the table's folder."""

    path: str
    rows: int
    bytes: int
    sha256: str
    row_groups: tuple[int, ...] = ()

    @property
    def is_data(self) -> bool:
        """Say whether the file holds rows of the table, and not of its quarantine or of a dataset's format."""
        return self.path.startswith(("data/", "merged/"))

    @property
    def is_index(self) -> bool:
        """Say whether the file is a part of the corpus index, which tasks write beside articles."""
        return self.path.startswith("index/")

    @property
    def split(self) -> str:
        """Return the split that the file's rows belong to; "" for a file outside of the split=... folders."""
        return self.path.partition("split=")[2].partition("/")[0]


Describe = Callable[[Path, str], DataFile]


def by_task(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Yield (task, its inputs) in a task, from rows that `dataframes.assign_tasks` made."""
    rows = [row for batch in batches for row in batch.to_pylist()]
    for task in sorted({row["task"] for row in rows}):
        yield task, [json.loads(row["input"]) for row in rows if row["task"] == task]


def row_groups(at: Storage, files: Iterable[DataFile]) -> Iterator[dict[str, Any]]:
    """Yield where each row group of some files below `at` is, in order, and its number of rows: what `read_row_group` reads."""
    for file in files:
        for number, rows in enumerate(file.row_groups):
            yield {**at.location(), "path": file.path, "split": file.split, "row_group": number, "rows": rows}


def read_row_group(group: Mapping[str, Any], columns: Sequence[str] | None = None) -> pa.Table:
    """Read one row group as `tables.row_groups` describes it; with `columns`, those columns in that order.

    A name as "documents.list.element.text" reads that field alone of the column `documents`. Without `columns`, `group`
    needs no "table": it can be a row group of any Parquet file.
    """
    with _opened(group) as file:
        rows = file.read_row_group(group["row_group"], columns=columns)
    if columns is None:
        return rows
    return fill_columns(rows, group["table"], list(dict.fromkeys(name.partition(".")[0] for name in columns)))


def read_ahead(
    groups: Iterable[Mapping[str, Any]], columns: Sequence[str]
) -> Iterator[tuple[Mapping[str, Any], pa.Table]]:
    """Yield row groups with their rows, in order, while the next READERS are read: a bucket replies late, but to many."""
    with ThreadPoolExecutor(READERS) as readers:
        reading: deque[tuple[Mapping[str, Any], Future[pa.Table]]] = deque()
        try:
            for group in groups:
                reading.append((group, readers.submit(read_row_group, group, columns)))
                if len(reading) > READERS:
                    first, rows = reading.popleft()
                    yield first, rows.result()
            yield from ((group, rows.result()) for group, rows in reading)
        finally:
            readers.shutdown(wait=False, cancel_futures=True)


def fill_columns(rows: pa.Table, table: str, columns: Sequence[str]) -> pa.Table:
    """Return these columns of the rows; a column that was added to the table after the rows were written is null."""
    for name in columns:
        if name not in rows.column_names:
            field = SCHEMAS[table].field(name)
            rows = rows.append_column(field, pa.nulls(len(rows), field.type))
    return rows.select(columns)


@contextmanager
def _opened(group: Mapping[str, Any]) -> Iterator[pq.ParquetFile]:
    at = Storage(group["root"], group["endpoint"], group["region"])
    with damage_named(at, group["path"]), at.open(group["path"]) as source:
        key = (at, group["path"], source.size())
        with pq.ParquetFile(source, metadata=_footers.get(key), pre_buffer=True) as file:
            if key not in _footers:
                if len(_footers) >= FOOTERS:
                    _footers.clear()
                _footers[key] = file.metadata
            yield file


@contextmanager
def damage_named(at: Storage, path: str) -> Iterator[None]:
    """Raise DamageError that names the file when pyarrow cannot decode it."""
    try:
        yield
    except (OSError, pa.ArrowException, json.JSONDecodeError, UnicodeDecodeError) as error:
        msg = f"{at.root}/{path} is damaged: {' '.join(str(error).split())}; `raft-spark check TABLE` compares all files with their manifest"
        raise DamageError(msg) from error


class AtomicWriter(ABC):
    """Write files that appear when the `with` block ends; a block that raises leaves none.

    `files` describes them after the block.
    """

    def __init__(self, at: Storage) -> None:
        self.files: list[DataFile] = []
        self._at, self._stack = at, ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            self._flush_all()

    @abstractmethod
    def _flush_all(self) -> None:
        """Write what is still in memory."""

    @contextmanager
    def _new_file(
        self, path: str, sink: Callable[[Path], AbstractContextManager[Any]], described: Describe
    ) -> Iterator[Any]:
        """Open a local file with `sink`, then describe it with `described` and move it to `path`."""
        with self._at.atomic_write(path) as local:
            with sink(local) as opened:
                yield opened
            self.files.append(described(local, path))


class PartitionedWriter(AtomicWriter):
    """Write the Parquet files of one task, one file in each folder that gets rows.

    Rows stay in memory until they fill a row group: `row_group_rows` rows, or ROW_GROUP_BYTES.
    """

    def __init__(self, at: Storage, schema: pa.Schema, task: int, row_group_rows: int, suffix: str = "") -> None:
        super().__init__(at)
        self._schema, self._row_group_rows = schema, row_group_rows
        self._name = f"part-{task:05d}{suffix}.parquet"
        self._writers: dict[str, pq.ParquetWriter] = {}
        self._buffers: dict[str, list[pa.Table]] = {}

    def write(self, folder: str, table: pa.Table) -> None:
        """Add rows to the task's file in `folder`; an empty table creates no file."""
        if table.num_rows:
            buffer = self._buffers.setdefault(folder, [])
            buffer.append(table)
            if sum(map(len, buffer)) >= self._row_group_rows or sum(part.nbytes for part in buffer) >= ROW_GROUP_BYTES:
                self._flush(folder)

    def _flush_all(self) -> None:
        for folder in self._buffers:
            self._flush(folder)

    def _flush(self, folder: str) -> None:
        buffer = self._buffers[folder]
        if buffer:
            if folder not in self._writers:
                file = self._new_file(f"{folder}/{self._name}", self._parquet, describe)
                self._writers[folder] = self._stack.enter_context(file)
            self._writers[folder].write_table(pa.concat_tables(buffer), row_group_size=self._row_group_rows)
            self._buffers[folder] = []

    def _parquet(self, local: Path) -> pq.ParquetWriter:
        return pq.ParquetWriter(local, self._schema, **PARQUET)


def describe(local: Path, path: str) -> DataFile:
    """Describe the Parquet file at `local`, which will be moved to `path`."""
    footer = pq.read_metadata(local)
    return DataFile(path, footer.num_rows, local.stat().st_size, sha256(local), row_group_sizes(footer))


def row_group_sizes(footer: pq.FileMetaData) -> tuple[int, ...]:
    """Return the number of rows of each row group."""
    return tuple(footer.row_group(index).num_rows for index in range(footer.num_row_groups))


def files_batch(files: Sequence[DataFile]) -> pa.RecordBatch:
    """Return descriptions of files as the record batch that a task yields, in the schema FILES."""
    return pa.RecordBatch.from_pylist([dataclasses.asdict(file) for file in files], FILES)


def file_from_row(row: Any) -> DataFile:  # noqa: ANN401 - a Spark Row with the columns of FILES
    """Return the file that a row of the schema FILES describes."""
    return DataFile(row.path, row.rows, row.bytes, row.sha256, tuple(row.row_groups))


def write_file(at: Storage, path: str, table: pa.Table) -> DataFile:
    """Write a table as one Parquet file, atomically."""
    with at.atomic_write(path) as local:
        pq.write_table(table, local, **PARQUET)
        return describe(local, path)


def write_text(at: Storage, path: str, text: str) -> DataFile:
    """Write a text file, atomically; its description has no rows."""
    with at.atomic_write(path) as local:
        local.write_text(text, encoding="utf-8")
        return DataFile(path, 0, local.stat().st_size, sha256(local))
