"""Write records into one shard of a dataset, as JSON Lines or Parquet, atomically."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq

from raft_spark.lake.filesystem import Storage, sha256
from raft_spark.lake.parquet import AtomicWriter, DataFile

BATCH_ROWS = 1_000


class ShardWriter(AtomicWriter):
    """Writes one shard. After the `with` block, `files` holds its description, or is empty if no record was written."""

    def __init__(self, at: Storage, path: str, kind: Literal["jsonl", "parquet"], schema: pa.Schema) -> None:
        super().__init__(at)
        self._path, self._kind, self._schema = f"{path}.{kind}", kind, schema
        self._lines: list[bytes] = []
        self._rows = 0
        self._sink: Any = None

    def write(self, line: bytes) -> None:
        """Append one record, as JSON in UTF-8 without line breaks."""
        self._lines.append(line)
        if len(self._lines) == BATCH_ROWS:
            self._flush_all()

    def _flush_all(self) -> None:
        if not self._lines:
            return
        if self._sink is None:
            self._sink = self._stack.enter_context(self._new_file(self._path, self._opened, self._described))
        data = b"\n".join([*self._lines, b""])
        if self._kind == "jsonl":
            self._sink.write(data)
        else:
            self._sink.write_table(_table(data, self._schema))
        self._rows += len(self._lines)
        self._lines = []

    def _opened(self, local: Path) -> AbstractContextManager[Any]:
        return local.open("wb") if self._kind == "jsonl" else pq.ParquetWriter(local, self._schema)

    def _described(self, local: Path, path: str) -> DataFile:
        return DataFile(path, self._rows, local.stat().st_size, sha256(local))


def _table(lines: bytes, schema: pa.Schema) -> pa.Table:
    options = pa.json.ParseOptions(schema, unexpected_field_behavior="error")
    reading = pa.json.ReadOptions(use_threads=False, block_size=len(lines))
    return pa.json.read_json(pa.BufferReader(lines), reading, options)
