"""seed, keys -> pseudo-random numbers: the only source of randomness of the project. Without state and clock: the same arguments
give the same numbers on any machine, in any order and partition.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from raft_spark.errors import InputError

UInt64Array = NDArray[np.uint64]
Int64Array = NDArray[np.int64]
_XX = [  # the primes of XXH64
    *map(
        np.uint64, (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5)
    )
]


class Stream(IntEnum):
    """The independent random streams, one for each purpose; two streams with the same value would give the same numbers."""

    SPLIT = 1
    LIMIT = 2
    KEEP = 3
    DRAW = 4
    PASSAGE = 5
    ORDER = 6
    SHUFFLE = 7
    EVALUATE = 8
    RESAMPLE = 9
    COMPARE = 10
    STAND_IN = 11
    METHOD = 12
    NEAR = 13
    EQUAL_SCORE = 14
    SIGNATURE = 15
    WINDOW = 16
    RESAMPLE_SEEDS = 20


def hash64(seed: int, stream: Stream, *parts: Int64Array | UInt64Array | int) -> UInt64Array:
    """Hash (seed, stream, parts) to 64 uniform bits, element by element, with NumPy's broadcasting.

    Applies the finaliser of splitmix64 after each part (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number
    generators").
    """
    state = _splitmix64(np.asarray(seed).astype(np.uint64))
    for part in (int(stream), *parts):
        state = extend(state, part)
    return state


def extend(state: UInt64Array, part: Int64Array | UInt64Array | int) -> UInt64Array:
    """Hash one more part: the hash of several parts is that of the first ones, extended by the last."""
    return _splitmix64(state ^ np.asarray(part).astype(np.uint64))


def spark_xxhash64(*columns: int | Int64Array | NDArray[np.bool_]) -> Int64Array:
    """Return what Spark's function of that name returns for columns of numbers; a single number stands for a literal.

    The hash of each column is the seed of the next, the first seed is 42. A boolean, and a literal of 32 bits, is an int
    in Spark, any other number a long (XXH64 for inputs of 4 and 8 bytes).
    """
    state = np.full(1, 42, np.uint64)
    for column in columns:
        values = np.atleast_1d(np.asarray(column)).astype(np.int64).astype(np.uint64)
        is_int = -(2**31) <= column < 2**31 if isinstance(column, int) else column.dtype == bool
        with np.errstate(over="ignore"):
            state = _xx_int(state, values) if is_int else _xx_long(state, values)
    return state.astype(np.int64)


def uniform(bits: UInt64Array) -> NDArray[np.float64]:
    """Return numbers in [0, 1) from 64 uniform bits: the upper 53 bits, which a float64 represents exactly."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def randbelow(bits: UInt64Array, limits: Int64Array) -> Int64Array:
    """Return whole numbers in [0, limit) from 64 uniform bits, each limit below 2^31; the bias is less than 2^-32."""
    return ((bits >> np.uint64(32)) * limits.astype(np.uint64) >> np.uint64(32)).astype(np.int64)


def jump_hash(keys: UInt64Array, size: int) -> Int64Array:
    """Return a bucket in 0..size-1 for each key, shape (len(keys),): uniform, and stable as size grows.

    When size grows by one, a share 1 / (size + 1) of the keys moves, all of them to the new bucket.
    Jump consistent hashing (Lamping and Veach 2014, section 3). Raises InputError when size < 1.
    """
    if size < 1:
        msg = f"cannot place keys in {size} buckets; at least 1 is needed"
        raise InputError(msg)
    buckets = np.empty(len(keys), np.int64)
    active, key, bucket = np.arange(len(keys)), keys.astype(np.uint64), np.zeros(len(keys))
    while len(active):
        key *= np.uint64(2862933555777941757)
        key += np.uint64(1)
        jump = np.floor((bucket + 1) * (2.0**31 / ((key >> np.uint64(33)) + np.uint64(1)).astype(np.float64)))
        inside = jump < size
        at, done = np.flatnonzero(inside), np.flatnonzero(~inside)
        buckets[active[done]] = bucket[done]
        active, key, bucket = active[at], key[at], jump[at]
    return buckets


def _xx_int(seed: UInt64Array, value: UInt64Array) -> UInt64Array:
    lower = value & np.uint64(2**32 - 1)
    return _xx_final(_rotated((seed + _XX[4] + np.uint64(4)) ^ lower * _XX[0], 23) * _XX[1] + _XX[2])


def _xx_long(seed: UInt64Array, value: UInt64Array) -> UInt64Array:
    mixed = _rotated(value * _XX[1], 31) * _XX[0]
    return _xx_final(_rotated((seed + _XX[4] + np.uint64(8)) ^ mixed, 27) * _XX[0] + _XX[3])


def _xx_final(state: UInt64Array) -> UInt64Array:
    state = (state ^ (state >> np.uint64(33))) * _XX[1]
    state = (state ^ (state >> np.uint64(29))) * _XX[2]
    return state ^ (state >> np.uint64(32))


def _rotated(state: UInt64Array, bits: int) -> UInt64Array:
    return state << np.uint64(bits) | state >> np.uint64(64 - bits)


def _splitmix64(state: UInt64Array) -> UInt64Array:
    with np.errstate(over="ignore"):
        state = state + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return state ^ (state >> np.uint64(31))
