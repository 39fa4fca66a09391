"""pubids and passage hashes of all records -> which records stay, in which split, under which number.

Pure NumPy over the whole source. A hash of the pubid decides on the split, or the file articles.holdout, so an article never changes its split. Numbers
are dense within a split: at first in pubid order, later new articles are appended. An article keeps its number, because
distractors are drawn by number.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raft_spark import config
from raft_spark.common import hashing
from raft_spark.common.hashing import Int64Array, Stream, UInt64Array

TRAIN, VALIDATION, TEST = 0, 1, 2  # as in schemas.SPLITS
DUPLICATE, HELD_OUT, BEYOND_LIMIT = -1, -2, -3
REASONS: Mapping[int, str] = {
    DUPLICATE: "duplicate pubid",
    HELD_OUT: "the question or a passage stands in a held-out split too",
}


@dataclass(frozen=True)
class Assignment:
    """The split and the number of each record.

    `codes` and `numbers` have one value a record. A code is the index of the split in schemas.SPLITS, or one of the
    negative reasons for which the record is left out; then its number is -1. `sizes` are the next free numbers by split.
    """

    codes: Int64Array
    numbers: Int64Array
    sizes: tuple[int, ...]

    @property
    def is_kept(self) -> NDArray[np.bool_]:
        """Say which records are articles of the table."""
        return self.codes >= 0

    def count(self, code: int) -> int:
        """Return how many records have this code."""
        return int((self.codes == code).sum())


@dataclass(frozen=True)
class NumberedArticles:
    """The articles of the previous version: pubid, split and number of each, and the next free numbers by split."""

    pubids: Int64Array
    splits: Int64Array
    numbers: Int64Array
    sizes: tuple[int, ...]


NO_PUBIDS = np.empty(0, np.int64)
NO_ARTICLES = NumberedArticles(NO_PUBIDS, NO_PUBIDS, NO_PUBIDS, (0, 0, 0))


def assign(
    pubids: Int64Array,
    lengths: Int64Array,
    hashes: UInt64Array,
    conf: config.Articles,
    previous: NumberedArticles,
    holdout: Int64Array = NO_PUBIDS,
) -> Assignment:
    """Deduplicate, split and number the records.

    `pubids` and `lengths` (texts of a record) have the shape (n,), `hashes` (of the texts) has (lengths.sum(),).

    The pubids of `holdout` are in the test split, whatever their hash. Of the records with one pubid the first stays.
    A record that shares a text with a split held out from its own (test
    from validation and train, validation from train) is left out, so that no held-out text is trained on. Of the rest,
    those with the `limit` lowest hashes stay. An article keeps its number, and the number of a withdrawn article stays
    empty; new articles are appended in pubid order. If less than half of the numbers of a split would still be in use,
    the split is numbered anew.
    """
    n = len(pubids)
    splits = np.where(np.isin(pubids, holdout), TEST, split_of(pubids, conf))
    is_first = np.zeros(n, bool)
    is_first[np.unique(pubids, return_index=True)[1]] = True
    leaks = _leaks(splits, is_first, np.repeat(np.arange(n), lengths), hashes)
    is_kept = is_first & ~leaks
    is_kept[_beyond_limit(pubids, is_kept, conf.limit)] = False
    codes = np.select([is_kept, leaks, ~is_first], [splits, HELD_OUT, DUPLICATE], BEYOND_LIMIT)
    numbers, sizes = np.full(n, -1), []
    for split in (TRAIN, VALIDATION, TEST):
        rows = np.flatnonzero(codes == split)
        rows = rows[np.argsort(pubids[rows])]
        numbers[rows], size = _numbers(pubids[rows], split, previous)
        sizes.append(size)
    return Assignment(codes, numbers, tuple(sizes))


def split_of(pubids: Int64Array, conf: config.Articles) -> Int64Array:
    """Return the split of each pubid as its index in schemas.SPLITS. It depends on the pubid and the shares alone."""
    drawn = hashing.uniform(hashing.hash64(0, Stream.SPLIT, pubids))
    return np.where(
        drawn < conf.test_share, TEST, np.where(drawn < conf.test_share + conf.validation_share, VALIDATION, TRAIN)
    )


def _leaks(
    splits: Int64Array, is_first: NDArray[np.bool_], record: Int64Array, hashes: UInt64Array
) -> NDArray[np.bool_]:
    """Say which records share a text with a split held out from their own; `record` is the record of each hash."""
    leaks = np.zeros(len(splits), bool)
    held_out = np.empty(0, np.uint64)
    for split in (TEST, VALIDATION, TRAIN):
        candidates = is_first & (splits == split)
        leaks[record[candidates[record] & np.isin(hashes, held_out)]] = True
        held_out = np.union1d(held_out, hashes[(candidates & ~leaks)[record]])
    return leaks


def _beyond_limit(pubids: Int64Array, is_kept: NDArray[np.bool_], limit: int) -> Int64Array:
    """Return the indices of the kept records beyond the `limit` lowest hashes; none if the limit is 0."""
    if not limit:
        return NO_PUBIDS
    rows = np.flatnonzero(is_kept)
    order = np.lexsort((pubids[rows], hashing.hash64(0, Stream.LIMIT, pubids[rows])))
    return rows[order[limit:]]


def _numbers(pubids: Int64Array, split: int, previous: NumberedArticles) -> tuple[Int64Array, int]:
    """Return the numbers of one split's sorted pubids, and the next free number."""
    of_split = previous.splits == split
    order = np.argsort(previous.pubids[of_split])
    old_pubids, old_numbers = previous.pubids[of_split][order], previous.numbers[of_split][order]
    at = np.searchsorted(old_pubids, pubids)
    is_old = at < len(old_pubids)
    is_old[is_old] = old_pubids[at[is_old]] == pubids[is_old]
    size = previous.sizes[split]
    if is_old.sum() * 2 < size:
        return np.arange(len(pubids)), len(pubids)
    numbers = np.empty(len(pubids), np.int64)
    numbers[is_old] = old_numbers[at[is_old]]
    new = int((~is_old).sum())
    numbers[~is_old] = np.arange(size, size + new)
    return numbers, size + new
