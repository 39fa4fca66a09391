"""Which passages a row shows, and in which order: a function of (seed, pubid, slot) and the numbers of its split.

Pure NumPy over whole batches. RAFT (Zhang et al. 2024, section 3): a share P of the rows keeps its oracle passages among
k distractors; the others show distractors only.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raft_spark import config
from raft_spark.common import hashing
from raft_spark.common.hashing import Int64Array, Stream
from raft_spark.errors import InputError
from raft_spark.recipe.corpus import CorpusIndex

ATTEMPTS = 10_000
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Documents:
    """The passages of a batch of rows, in the order shown. All of shape (documents of the batch,), sorted by row.

    `number` and `passage` say which article of the split and which of its passages; `oracle` that it is the row's own.
    """

    row: Int64Array
    number: Int64Array
    passage: Int64Array
    oracle: BoolArray

    def position(self, index: CorpusIndex) -> Int64Array:
        """Where each passage lies among all texts."""
        return index.first[self.number] + self.passage


def keeps_oracle(pubids: Int64Array, conf: config.Base) -> BoolArray:
    """Say which rows keep their oracle: a share P of them."""
    return hashing.uniform(hashing.hash64(conf.seed, Stream.KEEP, pubids)) < conf.oracle_share


def distractor_counts(own: Int64Array, keep: BoolArray, conf: config.Base) -> Int64Array:
    """Return how many distractors each row takes: k; without its oracle k and one for each own passage it lost, so that
    the number of passages does not tell (base.equal_length).
    """
    return conf.distractors + np.where(keep | (not conf.equal_length), 0, own)


def base_rows(pubids: Int64Array, conf: config.Base) -> tuple[Int64Array, BoolArray]:
    """Return which of the articles each row is of, and whether it keeps the oracle: a row an article, or both (base.variants)."""
    which = np.arange(len(pubids))
    if conf.variants == "both":
        return np.repeat(which, 2), np.tile([True, False], len(which))
    return which, keeps_oracle(pubids, conf)


def choose_documents(numbers: Int64Array, keep: BoolArray, index: CorpusIndex, conf: config.Base) -> Documents:
    """Choose and order the passages of rows of the articles with these numbers, with the oracle where `keep` says so.

    Raises InputError when the split is too small.
    """
    pubids, own = index.pubid[numbers], index.count[numbers]
    oracle_row = np.repeat(np.arange(len(numbers)), np.where(keep, own, 0))
    oracle_passage = np.arange(len(oracle_row)) - np.searchsorted(oracle_row, oracle_row)
    row, slot, number, passage = _distractors(numbers, distractor_counts(own, keep, conf), index, conf.seed)
    every = Documents(
        np.concatenate([oracle_row, row]),
        np.concatenate([numbers[oracle_row], number]),
        np.concatenate([oracle_passage, passage]),
        np.repeat([True, False], [len(oracle_row), len(row)]),
    )
    ordinal = np.concatenate([oracle_passage, slot + 2**32])
    order = np.lexsort((hashing.hash64(conf.seed, Stream.ORDER, pubids[every.row], ordinal), every.row))
    return Documents(every.row[order], every.number[order], every.passage[order], every.oracle[order])


def _distractors(
    numbers: Int64Array, slots: Int64Array, index: CorpusIndex, seed: int
) -> tuple[Int64Array, Int64Array, Int64Array, Int64Array]:
    """Fill each row's slots one after the other: (row, slot, number, passage), each of shape (slots.sum(),).

    A candidate is taken unless its number is empty, the row's own or already taken by it, or its text is one of the row's
    own or already taken; then the slot draws again. So a draw depends on the row, its slots before and nothing else.
    """
    shape = (len(numbers), int(slots.max(initial=0)))
    articles, passages = np.full(shape, -1), np.full(shape, -1)
    checksums = np.zeros(shape, np.uint32)
    own = _own_texts(numbers, index)
    for slot in range(shape[1]):
        open_rows = np.flatnonzero(slots > slot)
        for attempt in range(ATTEMPTS):
            bits = hashing.hash64(seed, Stream.DRAW, index.pubid[numbers[open_rows]], slot, attempt)
            number = hashing.jump_hash(bits, index.size)
            passage = hashing.randbelow(hashing.hash64(seed, Stream.PASSAGE, bits), index.count[number])
            there = index.count[number] > 0
            text = index.checksum[np.where(there, index.first[number] + passage, 0)]
            good = there & (number != numbers[open_rows])
            good &= (articles[open_rows, :slot] != number[:, None]).all(axis=1)
            good &= (checksums[open_rows, :slot] != text[:, None]).all(axis=1)
            good &= ~_among(_row_text(open_rows, text), own)
            done = open_rows[good]
            articles[done, slot], passages[done, slot], checksums[done, slot] = number[good], passage[good], text[good]
            open_rows = open_rows[~good]
            if not len(open_rows):
                break
        else:
            pubid = index.pubid[numbers[open_rows[0]]]
            msg = f"no distractor {slot + 1} for pubid {pubid} after {ATTEMPTS} draws; its split holds too few different passages"
            raise InputError(msg)
    row, slot_of = np.nonzero(np.arange(shape[1]) < slots[:, None])
    return row, slot_of, articles[row, slot_of], passages[row, slot_of]


def _own_texts(numbers: Int64Array, index: CorpusIndex) -> NDArray[np.uint64]:
    """Return (row, checksum) of all own passages of the rows, each pair in one number, sorted."""
    counts = index.count[numbers]
    row = np.repeat(np.arange(len(numbers)), counts)
    within = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(_row_text(row, index.checksum[index.first[numbers[row]] + within]))


def _among(values: NDArray[np.uint64], known: NDArray[np.uint64]) -> BoolArray:
    """Say which values are among the known, sorted ones; np.isin would sort them for every draw."""
    at = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return known[at] == values if len(known) else np.zeros(len(values), bool)


def _row_text(row: Int64Array, checksum: NDArray[np.uint32]) -> NDArray[np.uint64]:
    return row.astype(np.uint64) << np.uint64(32) | checksum.astype(np.uint64)
