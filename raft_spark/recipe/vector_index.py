"""vectors of questions and passages -> the passages of a split whose cosine with a question is largest, exactly.

The search multiplies all questions of a batch with all passages of the split, block by block. The vectors have the length LENGTH
and are rounded to whole numbers, so that every sum of a product is a whole number below 2^24, which a float32 holds exactly:
a score is the same on any machine, in any order of the sum. The rounding changes a cosine by about 0.0001.

All files are memory-mapped. VECTORS has each distinct vector once, and the two files of a split say which is whose.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raft_spark.common import arrays
from raft_spark.common.hashing import Int64Array, UInt64Array
from raft_spark.recipe import ranking
from raft_spark.recipe.ranking import Hits

VECTORS = "vectors.npy"
LENGTH = 4000  # of a rounded vector; its square stays below 2^24 when 16,384 numbers are rounded up
SCALE = LENGTH * LENGTH  # of a score
NONE = -1  # in place of a vector's position
PASSAGE = np.dtype([("number", np.int32), ("passage", np.int32), ("vector", np.int32)])
QUESTIONS_AT_ONCE, PASSAGES_AT_ONCE = 512, 8192  # whose scores are in memory: 16 MB
FIRST = 64  # times as many passages as are searched for
Float32Array = NDArray[np.float32]


def rounded(vectors: NDArray[np.floating]) -> NDArray[np.int16]:
    """Return vectors of any length but 0 as whole numbers, with the length LENGTH; shape (vectors, numbers)."""
    exact = vectors.astype(np.float64)
    whole: NDArray[np.int16] = np.rint(exact * (LENGTH / np.linalg.norm(exact, axis=1, keepdims=True))).astype(np.int16)
    return whole


def file_names(split: str) -> tuple[str, str]:
    """Return the names of a split's files.

    The first has the type PASSAGE and a row for each passage that has a vector; those of an article follow each other. The
    second has the vector of each question by its article's number, or NONE.
    """
    return f"{split}-embedding.npy", f"{split}-questions.npy"


@dataclass(frozen=True, slots=True)
class _Best:
    """The best passages so far of a block of questions, as positions in the split; scores are whole numbers."""

    row: Int64Array
    position: Int64Array
    score: Float32Array


class VectorIndex:
    """The memory-mapped vectors of one split, from its two files and VECTORS."""

    def __init__(self, passages: Path, questions: Path, vectors: Path) -> None:
        self._vectors, self._passages, self._questions = (
            np.load(path, mmap_mode="r") for path in (vectors, passages, questions)
        )
        first = arrays.starts_of_runs(self._passages["number"])
        self._first, self._count = np.zeros((2, len(self._questions)), np.int64)
        self._first[self._passages["number"][first]] = first
        self._count[self._passages["number"][first]] = np.diff(first, append=len(self._passages))

    def search(self, numbers: Int64Array, keys: UInt64Array, count: int) -> tuple[Hits, Int64Array]:
        """Find the `count` passages of other articles that are nearest to the question of each of the articles `numbers`.

        Return them and the best score of an own passage, shape (questions,); scores are in units of 1 / SCALE. `keys` decide
        the order of equal scores. A question finds nothing if it has no vector, or no own passage with a score above 0, since
        then nothing tells which passages answer it as well.
        """
        best, found = np.zeros(len(numbers), np.int64), []
        for begin in range(0, len(numbers), QUESTIONS_AT_ONCE):
            block = slice(begin, begin + QUESTIONS_AT_ONCE)
            nearest = self._search(numbers[block], count, best[block])
            passages = self._passages[nearest.position]
            columns = (passages["number"], passages["passage"], nearest.score)
            found.append((begin + nearest.row, *(column.astype(np.int64) for column in columns)))
        return ranking.ranked(found, ranking.query_hashes(keys), count), best

    def _search(self, numbers: Int64Array, count: int, best: Int64Array) -> _Best:
        """Return the `count` best passages of each question, and all that equal the last of them; set `best`."""
        questions = self._questions[numbers]
        vectors = self._vectors[questions].astype(np.float32)
        vectors[questions == NONE] = 0
        own_row, ordinal = arrays.numbered(self._count[numbers])
        own = self._first[numbers][own_row] + ordinal
        nearest = _Best(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
        lowest = np.ones(len(numbers), np.float32)  # score of a passage that is among the best so far
        for begin in range(0, len(self._passages), PASSAGES_AT_ONCE):
            block = self._passages["vector"][begin : begin + PASSAGES_AT_ONCE]
            scores = vectors @ self._vectors[block].astype(np.float32).T  # (questions, passages)
            here = (own >= begin) & (own < begin + len(block))
            of_own = own_row[here], own[here] - begin
            np.maximum.at(best, of_own[0], scores[of_own].astype(np.int64))
            scores[of_own] = 0
            if not begin and count < len(block):  # the first ones show what is too far away
                lowest = np.maximum(1, np.partition(scores[:, : FIRST * count], -count, axis=1)[:, -count])
            at = np.flatnonzero(scores >= lowest[:, None])
            row, position = np.divmod(at, len(block))
            nearest = _best(nearest, _Best(row, begin + position, scores.ravel()[at]), count, lowest)
        has_own = best[nearest.row] > 0
        return _Best(nearest.row[has_own], nearest.position[has_own], nearest.score[has_own])


def _best(one: _Best, other: _Best, count: int, lowest: Float32Array) -> _Best:
    """Return the `count` best of both for each question, and all that equal the last of them, whose score `lowest` becomes."""
    row, position, score = (
        np.concatenate([getattr(of, name) for of in (one, other)]) for name in ("row", "position", "score")
    )
    order = np.lexsort((-score, row))
    row, position, score = row[order], position[order], score[order]
    is_last = np.arange(1, len(row) + 1) - np.searchsorted(row, row) == count
    lowest[row[is_last]] = score[is_last]
    chosen = score >= lowest[row]
    return _Best(row[chosen], position[chosen], score[chosen])
