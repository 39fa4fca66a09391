"""(seed, key, ...) -> numbers: the only chance there is. No state, no clock: the same arguments give the same numbers
on any machine, in any order and partition.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from raft_spark.errors import InputError

UInt64Array = NDArray[np.uint64]
Int64Array = NDArray[np.int64]


class Stream(IntEnum):
    """What bits are drawn for. Kept in one place: two purposes with one value would share their chance."""

    SPLIT = 1
    LIMIT = 2
    KEEP = 3
    DRAW = 4
    PASSAGE = 5
    ORDER = 6
    SHUFFLE = 7
    EVALUATE = 8
    RESAMPLE = 9


def hash64(seed: int, purpose: Stream, *parts: Int64Array | UInt64Array | int) -> UInt64Array:
    """Hash (seed, purpose, parts) to 64 uniform bits, element by element, with NumPy's broadcasting.

    The finaliser of splitmix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators") after each part.
    """
    state = _splitmix64(np.asarray(seed).astype(np.uint64))
    for part in (int(purpose), *parts):
        state = _splitmix64(state ^ np.asarray(part).astype(np.uint64))
    return state


def uniform(bits: UInt64Array) -> NDArray[np.float64]:
    """Turn 64 uniform bits into numbers in [0, 1): the upper 53 bits, exactly representable."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def randbelow(bits: UInt64Array, limits: Int64Array) -> Int64Array:
    """Turn 64 uniform bits into whole numbers in [0, limit), each limit below 2^31; off by less than 2^-32 from uniform."""
    return ((bits >> np.uint64(32)) * limits.astype(np.uint64) >> np.uint64(32)).astype(np.int64)


def jump_hash(keys: UInt64Array, size: int) -> Int64Array:
    """Place each key in one of `size` buckets: uniform, and stable as size grows.

    From size to size + 1 a share 1 / (size + 1) of the keys moves, all of them to the new bucket.
    Jump consistent hashing (Lamping and Veach 2014, section 3). Raises InputError when size < 1.
    """
    if size < 1:
        msg = f"cannot place keys in {size} buckets; at least 1 is needed"
        raise InputError(msg)
    buckets = np.zeros(len(keys), np.int64)
    moving, key, at = np.arange(len(keys)), keys.astype(np.uint64), np.zeros(len(keys), np.int64)
    while len(moving):
        buckets[moving] = at
        with np.errstate(over="ignore"):
            key = key * np.uint64(2862933555777941757) + np.uint64(1)
        ahead = (at + 1) * (2.0**31 / ((key >> np.uint64(33)) + np.uint64(1)).astype(np.float64))
        on = ahead < size
        moving, key, at = moving[on], key[on], ahead[on].astype(np.int64)
    return buckets


def _splitmix64(state: UInt64Array) -> UInt64Array:
    with np.errstate(over="ignore"):
        state = state + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return state ^ (state >> np.uint64(31))
