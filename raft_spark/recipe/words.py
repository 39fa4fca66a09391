"""texts -> the words of each as 32-bit hashes, for the inverted index and for signatures of near-duplicates."""

import re
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raft_spark.common import hashing
from raft_spark.common.hashing import Stream
from raft_spark.recipe.term_index import Terms

_WORD = re.compile(r"[^\W_]+|\n")
SIGNATURE = 32  # bytes
_SUM_OF_BYTES = np.uint64(0x0101010101010101)  # is the highest byte of the product with it
_FACTORS = hashing.hash64(0, Stream.SIGNATURE, np.arange(SIGNATURE)).astype(np.uint32) | np.uint32(1)


def split(texts: pa.StringArray) -> Terms:
    """Return the words of the texts: runs of letters and digits, in lower case, in the order of the texts.

    Texts share most words, so only distinct pieces between blanks are looked at one by one.
    """
    pieces = pc.utf8_split_whitespace(texts)
    encoded = pieces.flatten().dictionary_encode()
    found = _WORD.findall("\n".join(encoded.dictionary.to_pylist()).casefold())
    is_end = np.fromiter(map("\n".__eq__, found), bool, len(found))
    all_hashes = np.fromiter(map(zlib.crc32, map(str.encode, found)), np.uint32, len(found))
    hashes = all_hashes[~is_end]
    edges = np.flatnonzero(np.concatenate([[True], is_end, [True]]))
    offsets = pa.array((edges - np.arange(len(edges))).astype(np.int32))
    words = pa.ListArray.from_arrays(offsets, pa.array(hashes)).take(encoded.indices)
    document = pc.list_parent_indices(pieces).take(pc.list_parent_indices(words))
    return Terms(document.to_numpy(), words.flatten().to_numpy())


def signatures(terms: Terms, texts: int) -> NDArray[np.uint8]:
    """Return the MinHash signature of each text's set of words, shape (texts, SIGNATURE) (Broder 1997).

    The share of equal bytes of two signatures estimates the Jaccard similarity of the two sets, with a standard error of
    at most 0.09.
    """
    signed = np.full((SIGNATURE, texts), 2**32 - 1, np.uint32)
    counts = np.bincount(terms.document, minlength=texts)
    with_words = np.flatnonzero(counts)
    first = (np.cumsum(counts) - counts)[with_words]
    for each, factor in enumerate(_FACTORS if len(first) else ()):
        mixed = terms.term * factor
        mixed ^= mixed >> np.uint32(15)
        signed[each, with_words] = np.minimum.reduceat(mixed * _FACTORS[-1], first)
    return (signed >> np.uint32(8)).astype(np.uint8).T


def similarity(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the share of equal bytes of signatures, over the last axis, with NumPy's broadcasting."""
    equal = np.ascontiguousarray(one == other).view(np.uint64)
    counts = equal @ np.ones(SIGNATURE // 8, np.uint64)  # eight of them, a byte each
    with np.errstate(over="ignore"):
        return np.asarray((counts * _SUM_OF_BYTES >> np.uint64(56)) / SIGNATURE)
