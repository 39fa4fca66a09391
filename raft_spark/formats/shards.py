"""Write the records of one shard as JSON Lines or Parquet; the file appears only when it is complete."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.parquet as pq

from raft_spark.lake import parquet
from raft_spark.lake.filesystem import Storage, sha256

BATCH_ROWS = 1_000


class ShardWriter:
    """Writes one shard. After the `with` block, `file` describes it, or is None if no shard was written."""

    def __init__(self, storage: Storage, path: str, kind: Literal["jsonl", "parquet"], schema: pa.Schema) -> None:
        self.file: parquet.DataFile | None = None
        self._storage, self._path, self._kind, self._schema = storage, f"{path}.{kind}", kind, schema
        self._records: list[Mapping[str, Any]] = []
        self._rows = 0
        self._stack = ExitStack()
        self._local: Path | None = None

    def __enter__(self) -> Self:
        return self

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record."""
        self._records.append(record)
        if len(self._records) == BATCH_ROWS:
            self._flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            if self._records:
                self._flush()
            if self._local:
                self._sink.close()
                self.file = parquet.DataFile(self._path, self._rows, self._local.stat().st_size, sha256(self._local))

    def _flush(self) -> None:
        if self._local is None:
            self._local = self._stack.enter_context(self._storage.whole(self._path))
            opened = self._local.open("wb") if self._kind == "jsonl" else pq.ParquetWriter(self._local, self._schema)
            self._sink = self._stack.enter_context(opened)
        if self._kind == "jsonl":
            self._sink.write(
                "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in self._records).encode()
            )
        else:
            self._sink.write_table(pa.Table.from_pylist(self._records, self._schema))
        self._rows += len(self._records)
        self._records = []
