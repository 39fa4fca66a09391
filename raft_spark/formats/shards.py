"""Write records into one shard of a dataset, as JSON Lines or Parquet, atomically."""

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from raft_spark.lake.filesystem import Storage, sha256
from raft_spark.lake.parquet import AtomicWriter, DataFile

BATCH_ROWS = 1_000


class ShardWriter(AtomicWriter):
    """Writes one shard. After the `with` block, `files` holds its description, or is empty if no record was written."""

    def __init__(self, at: Storage, path: str, kind: Literal["jsonl", "parquet"], schema: pa.Schema) -> None:
        super().__init__(at)
        self._path, self._kind, self._schema = f"{path}.{kind}", kind, schema
        self._records: list[Mapping[str, Any]] = []
        self._rows = 0
        self._sink: Any = None

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record."""
        self._records.append(record)
        if len(self._records) == BATCH_ROWS:
            self._flush_all()

    def _flush_all(self) -> None:
        if not self._records:
            return
        if self._sink is None:
            self._sink = self._stack.enter_context(self._new_file(self._path, self._opened, self._described))
        if self._kind == "jsonl":
            lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in self._records)
            self._sink.write(lines.encode())
        else:
            self._sink.write_table(pa.Table.from_pylist(self._records, self._schema))
        self._rows += len(self._records)
        self._records = []

    def _opened(self, local: Path) -> AbstractContextManager[Any]:
        return local.open("wb") if self._kind == "jsonl" else pq.ParquetWriter(local, self._schema)

    def _described(self, local: Path, path: str) -> DataFile:
        return DataFile(path, self._rows, local.stat().st_size, sha256(local))
