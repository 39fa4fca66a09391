"""A row's shard, part and order depend on its pubid alone; tasks get even loads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft_spark.formats.placement import MAX_UNEVEN, PART_ROWS, Placement

pytestmark = pytest.mark.row


def test_shards_hold_about_the_same_number_of_rows():
    placement = Placement({"train": 190_000, "validation": 9_000, "test": 12_269}, 50_000, 7)
    assert placement.shards == {"train": 4, "validation": 1, "test": 1}
    assert placement.parts == 2  # 47,500 rows
    parts = placement.part_of("train", np.arange(190_000))
    in_shard = np.bincount(parts // placement.parts, minlength=4)
    assert in_shard.max() < 1.02 * in_shard.min()
    assert [placement.shard_of(part) for part in (0, 1, 2, 7, 8, 10)] == [
        ("train", 0),
        ("train", 0),
        ("train", 1),
        ("train", 3),
        ("validation", 0),
        ("test", 0),
    ]


@given(st.integers(0, 2**63 - 1), st.integers(1, 300_000))
def test_parts_follow_the_order_of_their_shard_and_are_small(seed: int, rows: int):
    placement = Placement({"train": 10, "test": rows}, 120_000, seed)
    pubids = np.arange(rows)
    parts, order = placement.part_of("test", pubids), placement.order(pubids)
    assert {placement.shard_of(part)[0] for part in np.unique(parts).tolist()} == {"test"}
    for shard in np.unique(parts // placement.parts):
        of_shard = np.flatnonzero(parts // placement.parts == shard)
        sorted_ = of_shard[np.argsort(order[of_shard])]
        assert (np.diff(parts[sorted_]) >= 0).all()
    assert np.bincount(parts).max() <= PART_ROWS * 1.05 + 100


@given(st.lists(st.integers(0, 400_000), min_size=1, max_size=3))
def test_no_task_writes_much_more_than_the_mean(rows: list[int]):
    placement = Placement(dict(zip(("train", "validation", "test"), rows, strict=False)), 50_000, 0)
    sizes = [placement.rows[split] / count for split, count in placement.shards.items() for _ in range(count)]
    loads = np.bincount(placement.tasks, sizes) if sizes else np.zeros(1)
    assert len(placement.tasks) == len(sizes)
    assert loads.max() <= MAX_UNEVEN * loads.mean() + 1e-6
