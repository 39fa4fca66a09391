"""terms of documents -> an inverted index on disk, and the documents that are nearest to a query by BM25.

BM25 in the variant of Lucene (Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond"): the score
of a document is the sum of idf(term) * weight(term, document) over the terms of the query, a product of sparse matrices.
Both factors are rounded to whole numbers, so a score is the same on any machine, in any order of the sum.

The index of a split is a file of parts, each of about PART_DOCUMENTS documents, which workers memory-map. A query is multiplied
with one part after the other, so an index may be larger than the memory. The documents that have a term are listed by blocks,
so that a common term can be looked up in some of them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from raft_spark.common import arrays, hashing
from raft_spark.common.hashing import Int64Array, Stream, UInt64Array
from raft_spark.recipe import ranking
from raft_spark.recipe.ranking import Hits, UInt32Array

PART_DOCUMENTS = 1 << 18
BLOCK_BITS = 12  # a block has 4,096 documents
BATCH_POSTINGS = 1 << 21  # that are multiplied at once: 60 MB
COMMON = 8  # a term that more than one in so many documents has tells little
MOST_TERMS = 1024  # of a query, the rarest; the sum of so many products stays below 2 ** ranking.SCORE_BITS
IDF_SCALE, WEIGHT_SCALE = 128, 256
SCALE = IDF_SCALE * WEIGHT_SCALE  # of a score
_PART = {
    "number": pa.int64(),
    "passage": pa.int32(),
    "hash": pa.uint32(),
    "lists": pa.uint64(),  # a term, and the block of the documents that follow; ascending
    "starts": pa.int32(),
    "documents": pa.int32(),
    "weights": pa.int32(),
}
_NOTHING = np.empty(0, np.int64)
_PART_SCHEMA = pa.schema([(name, pa.large_list(kind)) for name, kind in _PART.items()])
Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Terms:
    """The terms of a batch of documents: `document` is the index in the batch, ascending, `term` a hash of 32 bits.

    Both have the shape (terms of the batch,).
    """

    document: Int64Array
    term: NDArray[np.uint32]


class IndexWriter:
    """Write the index of one split to `path`, and beside it temporary files.

    `saturation` and `length_share` are k1 and b of BM25. With 0 and 0 a term of a document weighs 1.
    """

    def __init__(self, path: Path, saturation: float = 1.5, length_share: float = 0.75) -> None:
        self._path, self._saturation, self._length_share = path, saturation, length_share
        self._waiting: list[tuple[Int64Array, Int64Array, UInt64Array, NDArray[np.int32]]] = []
        self._documents, self._waiting_documents, self._terms, self._parts = 0, 0, 0, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self._flush()
            self._write_weights()

    def add(self, numbers: Int64Array, passages: Int64Array, terms: Terms) -> None:
        """Add documents, which have the shape (documents of `terms`,)."""
        keys = np.sort(
            terms.term.astype(np.uint64) << np.uint64(32) | (terms.document + self._waiting_documents).astype(np.uint64)
        )
        first = arrays.starts_of_runs(keys)
        times = np.diff(first, append=len(keys)).astype(np.int32)
        self._waiting.append((numbers, passages, keys[first], times))
        self._waiting_documents, self._terms = self._waiting_documents + len(numbers), self._terms + len(keys)
        if self._waiting_documents >= PART_DOCUMENTS:
            self._flush()

    def _flush(self) -> None:
        """Write the waiting documents as a part, with the number of times that a document has a term as its weight."""
        if not self._waiting_documents:
            return
        numbers, passages, keys, times = map(np.concatenate, zip(*self._waiting, strict=True))
        order = np.argsort(keys, kind="stable")  # which merges the sorted keys of the batches
        keys, times = keys[order], times[order]
        position = self._documents + (keys & np.uint64(2**32 - 1))
        lists = keys >> np.uint64(32) << np.uint64(32) | position >> np.uint64(BLOCK_BITS)
        begins = arrays.starts_of_runs(lists)
        part = {
            "number": numbers,
            "passage": passages,
            "hash": ranking.document_hashes(numbers, passages),
            "lists": lists[begins],
            "starts": np.append(begins, len(keys)),
            "documents": keys.astype(np.uint32),
            "weights": times,
        }
        _write(self._part_path(self._parts), [part])
        self._documents, self._parts = self._documents + self._waiting_documents, self._parts + 1
        self._waiting, self._waiting_documents = [], 0

    def _write_weights(self) -> None:
        """Write the index with its final weights, which need the mean length of all documents."""
        mean_length = max(1, self._terms) / max(1, self._documents)
        paths = [self._part_path(number) for number in range(self._parts)]
        _write(self._path, (self._weighted(part, mean_length) for path in paths for part in _read(path)))
        for path in paths:
            path.unlink()

    def _weighted(self, part: Columns, mean_length: float) -> Columns:
        documents, times = part["documents"], part["weights"].astype(np.float64)
        lengths = np.bincount(documents, times, len(part["number"])) / mean_length
        norm = self._saturation * (1 - self._length_share + self._length_share * lengths[documents])
        return part | {"weights": np.rint(WEIGHT_SCALE * times * (self._saturation + 1) / (times + norm))}

    def _part_path(self, number: int) -> Path:
        return self._path.with_suffix(f".{number}")


@dataclass(frozen=True)
class _QueryTerms:
    """The terms of a batch of queries, by query, and the blocks from `begin` to `end` in which each is looked up."""

    row: Int64Array
    term: NDArray[np.uint32]
    idf: NDArray[np.int32]
    begin: Int64Array
    end: Int64Array

    def of_rows(self, first: np.int64, end: np.int64) -> "_QueryTerms":
        """Return the terms of the queries from `first` to `end`, which are counted from 0 then."""
        chosen = slice(*np.searchsorted(self.row, (first, end)))
        row, *others = (getattr(self, each.name)[chosen] for each in fields(self))
        return _QueryTerms(row - first, *others)


class TermIndex:
    """The memory-mapped index of one split."""

    def __init__(self, path: Path) -> None:
        """Map the index at `path`. Terms that several parts have are counted here, once in each worker process."""
        self._parts, self._size = list[_Part](), 0
        for columns in _read(path):
            self._parts.append(_Part(columns, self._size))
            self._size += len(columns["number"])
        self._blocks = -(-self._size >> BLOCK_BITS)
        terms = np.concatenate([np.empty(0, np.uint32), *(_terms_of(part.lists) for part in self._parts)])
        counts = np.concatenate([_NOTHING, *(np.diff(part.starts) for part in self._parts)])
        order = np.argsort(terms, kind="stable")
        first = arrays.starts_of_runs(terms[order])
        self._terms = terms[order][first]
        self._frequencies = np.add.reduceat(counts[order], first) if len(first) else counts

    def search(
        self, queries: Terms, keys: UInt64Array, count: int, own: Int64Array | None = None, postings: int = 0
    ) -> tuple[Hits, Int64Array]:
        """Find the `count` best documents for each query, and the best score of a document with the number `own`.

        `keys` identify the queries and decide the order of equal scores; `own` are numbers whose documents are not found.
        Both have the shape (queries,), as the second result has. `postings` > 0 bounds the work of a query, see `_select`.
        """
        own = np.full(len(keys), -1) if own is None else own
        terms, postings_of = self._select(queries, keys, own, postings)
        batch = np.cumsum(np.bincount(terms.row, postings_of, len(keys)).astype(np.int64)) // BATCH_POSTINGS
        found, best = [(_NOTHING,) * 4], np.zeros(len(keys), np.int64)
        hashes = ranking.query_hashes(keys)
        for begin in arrays.starts_of_runs(batch):
            end = np.searchsorted(batch, batch[begin], "right")
            of_batch = terms.of_rows(begin, end)
            for part in self._parts:
                scores = part.multiply(of_batch, int(end - begin))
                row, *columns = _best(scores, count, part, own[begin:end], best[begin:end], hashes[begin:end])
                found.append((begin + row, *columns))
        return ranking.ranked(found, hashes, count), best

    def _select(
        self, queries: Terms, keys: UInt64Array, own: Int64Array, postings: int
    ) -> tuple[_QueryTerms, NDArray[np.float64]]:
        """Return the terms of the queries, each with the blocks in which it is looked up, and how many documents it finds there.

        If more than `postings` documents have the terms of a query in all, terms that are COMMON are left out, but not the
        rarest of the query. Its rarest terms are looked up everywhere, as far as half of that many documents have them. The
        other terms are looked up in a window of blocks around the query's own documents, or around blocks that its key
        chooses. It has at least one block, and on average uses up the rest.
        """
        row, at = self._known(queries, postings)
        frequency = self._frequencies[at]
        first = np.searchsorted(row, row)
        upto = np.cumsum(frequency)
        before = upto - frequency
        all_postings = np.bincount(row, frequency, len(keys))[row]
        is_bounded = bool(postings) & (all_postings > postings)
        is_common = is_bounded & (upto - before[first] > postings // 2)
        of_common = np.bincount(row, frequency * is_common, len(keys))[row]
        share = np.divide(postings - (all_postings - of_common), of_common, out=np.ones(len(row)), where=is_common)
        blocks = np.maximum(1, (share * self._blocks).astype(np.int64))
        middle = self._blocks_of(own, keys)[row]
        begin = np.clip(middle - blocks // 2, 0, self._blocks - blocks)
        idf = np.rint(IDF_SCALE * np.log1p((self._size - frequency + 0.5) / (frequency + 0.5))).astype(np.int32)
        return _QueryTerms(row, self._terms[at], idf, begin, begin + blocks), frequency * blocks / self._blocks

    def _known(self, queries: Terms, postings: int) -> tuple[Int64Array, Int64Array]:
        """Return (query, position of the term in the index) of the terms to look up, the rarest of each query first."""
        at, known = arrays.find(queries.term, self._terms)
        pairs = np.unique(queries.document[known] << 32 | at[known])
        row, at = pairs >> 32, pairs & (2**32 - 1)
        order = np.lexsort((self._terms[at], self._frequencies[at], row))
        row, at = row[order], at[order]
        rank = np.arange(len(row)) - np.searchsorted(row, row)
        is_common = (self._frequencies[at] * COMMON > self._size) & (rank > 0)
        is_bounded = bool(postings) & (np.bincount(row, self._frequencies[at])[row] > postings)
        chosen = (rank < MOST_TERMS) & ~(is_common & is_bounded)
        return row[chosen], at[chosen]

    def _blocks_of(self, own: Int64Array, keys: UInt64Array) -> Int64Array:
        """Return the block of the first document of each number, or one that its key chooses."""
        limits = np.full(len(keys), max(1, self._blocks))
        blocks = hashing.randbelow(hashing.hash64(0, Stream.WINDOW, keys), limits)
        for part in self._parts:
            document, documents = part.documents_of(own)
            blocks = np.where(documents, (part.begin + document) >> BLOCK_BITS, blocks)
        return blocks


class _Part:
    """A memory-mapped part of an index: a sparse matrix of lists (a term in a block) and documents; `begin` were before it."""

    def __init__(self, columns: Columns, begin: int) -> None:
        self.number, self.passage, self.hash, self.lists, self.starts = (
            columns[name] for name in ("number", "passage", "hash", "lists", "starts")
        )
        self.begin, self._blocks = begin, (begin >> BLOCK_BITS, (begin + len(self.number) - 1 >> BLOCK_BITS) + 1)
        first = arrays.starts_of_runs(self.number)
        order = np.argsort(self.number[first])
        self._numbers, self._first = self.number[first][order], first[order]
        self._documents = np.diff(first, append=len(self.number))[order]
        shape = len(self.lists), len(self.number)
        self._matrix = sparse.csr_matrix((columns["weights"], columns["documents"], self.starts), shape, copy=False)

    def documents_of(self, numbers: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Return the first document of each number and how many follow each other, 0 where there is none."""
        at, known = arrays.find(numbers, self._numbers)
        return self._first[at], np.where(known, self._documents[at], 0)

    def multiply(self, terms: _QueryTerms, rows: int) -> sparse.csr_matrix:
        """Return the scores of the documents for each query, shape (rows, documents)."""
        here = np.flatnonzero((terms.begin < self._blocks[1]) & (terms.end > self._blocks[0]))
        term = terms.term[here].astype(np.uint64) << np.uint64(32)
        begin, end = (np.searchsorted(self.lists, term | of[here].astype(np.uint64)) for of in (terms.begin, terms.end))
        list_of, ordinal = arrays.numbered(end - begin)
        at, columns = here[list_of], (begin[list_of] + ordinal).astype(np.int32)
        starts = np.searchsorted(terms.row[at], np.arange(rows + 1)).astype(np.int32)
        return sparse.csr_matrix((terms.idf[at], columns, starts), (rows, len(self.lists)), copy=False) @ self._matrix


def _terms_of(lists: UInt64Array) -> NDArray[np.uint32]:
    return (lists >> np.uint64(32)).astype(np.uint32)


def _best(
    scores: sparse.csr_matrix, count: int, part: _Part, own: Int64Array, best: Int64Array, hashes: UInt32Array
) -> tuple[NDArray[Any], ...]:
    """Return row, number, passage and score of the `count` best documents of each row, and hardly any others.

    The best score of the row's own documents is kept in `best`; they are not returned.
    """
    lengths = np.diff(scores.indptr)
    first, documents = (np.repeat(of.astype(np.uint32), lengths) for of in part.documents_of(own))
    is_own = np.flatnonzero(scores.indices.view(np.uint32) - first < documents)
    row = np.repeat(np.arange(len(own)), lengths)
    np.maximum.at(best, row.take(is_own), scores.data.take(is_own))
    scores.data[is_own] = 0
    row, document, score = ranking.highest(scores, row, part.hash, hashes, count)
    return row, part.number.take(document), part.passage.take(document), score


def _write(path: Path, parts: Iterable[Columns]) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _PART_SCHEMA) as writer:
        for part in parts:
            lists = [
                pa.LargeListArray.from_arrays(
                    pa.array([0, len(part[name])], pa.int64()), pa.array(part[name].astype(kind.to_pandas_dtype()))
                )
                for name, kind in _PART.items()
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(lists, schema=_PART_SCHEMA))


def _read(path: Path) -> Iterator[Columns]:
    """Memory-map the parts of a file."""
    with pa.ipc.open_file(pa.memory_map(str(path))) as file:
        for number in range(file.num_record_batches):
            batch = file.get_batch(number)
            yield {name: batch.column(name).flatten().to_numpy() for name in _PART}
