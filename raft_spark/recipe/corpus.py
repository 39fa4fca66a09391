"""row groups of articles -> an index of all passages and a file of their texts, which rows of base draw from.

A draw needs only the index: pubids, offsets and a 32-bit checksum of each passage, by article number. The tasks that write
articles write the parts of the index beside them, so the driver reads no text for it. The texts follow each other in the order
of the index, so a batch takes all its passages in one call. Workers memory-map both files, so the workers of a machine share
one copy.
"""

import functools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raft_spark.common.hashing import Int64Array
from raft_spark.errors import DamageError
from raft_spark.lake import parquet, schemas

INDEX, TEXTS = "index.arrow", "texts.bin"
PART = pa.schema(
    [
        ("pubid", pa.int64()),
        ("number", pa.int64()),
        ("lengths", pa.list_(pa.int32())),  # of the passages, in bytes
        ("checksums", pa.list_(pa.uint32())),
    ]
)


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


def index_part(articles: pa.Table) -> pa.Table:
    """Return what the index needs of articles with the columns pubid, number and passages: a row each, in the schema PART."""
    passages, counts = flatten(articles["passages"])
    data, edges = _bytes(passages)
    checksums = np.array([zlib.crc32(data[begin:end]) for begin, end in pairwise(edges.tolist())], np.uint32)
    offsets = pa.array(np.append(0, np.cumsum(counts)).astype(np.int32))
    lists = [pa.ListArray.from_arrays(offsets, pa.array(values)) for values in (np.diff(edges), checksums)]
    return pa.table([articles["pubid"], articles["number"], *lists], schema=PART)


def build_index(
    row_groups: Sequence[Mapping[str, Any]], parts: Sequence[Mapping[str, Any]], sizes: Sequence[int], folder: Path
) -> Int64Array:
    """Write INDEX to `folder`; return the position of the first passage of each row group, and the end of the last one.

    `parts` are the row groups of the parts beside these articles; without them, as in a table of an earlier release, the
    passages are read. Few row groups are in memory at a time, and 24 bytes an article; what goes by passage is written as it
    comes.
    """
    columns: dict[str, NDArray[Any]] = {}
    for split, size in zip(schemas.SPLITS, sizes, strict=True):
        columns |= {f"{split}_pubid": np.full(size, -1), f"{split}_first": np.zeros(size, np.int64)}
        columns[f"{split}_count"] = np.zeros(size, np.int64)
    position, end = 0, 0
    kinds: dict[str, Any] = {"checksum": np.uint32, "offsets": np.int64, "count": np.int64}
    with ExitStack() as stack:
        sinks = {name: stack.enter_context((folder / name).open("wb")) for name in kinds}
        sinks["offsets"].write(np.int64(0).tobytes())
        for split, part in _parts(row_groups, parts):
            (lengths, count), (checksum, _) = (flatten(part[name]) for name in ("lengths", "checksums"))
            number = part["number"].to_numpy()
            columns[f"{split}_pubid"][number] = part["pubid"].to_numpy()
            columns[f"{split}_count"][number] = count
            columns[f"{split}_first"][number] = position + np.cumsum(count) - count
            ends = end + np.cumsum(lengths.to_numpy(), dtype=np.int64)
            position, end = position + len(ends), int(ends[-1]) if len(ends) else end
            for name, values in {"checksum": checksum.to_numpy(), "offsets": ends, "count": count}.items():
                sinks[name].write(values.tobytes())
    written = {name: _mapped(folder / name, kind) for name, kind in kinds.items()}
    rows = np.array([group["rows"] for group in row_groups], np.int64)
    starts = np.append(0, np.cumsum(np.add.reduceat(written.pop("count"), np.cumsum(rows) - rows)))
    _save(columns | written, folder / INDEX)
    for name in kinds:
        (folder / name).unlink()
    return starts


def write_texts(row_groups: Sequence[Mapping[str, Any]], starts: Int64Array, folder: Path) -> None:
    """Write TEXTS to `folder`, several row groups at once; `starts` is what `build_index` returned. Raises as `write_piece` does."""
    with ThreadPoolExecutor(parquet.READERS) as writers:
        list(writers.map(partial(write_piece, folder), text_pieces(row_groups, starts, folder)))


def text_pieces(row_groups: Sequence[Mapping[str, Any]], starts: Int64Array, folder: Path) -> list[dict[str, Any]]:
    """Begin TEXTS, and return each row group with the bytes in it that its texts take: what `write_piece` takes."""
    (folder / TEXTS).touch()
    edges = text_offsets(folder)[starts].tolist()
    return [{**group, "bytes": edge} for group, edge in zip(row_groups, pairwise(edges), strict=True)]


def write_piece(folder: Path, piece: Mapping[str, Any]) -> None:
    """Write the texts of a row group to their place in TEXTS.

    Raises DamageError when they have another length than the index says.
    """
    begin, end = piece["bytes"]
    data, edges = _bytes(flatten(parquet.read_row_group(piece, ["passages"])["passages"])[0])
    texts = data[edges[0] : edges[-1]]
    if len(texts) != end - begin:
        msg = (
            f"{piece['root']}/{piece['path']} has {len(texts):,} bytes of passages in row group {piece['row_group']}, but the "
            f"index beside it says {end - begin:,}; `raft-spark check articles` compares all files with their manifest"
        )
        raise DamageError(msg)
    with (folder / TEXTS).open("r+b") as file:
        file.seek(begin)
        file.write(texts)


def text_offsets(folder: Path) -> Int64Array:
    """Return where the text of each passage begins in TEXTS, and where the last one ends, as INDEX in `folder` has it."""
    return map_index(f"{folder}/{INDEX}")[schemas.SPLITS[0]].offsets


def flatten(column: pa.ChunkedArray) -> tuple[pa.StringArray, Int64Array]:
    """Return all values of a column of lists in one array, and the number of values of each row."""
    lists = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()  # which copies even a single chunk
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    return lists.flatten(), np.diff(lists.offsets.to_numpy()).astype(np.int64)


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


@functools.lru_cache(maxsize=1)
def map_texts(path: str, index_path: str) -> pa.LargeStringArray:
    """Memory-map the texts, once in each worker process; return them by position."""
    offsets = map_index(index_path)[schemas.SPLITS[0]].offsets
    data = pa.memory_map(path).read_buffer() if offsets[-1] else pa.py_buffer(b"")
    return pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), data)


def _parts(
    row_groups: Sequence[Mapping[str, Any]], parts: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, pa.Table]]:
    """Yield the parts of the index in order, each with its split."""
    if parts:
        yield from ((group["split"], part) for group, part in parquet.read_ahead(parts, PART.names))
    else:
        for group, articles in parquet.read_ahead(row_groups, ["pubid", "number", "passages"]):
            yield group["split"], index_part(articles)


def _bytes(texts: pa.StringArray) -> tuple[memoryview, NDArray[np.int32]]:
    """Return the bytes of all texts, and where each begins there, and the last one ends."""
    _, offsets, data = texts.buffers()
    return memoryview(data or b""), np.frombuffer(offsets, np.int32)[texts.offset :][: len(texts) + 1]


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
