"""Staged records -> where each goes: which stay, in which split, under which number. Pure NumPy over the whole source.

A split is a hash of pubid, so an article never changes sides. Numbers are dense within a split, in pubid order at first and
appended later, and never change: they are what distractors are drawn over.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raft_spark import config
from raft_spark.common import hashing
from raft_spark.common.hashing import Int64Array, Stream, UInt64Array

DUPLICATE, HELD_OUT, BEYOND_LIMIT = -1, -2, -3
REASONS: Mapping[int, str] = {DUPLICATE: "duplicate pubid", HELD_OUT: "a passage stands in a held-out split too"}


@dataclass(frozen=True)
class Assignment:
    """Where each staged record goes: `places` is number * 4 + split, or one of the negative reasons.

    `sizes` are the next free numbers by split.
    """

    places: Int64Array
    sizes: tuple[int, ...]

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Say which records are articles of the table."""
        return self.places >= 0

    @property
    def split(self) -> Int64Array:
        """Return the index of each record's split, -1 for those left out."""
        return np.where(self.kept, self.places % 4, -1)


@dataclass(frozen=True)
class NumberedArticles:
    """What the version before holds: pubid, split and number of each article, and the next free numbers by split."""

    pubids: Int64Array
    splits: Int64Array
    numbers: Int64Array
    sizes: tuple[int, ...]


_EMPTY = np.empty(0, np.int64)
NO_ARTICLES = NumberedArticles(_EMPTY, _EMPTY, _EMPTY, (0, 0, 0))


def assign(
    pubids: Int64Array, lengths: Int64Array, hashes: UInt64Array, conf: config.Articles, before: NumberedArticles
) -> Assignment:
    """Choose, split and number: shapes (n,), (n,), (lengths.sum(),).

    Of one pubid the first stays. A record with a passage of a split held out from its own (test before validation before
    train) is left out, so no held-out text is trained on. Of what remains the `limit` lowest hashes stay. A number is
    kept for ever and a withdrawn one left empty; new articles are appended in pubid order. Only when less than half of
    the numbers would still be in use are all given anew.
    """
    n = len(pubids)
    places = np.full(n, BEYOND_LIMIT, np.int64)
    alive = np.zeros(n, bool)
    alive[np.unique(pubids, return_index=True)[1]] = True
    places[~alive] = DUPLICATE
    splits = split_of(pubids, conf)
    owner = np.repeat(np.arange(n), lengths)
    held_out = np.empty(0, np.uint64)
    for split in (2, 1, 0):
        here = alive & (splits == split)
        leaks = np.unique(owner[here[owner] & np.isin(hashes, held_out)])
        places[leaks], alive[leaks] = HELD_OUT, False
        held_out = np.union1d(held_out, hashes[(alive & (splits == split))[owner]])
    if conf.limit:
        rows = np.flatnonzero(alive)
        order = np.lexsort((pubids[rows], hashing.hash64(0, Stream.LIMIT, pubids[rows])))
        alive[rows[order[conf.limit :]]] = False
    sizes = []
    for split in (0, 1, 2):
        rows = np.flatnonzero(alive & (splits == split))
        rows = rows[np.argsort(pubids[rows])]
        numbers, size = _numbers(pubids[rows], split, before)
        places[rows] = numbers * 4 + split
        sizes.append(size)
    return Assignment(places, tuple(sizes))


def split_of(pubids: Int64Array, conf: config.Articles) -> Int64Array:
    """Return the split (index into schemas.SPLITS) of each pubid: a hash decides, whatever else is there."""
    drawn = hashing.uniform(hashing.hash64(0, Stream.SPLIT, pubids))
    return np.where(drawn < conf.test_share, 2, np.where(drawn < conf.test_share + conf.validation_share, 1, 0))


def _numbers(pubids: Int64Array, split: int, before: NumberedArticles) -> tuple[Int64Array, int]:
    """Give numbers to one split's pubids, sorted: (numbers, next free number)."""
    mine = before.splits == split
    order = np.argsort(before.pubids[mine])
    known, old = before.pubids[mine][order], before.numbers[mine][order]
    at = np.searchsorted(known, pubids)
    same = at < len(known)
    same[same] = known[at[same]] == pubids[same]
    size = before.sizes[split]
    if same.sum() * 2 < size:
        return np.arange(len(pubids)), len(pubids)
    numbers = np.empty(len(pubids), np.int64)
    numbers[same] = old[at[same]]
    new = int((~same).sum())
    numbers[~same] = np.arange(size, size + new)
    return numbers, size + new
