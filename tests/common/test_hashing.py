"""Chance is a function of its arguments, uniform, and stable as sizes grow."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft_spark.common import hashing
from raft_spark.common.hashing import Stream
from raft_spark.errors import InputError

pytestmark = pytest.mark.row


def test_bits_are_the_same_on_every_machine_and_in_every_release():
    # splitmix64 from state 0 begins with these two values (Vigna's reference implementation)
    assert hashing._splitmix64(np.uint64(0)) == 0xE220A8397B1DCDAF
    assert hashing._splitmix64(np.uint64(0x9E3779B97F4A7C15)) == 0x6E789E6AA1B965F4


def test_no_two_purposes_share_their_chance():
    pubids = np.arange(100_000)
    drawn = [hashing.uniform(hashing.hash64(3, purpose, pubids)) for purpose in Stream]
    correlation = np.corrcoef(drawn) - np.eye(len(drawn))
    assert np.abs(correlation).max() < 0.02


def test_a_jump_to_one_bucket_more_moves_only_to_that_bucket():
    keys = hashing.hash64(1, Stream.DRAW, np.arange(50_000))
    before, after = hashing.jump_hash(keys, 100), hashing.jump_hash(keys, 101)
    moved = before != after
    assert (after[moved] == 100).all()
    assert abs(moved.mean() - 1 / 101) < 0.002


def test_jumps_are_uniform():
    counts = np.bincount(hashing.jump_hash(hashing.hash64(2, Stream.DRAW, np.arange(200_000)), 50), minlength=50)
    expected = 4_000
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 85.4  # 0.999 quantile at 49 degrees of freedom


def test_jump_agrees_with_the_papers_loop():
    def reference(key: int, size: int) -> int:
        at, ahead = -1, 0
        while ahead < size:
            at = ahead
            key = (key * 2862933555777941757 + 1) % 2**64
            ahead = int((at + 1) * (2.0**31 / ((key >> 33) + 1)))
        return at

    keys = hashing.hash64(9, Stream.DRAW, np.arange(300))
    for size in (1, 2, 7, 1_000, 211_269):
        assert hashing.jump_hash(keys, size).tolist() == [reference(int(key), size) for key in keys]


def test_no_bucket_is_an_error():
    with pytest.raises(InputError, match="0 buckets"):
        hashing.jump_hash(np.zeros(1, np.uint64), 0)


@given(st.integers(0, 2**64 - 1), st.integers(1, 2**31 - 1))
def test_below_stays_below(bits: int, limit: int):
    drawn = hashing.randbelow(np.array([bits], np.uint64), np.array([limit]))
    assert 0 <= drawn[0] < limit


def test_share_lies_in_0_to_1():
    assert hashing.uniform(np.array([0, 2**64 - 1], np.uint64)).tolist() == [0.0, 1 - 2.0**-53]


def test_sparks_hash_is_computed_as_spark_does():
    # SELECT xxhash64(SEED, key) FROM VALUES (0L), (1L), (-1L), on Spark 4.1.1 and 3.5.8
    keys = np.array([0, 1, -1])
    expected = {
        0: [-2984540310115537990, 3991688660284491372, 5740949786098319654],
        42: [-188463564340827900, 7881442880914796865, -1836825983487833008],
        2**31: [-6958896093926364783, 6492010335569427442, 9025481603694429329],
    }
    for seed, hashes in expected.items():
        assert hashing.spark_xxhash64(seed, keys).tolist() == hashes


@given(st.integers(0, 2**63 - 1), st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_a_hash_of_many_is_that_of_each(seed: int, keys: list[int]):
    found = hashing.spark_xxhash64(seed, np.array(keys, np.int64))
    assert found.tolist() == [int(hashing.spark_xxhash64(seed, np.array([key], np.int64))[0]) for key in keys]
