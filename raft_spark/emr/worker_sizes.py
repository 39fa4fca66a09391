"""vCPUs and GB of a worker of EMR Serverless -> whether there is such a worker, and how much of it is Spark's heap.

A worker's GB hold the heap (spark.executor.memory) and the overhead beside it, where Python lives; EMR takes the overhead
to be `factor` times the heap, at least 384 MB, and rounds the sum up to a worker that exists. So whoever asks for the GB of a
worker as the heap gets, and pays, the next larger one. Table: EMR Serverless user guide, "Supported worker configurations".
"""

from collections.abc import Mapping

MEMORY: Mapping[int, range] = {  # vCPUs -> GB
    1: range(2, 9),
    2: range(4, 17),
    4: range(8, 31),
    8: range(16, 61, 4),
    16: range(32, 121, 8),
}
LEAST_OVERHEAD = 384  # MB
FACTOR = "spark.emr-serverless.memoryOverheadFactor"
USUAL = 0.1


def problems(cores: int, memory_gb: int) -> str:
    """Return "" for a worker that exists, else what would be right."""
    legal = MEMORY.get(cores)
    if legal is None:
        return f"{cores} vCPUs; a worker has {', '.join(map(str, MEMORY))}"
    if memory_gb in legal:
        return ""
    steps = f" in steps of {legal.step}" if legal.step > 1 else ""
    return f"{memory_gb} GB with {cores} vCPUs; such a worker has {legal[0]} to {legal[-1]} GB{steps}"


def factor(spark: Mapping[str, str]) -> float:
    """Return the overhead that Spark's settings say. Raises ValueError for what is no number in 0..1."""
    told = float(spark.get(FACTOR, USUAL))
    if not 0 < told < 1:
        raise ValueError(told)
    return told


def heap_mb(memory_gb: int, factor: float) -> int:
    """Return the largest heap, in MB, that a worker holds together with its overhead."""
    memory = memory_gb * 1024
    return min(memory - LEAST_OVERHEAD, int(memory / (1 + factor)))
