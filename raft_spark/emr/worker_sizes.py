"""vCPUs and GB of a worker -> whether EMR Serverless offers it, and how large its Spark heap can be.

The memory of a worker holds the heap (spark.executor.memory) and the overhead, which Python uses. EMR takes the overhead as
`factor` times the heap, at least 384 MB, and rounds the sum up to a size that it offers. So a heap as large as the worker
gets, and costs, the next larger worker. Sizes: EMR Serverless user guide, "Supported worker configurations".
"""

from collections.abc import Mapping

MEMORY_GB: Mapping[int, range] = {  # vCPUs -> GB
    1: range(2, 9),
    2: range(4, 17),
    4: range(8, 31),
    8: range(16, 61, 4),
    16: range(32, 121, 8),
}
MIN_OVERHEAD = 384  # MB
FACTOR = "spark.emr-serverless.memoryOverheadFactor"
DEFAULT_FACTOR = 0.1


def problem(cores: int, memory_gb: int) -> str:
    """Return "" for a size that EMR offers, else the size and what would be right."""
    legal = MEMORY_GB.get(cores)
    if legal is None:
        return f"{cores} vCPUs; a worker has one of {', '.join(map(str, MEMORY_GB))}"
    if memory_gb in legal:
        return ""
    steps = f" in steps of {legal.step}" if legal.step > 1 else ""
    return f"{memory_gb} GB with {cores} vCPUs; such a worker has {legal[0]} to {legal[-1]} GB{steps}"


def overhead_factor(spark: Mapping[str, str]) -> float:
    """Return the overhead factor of Spark's properties. Raises ValueError unless it is between 0 and 1."""
    factor = float(spark.get(FACTOR, DEFAULT_FACTOR))
    if not 0 < factor < 1:
        raise ValueError(factor)
    return factor


def heap_mb(memory_gb: int, factor: float) -> int:
    """Return the largest heap, in MB, that fits into a worker together with its overhead."""
    memory = memory_gb * 1024
    return min(memory - MIN_OVERHEAD, int(memory / (1 + factor)))
