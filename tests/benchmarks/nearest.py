"""Measure how long the search for the nearest passages takes, in microseconds a question: python tests/benchmarks/nearest.py

One thread, as in a Spark task; the passages are random vectors about topics.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

from raft_spark.recipe import vector_index
from raft_spark.recipe.vector_index import VectorIndex

PASSAGES_OF_ARTICLE, WINDOW, QUESTIONS, ROUNDS = 3, 20, 2048, 5


def write(folder: Path, passages: int, dimensions: int) -> VectorIndex:
    """Write the index of random passages, with a question for each article."""
    random = np.random.default_rng(0)
    articles = passages // PASSAGES_OF_ARTICLE
    topics = random.normal(size=(200, dimensions))
    size = PASSAGES_OF_ARTICLE * articles + articles
    np.save(folder / vector_index.VECTORS, vector_index.rounded(topics[random.integers(0, 200, size)] + random.normal(size=(size, dimensions))))  # fmt: skip
    rows = np.zeros(PASSAGES_OF_ARTICLE * articles, vector_index.PASSAGE)
    rows["vector"] = np.arange(len(rows))
    rows["number"], rows["passage"] = np.divmod(rows["vector"], PASSAGES_OF_ARTICLE)
    of_passages, of_questions = (folder / name for name in vector_index.file_names("train"))
    np.save(of_passages, rows)
    np.save(of_questions, np.arange(len(rows), size, dtype=np.int32))
    return VectorIndex(of_passages, of_questions, folder / vector_index.VECTORS)


if __name__ == "__main__":
    for passages, dimensions in ((10_000, 384), (100_000, 384), (100_000, 1024)):
        with tempfile.TemporaryDirectory() as folder:
            index = write(Path(folder), passages, dimensions)
            numbers, times = np.arange(QUESTIONS), []
            for _ in range(ROUNDS):
                begin = time.perf_counter()
                index.search(numbers, numbers.astype(np.uint64), WINDOW)
                times.append((time.perf_counter() - begin) / QUESTIONS * 1e6)
        sys.stdout.write(f"{passages:,} passages of {dimensions} dimensions: {min(times):,.0f} us a question\n")
