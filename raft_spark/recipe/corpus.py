"""articles -> what rows draw from: an index of all passages, and their texts, in two files that workers memory-map.

The index (pubids, offsets and a 32-bit checksum of each passage, by number) is all that a draw needs. The texts are one
run of bytes in the index's order, so a batch takes all its passages in one call. Files are mapped, not read: the workers
of a machine share their pages, and none holds a copy.
"""

import functools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raft_spark.common.hashing import Int64Array
from raft_spark.lake import parquet, schemas

INDEX, TEXTS = "index.arrow", "texts.bin"


@dataclass(frozen=True)
class CorpusIndex:
    """The passages of one split. `pubid`, `first` and `count` have shape (next free number,): the article with that number
    (-1 = none), the position of its first passage among those of all splits, and how many it has (0 = no article).

    `checksum` and `offsets` go by position, over all splits: CRC-32 of a text, and where its bytes begin.
    """

    pubid: Int64Array
    first: Int64Array
    count: Int64Array
    checksum: NDArray[np.uint32]
    offsets: Int64Array

    @property
    def size(self) -> int:
        """The next free number: draws go over 0..size-1."""
        return len(self.count)


def build(pieces: Sequence[Mapping[str, Any]], sizes: Sequence[int], folder: Path, *, with_texts: bool) -> None:
    """Write INDEX and TEXTS (empty unless `with_texts`) into `folder`, reading one row group at a time."""
    columns: dict[str, NDArray[Any]] = {}
    for split, size in zip(schemas.SPLITS, sizes, strict=True):
        columns |= {f"{split}_pubid": np.full(size, -1), f"{split}_first": np.zeros(size, np.int64)}
        columns[f"{split}_count"] = np.zeros(size, np.int64)
    lengths, checksums, position = [np.zeros(1, np.int64)], [], 0
    with (folder / TEXTS).open("wb") as texts:
        for piece in pieces:
            table = parquet.read_row_group(piece, ["number", "pubid", "passages"])
            passages, counts = _flat(table["passages"])
            number, split = table["number"].to_numpy(), piece["split"]
            columns[f"{split}_pubid"][number] = table["pubid"].to_numpy()
            columns[f"{split}_count"][number] = counts
            columns[f"{split}_first"][number] = position + np.cumsum(counts) - counts
            position += len(passages)
            offsets = np.frombuffer(passages.buffers()[1], np.int32)[passages.offset :][: len(passages) + 1]
            lengths.append(np.diff(offsets))
            checksums.append(np.fromiter(map(zlib.crc32, passages.cast(pa.binary()).to_pylist()), np.uint32))
            if with_texts:
                texts.write(memoryview(passages.buffers()[2])[offsets[0] : offsets[-1]])
    columns |= {"checksum": np.concatenate(checksums), "offsets": np.cumsum(np.concatenate(lengths))}
    _save(columns, folder / INDEX)


def text_bytes(pieces: Sequence[Mapping[str, Any]]) -> int:
    """Return how large the texts would be, from the footers alone: the uncompressed bytes of the column."""
    return sum(parquet.column_bytes(piece, "passages") for piece in pieces)


@functools.lru_cache(maxsize=2)
def map_index(path: str) -> Mapping[str, CorpusIndex]:
    """Map the index, once a worker process; by split."""
    row = pa.ipc.open_file(pa.memory_map(path)).get_batch(0)
    arrays = {name: row.column(name).flatten().to_numpy() for name in row.schema.names}
    shared = {name: arrays[name] for name in ("checksum", "offsets")}
    own = {split: {name: arrays[f"{split}_{name}"] for name in ("pubid", "first", "count")} for split in schemas.SPLITS}
    return {split: CorpusIndex(**own[split], **shared) for split in schemas.SPLITS}


@functools.lru_cache(maxsize=2)
def map_texts(path: str, index_path: str) -> pa.LargeStringArray:
    """Map the texts, once a worker process; by position."""
    offsets = map_index(index_path)[schemas.SPLITS[0]].offsets
    data = pa.memory_map(path).read_buffer() if offsets[-1] else pa.py_buffer(b"")
    return pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), data)


def _flat(column: pa.ChunkedArray) -> tuple[pa.StringArray, Int64Array]:
    """Return all passages in one array, and how many each row has."""
    lists = column.combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    return lists.flatten(), np.diff(lists.offsets.to_numpy()).astype(np.int64)


def _save(columns: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Write arrays of different lengths as one record batch of one row, each a list, so that a mapping reads them in place."""
    lists = {
        name: pa.LargeListArray.from_arrays(pa.array([0, len(array)], pa.int64()), pa.array(array))
        for name, array in columns.items()
    }
    batch = pa.RecordBatch.from_pydict(lists)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
