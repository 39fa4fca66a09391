"""scores of documents for queries -> the best documents of each query, in an order that no part, batch or index changes.

The order of equal scores is that of a hash of query and document, so that many equal documents are spread over queries.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from raft_spark.common import hashing
from raft_spark.common.hashing import Int64Array, Stream, UInt64Array

SCORE_BITS = 31  # of a score
RUNS = 4  # times as many as hits are wanted, into which the scores of a query are cut
MOST_EQUAL = 4  # times as many documents with equal scores as hits are wanted
UInt32Array = NDArray[np.uint32]


@dataclass(frozen=True)
class Hits:
    """Documents found for a batch of queries, the best of each query first. All arrays have the shape (hits of the batch,).

    `number` and `passage` are those of the document, `rank` counts from 1, and `score` is at least 1, in units of
    1 / SCALE of the index that was searched.
    """

    row: Int64Array
    number: Int64Array
    passage: Int64Array
    rank: Int64Array
    score: Int64Array


def query_hashes(keys: UInt64Array) -> UInt32Array:
    """Return what decides the order of equal scores of each query, together with the hashes of the documents."""
    return hashing.hash64(0, Stream.EQUAL_SCORE, keys).astype(np.uint32)


def document_hashes(numbers: Int64Array, passages: Int64Array) -> UInt32Array:
    """Return the hashes of documents, which are independent of an index, its parts and its order."""
    return (hashing.hash64(0, Stream.EQUAL_SCORE, _identities(numbers, passages)) >> np.uint64(32)).astype(np.uint32)


def _identities(numbers: Int64Array, passages: Int64Array) -> Int64Array:
    return numbers << 20 | passages


def _ties(document: UInt32Array, query: UInt32Array) -> UInt32Array:
    """Return the order of documents with the same score, from the hashes of document and query."""
    return (document ^ query) * np.uint32(0x9E3779B1)


def ranked(found: Sequence[tuple[Int64Array, ...]], hashes: UInt32Array, count: int) -> Hits:
    """Return the `count` best of each query among those of all parts."""
    row, number, passage, score = map(np.concatenate, zip(*found, strict=True))
    ties = _ties(document_hashes(number, passage), hashes[row])
    order = np.lexsort((_identities(number, passage), ties, -score, row))
    row = row[order]
    rank = np.arange(1, len(row) + 1) - np.searchsorted(row, row)
    chosen = rank <= count
    order = order[chosen]
    return Hits(row[chosen], number[order], passage[order], rank[chosen], score[order])


def highest(
    scores: sparse.csr_matrix, row: Int64Array, documents: UInt32Array, hashes: UInt32Array, count: int
) -> tuple[Int64Array, NDArray[np.int32], NDArray[np.int32]]:
    """Return (row, column, score) of the `count` best columns of each row, with scores above 0, and of hardly any others.

    `row` has the row of each score. `documents` and `hashes` are hashes of the columns and of the rows. `take` is faster than an
    index, most of all with numbers of 32 bits.
    """
    bounds = _lower_bounds(scores, count)
    at = np.flatnonzero(scores.data >= np.repeat(bounds, np.diff(scores.indptr)))
    row, column, score = row.take(at), scores.indices.take(at), scores.data.take(at)
    ties = _ties(documents.take(column), hashes.take(row))
    few = _with_low_hashes(row, score > bounds.take(row), ties, count)
    chosen = few.take(_highest(row.take(few), score.take(few), ties.take(few), count))
    return row.take(chosen), column.take(chosen), score.take(chosen)


def _lower_bounds(scores: sparse.csr_matrix, count: int) -> NDArray[np.int32]:
    """Return for each row a score, at least 1, that is at most that of the `count` best, or of all if there are not so many.

    The scores of a row are cut into runs. The `count` runs with the highest maxima have so many scores.
    """
    bounds, lengths, runs = np.ones(scores.shape[0], np.int32), np.diff(scores.indptr), RUNS * count
    rows = np.flatnonzero(lengths >= runs)
    edges = scores.indptr[rows, None] + lengths[rows, None] * np.arange(runs + 1) // runs
    maxima = np.maximum.reduceat(np.append(scores.data, np.int32(0)), edges.ravel()).reshape(edges.shape)[:, :-1]
    bounds[rows] = np.maximum(1, np.partition(maxima, runs - count, axis=1)[:, runs - count])
    return bounds


def _with_low_hashes(row: Int64Array, is_above: NDArray[np.bool_], ties: UInt32Array, count: int) -> NDArray[np.int64]:
    """Return which documents are above the bound, or among about MOST_EQUAL * `count` of the row with the lowest hashes.

    These have the `count` best documents of each row; all documents if they hold too few of some row.
    """
    found = np.bincount(row)
    limits = (np.minimum(1, MOST_EQUAL * count / np.maximum(1, found)) * (2**32 - 1)).astype(np.uint32)
    few = np.flatnonzero(is_above | (ties <= limits.take(row)))
    is_enough = np.bincount(row.take(few), minlength=len(found)) >= np.minimum(found, count)
    return few if is_enough.all() else np.arange(len(row))


def _highest(row: Int64Array, score: NDArray[np.int32], ties: UInt32Array, count: int) -> NDArray[np.int64]:
    """Return which documents are the `count` best of their row, and those whose upper bits of the hash are the same."""
    found = np.bincount(row)
    order = row << SCORE_BITS | 2**SCORE_BITS - 1 - score
    spare = 64 - max(32, int(order.max(initial=0)).bit_length())
    order = order.astype(np.uint64) << np.uint64(spare) | ties >> np.uint64(32 - spare)
    last = np.cumsum(found) - np.maximum(1, found - count + 1)
    rows = np.flatnonzero(found)
    return np.flatnonzero(order <= np.repeat(np.sort(order)[last[rows]], found[rows]))
