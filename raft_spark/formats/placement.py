"""numbers of rows -> the shard of a dataset that a row is in, its order there, and the Spark task that writes the shard.

A hash of the pubid decides on the shard and on the order, so the bytes of a shard depend only on its rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from raft_spark.common import hashing
from raft_spark.common.hashing import Int64Array

MAX_UNEVEN = 1.3  # rows of the largest task, by the mean of all
PART_ROWS = 25_000  # at most, about, of the part of a shard that a task holds in memory


@dataclass(frozen=True)
class Placement:
    """Where rows go: `rows` are the numbers of rows by split, `shard_rows` is the largest number in a shard.

    A part is a range of the order within a shard. Parts are numbered in the order of the splits, shards and ranges.
    """

    rows: Mapping[str, int]
    shard_rows: int
    seed: int

    @cached_property
    def shards(self) -> dict[str, int]:
        """The number of shards of each split."""
        return {split: -(-rows // self.shard_rows) for split, rows in self.rows.items()}

    @cached_property
    def parts(self) -> int:
        """The number of parts of each shard."""
        most = max((self.rows[split] / count for split, count in self.shards.items() if count), default=1)
        return max(1, -(-round(most) // PART_ROWS))

    @cached_property
    def tasks(self) -> list[int]:
        """The number of the Spark task that writes each shard, in the order of the splits.

        Small shards share a task: as many tasks as leave none with more than MAX_UNEVEN times the mean of the rows.
        """
        sizes = [self.rows[split] / count for split, count in self.shards.items() for _ in range(count)]
        order = sorted(range(len(sizes)), key=lambda number: -sizes[number])
        for tasks in range(len(sizes), 0, -1):
            loads, assigned = [0.0] * tasks, [0] * len(sizes)
            for number in order:
                assigned[number] = min(range(tasks), key=loads.__getitem__)
                loads[assigned[number]] += sizes[number]
            if max(loads) * tasks <= MAX_UNEVEN * sum(loads):
                return assigned
        return []

    @cached_property
    def _names(self) -> list[tuple[str, int]]:
        return [(split, shard) for split, count in self.shards.items() for shard in range(count)]

    def order(self, pubids: Int64Array) -> Int64Array:
        """Return the key that rows of a shard are sorted by."""
        return hashing.spark_xxhash64(self.seed, pubids)

    def part_of(self, split: str, pubids: Int64Array) -> Int64Array:
        """Return the part of each row of a split."""
        order = self.order(pubids)
        first = self._names.index((split, 0)) if len(pubids) else 0
        upper = (order.astype(np.uint64) ^ np.uint64(2**63)) >> np.uint64(32)  # ascends with the order
        range_ = (upper * np.uint64(self.parts) >> np.uint64(32)).astype(np.int64)
        return (first + order % max(1, self.shards.get(split, 1))) * self.parts + range_

    def shard_of(self, part: int) -> tuple[str, int]:
        """Return the split and the number of the shard that a part belongs to."""
        return self._names[part // self.parts]
