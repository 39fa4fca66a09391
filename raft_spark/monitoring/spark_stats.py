"""A Spark session -> what Spark has done in it, by its own books, which it keeps also where its page is off.

The books are no public interface: where a Spark keeps them otherwise, a run goes on without.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from py4j.protocol import Py4JError
from pyspark.sql import SparkSession

LOG = logging.getLogger(__name__)
STAGE_SUMS: dict[str, Callable[[Any], float]] = {  # of Spark's stages, by name
    "tasks": lambda stage: stage.numCompleteTasks(),
    "failed_tasks": lambda stage: stage.numFailedTasks(),
    "task_seconds": lambda stage: stage.executorRunTime() / 1000,
    "gc_seconds": lambda stage: stage.jvmGcTime() / 1000,
    "shuffle_read_bytes": lambda stage: stage.shuffleReadBytes(),
    "shuffle_written_bytes": lambda stage: stage.shuffleWriteBytes(),
    "spilled_bytes": lambda stage: stage.diskBytesSpilled(),
}
MEMORY_METRICS = ("JVMHeapMemory", "JVMOffHeapMemory", "ProcessTreePythonRSSMemory")
RELEASED = "Executor killed by driver."  # what Spark says of one that it let go itself


def last_stage(spark: SparkSession) -> int:
    """Return the number of the last of Spark's stages that has begun, -1 before the first."""
    try:
        return max((int(stage.stageId()) for stage in _stages(spark)), default=-1)
    except Py4JError:
        return -1


def measure(spark: SparkSession, after: int) -> dict[str, float]:
    """Return what Spark's stages after that one have done in all their attempts, and what its executors came to so far."""
    try:
        return {**_stage_sums([stage for stage in _stages(spark) if stage.stageId() > after]), **_executor_stats(spark)}
    except Py4JError as error:
        LOG.warning("Spark does not tell what it has done: %s", str(error).partition("\n")[0])
        return {}


def _stage_sums(stages: Sequence[Any]) -> dict[str, float]:
    return {name: round(sum(map(count, stages)), 3) for name, count in STAGE_SUMS.items()}


def _executor_stats(spark: SparkSession) -> dict[str, float]:
    known = list(_iterate(_status_store(spark).executorList(False)))  # noqa: FBT003 - of Scala: also those that are gone
    workers = [executor for executor in known if executor.id() != "driver"] or known
    gone = [executor.removeReason() for executor in workers if not executor.isActive()]
    return {
        "executors": len(workers),
        "executors_lost": sum(reason.isDefined() and reason.get() != RELEASED for reason in gone),
        "peak_memory_bytes": max(map(_peak_memory, workers), default=0),
    }


def _peak_memory(executor: Any) -> int:  # noqa: ANN401 - Java's
    """Return the most memory that an executor has used: Java's, and where Spark is told to look, its Python workers'."""
    peaks = executor.peakMemoryMetrics()
    return sum(int(peaks.get().getMetricValue(name)) for name in MEMORY_METRICS) if peaks.isDefined() else 0


def _stages(spark: SparkSession) -> Iterator[Any]:
    """Yield every attempt of every stage, without its tasks."""
    context: Any = spark.sparkContext
    none = context._gateway.new_array(context._jvm.double, 0)  # noqa: SLF001 - as pyspark's own calls do
    yield from _iterate(_status_store(spark).stageList(None, False, False, none, None))  # noqa: FBT003 - Scala's own defaults


def _status_store(spark: SparkSession) -> Any:  # noqa: ANN401 - Java's
    context: Any = spark.sparkContext
    return context._jsc.sc().statusStore()  # noqa: SLF001 - as above


def _iterate(found: Any) -> Iterator[Any]:  # noqa: ANN401 - a Seq of Scala
    left = found.iterator()
    while left.hasNext():
        yield left.next()
