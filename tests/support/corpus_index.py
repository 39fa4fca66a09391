"""Build the index of a corpus from numbers of passages."""

import numpy as np
from numpy.typing import NDArray

from raft_spark.recipe.corpus import CorpusIndex


def index_of(counts: NDArray[np.int64], texts: NDArray[np.uint32] | None = None) -> CorpusIndex:
    """Return the index of articles with these numbers of passages (0 = no article); by default no two texts are the
    same.
    """
    first = np.cumsum(counts) - counts
    total = int(counts.sum())
    pubid = np.where(counts > 0, 1_000 + 7 * np.arange(len(counts)), -1)
    checksum = np.arange(total, dtype=np.uint32) if texts is None else texts
    return CorpusIndex(pubid, first, counts, checksum, np.arange(total + 1))
