"""texts -> the words of each as 32-bit hashes, for the inverted index and for signatures of near-duplicates."""

import re
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raft_spark.common import arrays, hashing
from raft_spark.common.hashing import Stream
from raft_spark.recipe.term_index import Terms

_WORD = re.compile(r"[^\W_]+")
SIGNATURE = 32  # bytes
_FACTORS = hashing.hash64(0, Stream.SIGNATURE, np.arange(SIGNATURE)).astype(np.uint32) | np.uint32(1)


def split(texts: pa.StringArray) -> Terms:
    """Return the words of the texts: runs of letters and digits, in lower case, in the order of the texts.

    Texts share most words, so only distinct pieces between blanks are looked at one by one.
    """
    pieces = pc.utf8_split_whitespace(texts)
    encoded = pieces.flatten().dictionary_encode()
    of_piece = [
        [zlib.crc32(piece.encode())]
        if piece.isalnum()
        else [zlib.crc32(word.encode()) for word in _WORD.findall(piece)]
        for piece in map(str.casefold, encoded.dictionary.to_pylist())
    ]
    counts = np.array([*map(len, of_piece)], np.int64)
    hashes = np.array([each for words in of_piece for each in words], np.uint32)
    piece = encoded.indices.to_numpy(zero_copy_only=False)
    words = counts[piece]
    at, ordinal = arrays.numbered(words)
    text = pc.list_parent_indices(pieces).to_numpy(zero_copy_only=False)
    return Terms(text[at], hashes[(np.cumsum(counts) - counts)[piece][at] + ordinal])


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
    return np.asarray((one == other).mean(axis=-1))
