"""pubids and passage hashes of all records -> which records stay, in which split, under which number.

Pure NumPy over the whole source, which is read part by part. In memory a record is its pubid, its code and its place in the
order of pubids, 13 bytes, and a text of a held-out split its hash. A hash of the pubid decides on the split, or the file articles.holdout, so an article
never changes its split. Numbers are dense within a split: at first in pubid order, later new articles are appended. An article
keeps its number, because distractors are drawn by number.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from raft_spark import config
from raft_spark.common import hashing
from raft_spark.common.hashing import Int64Array, Stream, UInt64Array

Int8Array = NDArray[np.int8]
Int32Array = NDArray[np.int32]

TRAIN, VALIDATION, TEST = 0, 1, 2  # as in schemas.SPLITS
DUPLICATE, HELD_OUT, BEYOND_LIMIT = -1, -2, -3
REASONS: Mapping[int, str] = {
    DUPLICATE: "duplicate pubid",
    HELD_OUT: "the question or a passage stands in a held-out split too",
}
_PART = 1 << 16  # records whose temporary arrays are in memory at once
_LAST = np.uint64(2**64 - 1)
_Integer = TypeVar("_Integer", np.int64, np.uint64)


@dataclass(frozen=True)
class Records:
    """The checked records of the source, fewer than 2^31. Each function reads them from the beginning, in order and in parts.

    `pubids` yields arrays of shape (records,); `hashes` yields the number of texts of each record, and the hashes of the texts.
    """

    count: int
    pubids: Callable[[], Iterable[Int64Array]]
    hashes: Callable[[], Iterable[tuple[Int64Array, UInt64Array]]]


@dataclass(frozen=True)
class Assignment:
    """The split and the number of each record.

    `codes` and `numbers` have one value a record. A code is the index of the split in schemas.SPLITS, or one of the
    negative reasons for which the record is left out; then its number is -1. `sizes` are the next free numbers by split.
    `held_out` is how many pubids of articles.holdout the source has.
    """

    codes: Int8Array
    numbers: Int32Array
    sizes: tuple[int, ...]
    held_out: int

    @property
    def is_kept(self) -> NDArray[np.bool_]:
        """Say which records are articles of the table."""
        return self.codes >= 0

    def count(self, code: int) -> int:
        """Return how many records have this code."""
        return int((self.codes == code).sum())


@dataclass(frozen=True)
class NumberedArticles:
    """The articles of the previous version: the next free numbers by split; `parts` yields pubids and numbers of a split."""

    sizes: tuple[int, ...]
    parts: Callable[[int], Iterable[tuple[Int64Array, Int64Array]]]


NO_PUBIDS = np.empty(0, np.int64)
NO_ARTICLES = NumberedArticles((0, 0, 0), lambda _: ())


def assign(
    records: Records, conf: config.Articles, previous: NumberedArticles, holdout: Int64Array = NO_PUBIDS
) -> Assignment:
    """Deduplicate, split and number the records.

    The pubids of `holdout`, which are sorted, are in the test split, whatever their hash. Of the records with one pubid
    the first stays. A record that shares a text with a split held out from its own (test from validation and train,
    validation from train) is left out, so that no held-out text is trained on; one that is left out holds no text back.
    Of the rest, those with the `limit` lowest hashes stay. An article keeps its number, and the number of a withdrawn
    article stays empty; new articles are appended in pubid order. If less than half of the numbers of a split would
    still be in use, the split is numbered anew.
    """
    pubids, codes = _read(records, conf, holdout)
    order = np.argsort(pubids, kind="stable").astype(np.int32)
    pubids = pubids[order]
    codes[order[1:][pubids[1:] == pubids[:-1]]] = DUPLICATE
    _mark_leaks(codes, records)
    _mark_beyond_limit(codes, order, pubids, conf.limit)
    numbers, sizes = np.full(records.count, -1, np.int32), []
    for split in (TRAIN, VALIDATION, TEST):
        is_own = codes[order] == split
        numbers[order[is_own]], size = _numbers(pubids[is_own], split, previous)
        sizes.append(size)
    return Assignment(codes, numbers, tuple(sizes), int(_is_in(holdout, pubids).sum()))


def split_of(pubids: Int64Array, conf: config.Articles) -> Int64Array:
    """Return the split of each pubid as its index in schemas.SPLITS. It depends on the pubid and the shares alone."""
    drawn = hashing.uniform(hashing.hash64(0, Stream.SPLIT, pubids))
    return np.where(
        drawn < conf.test_share, TEST, np.where(drawn < conf.test_share + conf.validation_share, VALIDATION, TRAIN)
    )


def _read(records: Records, conf: config.Articles, holdout: Int64Array) -> tuple[Int64Array, Int8Array]:
    """Return the pubid and the split of each record."""
    pubids, codes, start = np.empty(records.count, np.int64), np.empty(records.count, np.int8), 0
    for part in records.pubids():
        rows = slice(start, start := start + len(part))
        pubids[rows] = part
        codes[rows] = np.where(_is_in(part, holdout), TEST, split_of(part, conf))
    return pubids, codes


def _is_in(values: NDArray[_Integer], among: NDArray[_Integer]) -> NDArray[np.bool_]:
    """Say which values stand in a sorted array. Sorted values are looked up 3 to 9 times as fast as in any order."""
    if not len(among):
        return np.zeros(len(values), bool)
    ordered = np.sort(values)
    at = np.minimum(np.searchsorted(among, ordered), len(among) - 1)
    return np.isin(values, ordered[among[at] == ordered])


def _mark_leaks(codes: Int8Array, records: Records) -> None:
    """Mark the records that share a text with a split held out from their own; the hashes of held-out splits are in memory."""
    held_out: list[UInt64Array] = []
    for split in (TEST, VALIDATION, TRAIN):
        if not (codes == split).any() or (split == TRAIN and not held_out):
            continue
        found, start = bytearray(), 0  # a bytearray grows in place
        for lengths, hashes in records.hashes():
            own = codes[start : start + len(lengths)]
            start += len(lengths)
            is_candidate = own == split
            record = np.repeat(np.flatnonzero(is_candidate), lengths[is_candidate])
            texts = hashes[np.repeat(is_candidate, lengths)]
            for held in held_out:
                own[record[_is_in(texts, held)]] = HELD_OUT
            if split != TRAIN:
                found += texts[own[record] == split].tobytes()
        held_out.append(np.frombuffer(found, np.uint64))
        held_out[-1].sort()


def _mark_beyond_limit(codes: Int8Array, order: Int32Array, pubids: Int64Array, limit: int) -> None:
    """Mark the kept records beyond the `limit` lowest hashes, unless the limit is 0. Different pubids have different hashes."""
    is_kept = codes[order] >= 0
    if not limit or is_kept.sum() <= limit:
        return
    drawn = np.full(len(pubids), _LAST, np.uint64)
    for start in range(0, len(pubids), _PART):
        rows = slice(start, start + _PART)
        drawn[rows][is_kept[rows]] = hashing.hash64(0, Stream.LIMIT, pubids[rows][is_kept[rows]])
    is_kept &= drawn > np.partition(drawn, limit - 1)[limit - 1]
    codes[order[is_kept]] = BEYOND_LIMIT


def _numbers(pubids: Int64Array, split: int, previous: NumberedArticles) -> tuple[Int32Array, int]:
    """Return the numbers of one split's sorted pubids, and the next free number."""
    size, numbers = previous.sizes[split], np.full(len(pubids), -1, np.int32)
    for old_pubids, old_numbers in previous.parts(split) if len(pubids) else ():
        at = np.minimum(np.searchsorted(pubids, old_pubids), len(pubids) - 1)
        is_same = pubids[at] == old_pubids
        numbers[at[is_same]] = old_numbers[is_same]
    is_new = numbers < 0
    new = int(is_new.sum())
    if (len(pubids) - new) * 2 < size:
        return np.arange(len(pubids), dtype=np.int32), len(pubids)
    numbers[is_new] = np.arange(size, size + new, dtype=np.int32)
    return numbers, size + new
