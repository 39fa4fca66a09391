"""vCPUs and GB of a worker -> whether EMR Serverless offers it, how large its Spark heap can be, what it costs to wait.

The memory of a worker holds the heap (spark.executor.memory) and the overhead, which Python uses. EMR takes the overhead as
`factor` times the heap, at least 384 MB, and rounds the sum up to a size that it offers. So a heap as large as the worker
gets, and costs, the next larger worker. Sizes: EMR Serverless user guide, "Supported worker configurations".
"""

from collections.abc import Mapping
from dataclasses import dataclass

from raft_spark.config import Config

MEMORY_GB: Mapping[int, range] = {  # vCPUs -> GB
    1: range(2, 9),
    2: range(4, 17),
    4: range(8, 31),
    8: range(16, 61, 4),
    16: range(32, 121, 8),
}
SMALL_DRIVER = (1, 4)  # vCPUs and GB, enough to wait for batch jobs
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


@dataclass(frozen=True, slots=True)
class BatchWait:
    """The most hours that batch jobs take, the dollars of a driver on EMR for them (0 = unknown), and how to pay less."""

    hours: int
    dollars: float
    advice: str


def batch_wait(conf: Config) -> BatchWait:
    """Return what waiting for batch jobs may cost."""
    emr, hours = conf.emr, conf.completions.batch.timeout_hours
    dollars = hours * emr.dollars(emr.driver_cores, emr.driver_memory_gb, emr.billed_disk_gb)
    cores, memory = SMALL_DRIVER
    small = hours * emr.dollars(cores, memory, emr.billed_disk_gb)
    advice = (
        f"a driver of {cores} vCPU and {memory} GB is enough to wait for batch jobs, for ${small:,.2f} in {hours} hours and not "
        f"${dollars:,.2f}: emr.driver_cores = {cores}, emr.driver_memory_gb = {memory}, for the job completions"
    )
    return BatchWait(hours, dollars, advice if small < dollars else "")
