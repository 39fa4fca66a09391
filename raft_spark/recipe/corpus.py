"""row groups of articles -> an index of all passages and a file of their texts, which rows of base draw from.

A draw needs only the index: pubids, offsets and a 32-bit checksum of each passage, by article number. The texts follow each
other in the order of the index, so a batch takes all its passages in one call. Workers memory-map both files, so the workers
of a machine share one copy.
"""

import functools
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raft_spark.common.hashing import Int64Array
from raft_spark.lake import parquet, schemas

INDEX, TEXTS = "index.arrow", "texts.bin"


@dataclass(frozen=True, eq=False)
class CorpusIndex:
    """The passages of one split.

    `pubid`, `first` and `count` have the shape (next free number,). They hold, by article number, the pubid (-1 = no
    article), the position of the first passage among those of all splits, and the number of passages (0 = no article).

    `checksum` and `offsets` go by position, over all splits: the CRC-32 of a text, and where its bytes begin.
    """

    pubid: Int64Array
    first: Int64Array
    count: Int64Array
    checksum: NDArray[np.uint32]
    offsets: Int64Array

    @property
    def size(self) -> int:
        """Return the next free number. Numbers are drawn from 0..size-1."""
        return len(self.count)

    @functools.cached_property
    def sizes(self) -> Int64Array:
        """The numbers of passages that articles have, ascending."""
        found = np.flatnonzero(np.bincount(self.count))
        return found[found > 0]

    @functools.cached_property
    def nearest_sizes(self) -> Int64Array:
        """The `sizes` in the order of their distance from a number of passages, the smaller one first.

        Its shape is (largest number of passages + 1, sizes).
        """
        distance = np.abs(self.sizes - np.arange(self.sizes.max(initial=0) + 1)[:, None])
        return self.sizes[np.argsort(distance, axis=1, kind="stable")]

    @functools.cache  # noqa: B019 - an index lives as long as its process
    def numbers_of_size(self, size: int) -> Int64Array:
        """Return the numbers of the articles with this number of passages, ascending."""
        return np.flatnonzero(self.count == size)


def build(row_groups: Sequence[Mapping[str, Any]], sizes: Sequence[int], folder: Path, *, with_texts: bool) -> None:
    """Write INDEX and TEXTS (empty unless `with_texts`) to `folder`.

    Few row groups are in memory at a time, and 24 bytes an article; what goes by passage is written as it comes.
    """
    columns: dict[str, NDArray[Any]] = {}
    for split, size in zip(schemas.SPLITS, sizes, strict=True):
        columns |= {f"{split}_pubid": np.full(size, -1), f"{split}_first": np.zeros(size, np.int64)}
        columns[f"{split}_count"] = np.zeros(size, np.int64)
    position, end = 0, 0
    by_passage: dict[str, np.dtype[Any]] = {"checksum": np.dtype(np.uint32), "offsets": np.dtype(np.int64)}
    with ExitStack() as stack:
        texts, checksum, offsets = (stack.enter_context((folder / name).open("wb")) for name in (TEXTS, *by_passage))
        offsets.write(np.int64(0).tobytes())
        for group, table in parquet.read_ahead(row_groups, ["number", "pubid", "passages"]):
            passages, counts = _flatten(table["passages"])
            number, split = table["number"].to_numpy(), group["split"]
            columns[f"{split}_pubid"][number] = table["pubid"].to_numpy()
            columns[f"{split}_count"][number] = counts
            columns[f"{split}_first"][number] = position + np.cumsum(counts) - counts
            position += len(passages)
            begins = np.frombuffer(passages.buffers()[1], np.int32)[passages.offset :][: len(passages) + 1]
            ends = end + (begins[1:] - begins[0]).astype(np.int64)
            offsets.write(ends.tobytes())
            end = int(ends[-1]) if len(ends) else end
            data, edges = memoryview(passages.buffers()[2]), begins.tolist()
            checksum.write(np.array([zlib.crc32(data[a:b]) for a, b in pairwise(edges)], np.uint32).tobytes())
            if with_texts:
                texts.write(data[edges[0] : edges[-1]])
    _save(columns | {name: _mapped(folder / name, kind) for name, kind in by_passage.items()}, folder / INDEX)
    for name in by_passage:
        (folder / name).unlink()


def text_bytes(row_groups: Sequence[Mapping[str, Any]]) -> int:
    """Return the size of the texts: the uncompressed bytes of their column, read from the file footers alone."""
    return parquet.column_bytes(row_groups, "passages")


@functools.lru_cache(maxsize=2)
def map_index(path: str) -> Mapping[str, CorpusIndex]:
    """Memory-map the index, once in each worker process; return it by split."""
    row = pa.ipc.open_file(pa.memory_map(path)).get_batch(0)
    arrays = {name: row.column(name).flatten().to_numpy() for name in row.schema.names}
    shared = {name: arrays[name] for name in ("checksum", "offsets")}
    of_split = {
        split: {name: arrays[f"{split}_{name}"] for name in ("pubid", "first", "count")} for split in schemas.SPLITS
    }
    return {split: CorpusIndex(**of_split[split], **shared) for split in schemas.SPLITS}


@functools.lru_cache(maxsize=2)
def map_texts(path: str, index_path: str) -> pa.LargeStringArray:
    """Memory-map the texts, once in each worker process; return them by position."""
    offsets = map_index(index_path)[schemas.SPLITS[0]].offsets
    data = pa.memory_map(path).read_buffer() if offsets[-1] else pa.py_buffer(b"")
    return pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), data)


def _flatten(column: pa.ChunkedArray) -> tuple[pa.StringArray, Int64Array]:
    """Return all passages in one array, and the number of passages of each row."""
    lists = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()  # which copies even a single chunk
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    return lists.flatten(), np.diff(lists.offsets.to_numpy()).astype(np.int64)


def _mapped(path: Path, kind: np.dtype[Any]) -> NDArray[Any]:
    return np.memmap(path, kind, "r") if path.stat().st_size else np.empty(0, kind)


def _save(columns: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Write arrays of different lengths as the list columns of one row, so that a memory map reads them in place."""
    lists = {
        name: pa.LargeListArray.from_arrays(pa.array([0, len(array)], pa.int64()), pa.array(array))
        for name, array in columns.items()
    }
    batch = pa.RecordBatch.from_pydict(lists)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
