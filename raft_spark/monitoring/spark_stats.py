"""Measure what Spark did in a session: tasks, shuffles, executors, memory.

Reads Spark's AppStatusStore, the store behind the Spark UI, through py4j (`sparkContext._jsc.sc().statusStore()`). It
exists even when the UI is off, but it is a private API of Spark: if a release of Spark changes it, a warning is logged
and the run's page has no measurements of Spark.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from py4j.protocol import Py4JError
from pyspark.sql import SparkSession

LOG = logging.getLogger(__name__)
STAGE_SUMS: dict[str, Callable[[Any], float]] = {  # measurement: value of one attempt of a Spark stage
    "tasks": lambda stage: stage.numCompleteTasks(),
    "failed_tasks": lambda stage: stage.numFailedTasks(),
    "task_seconds": lambda stage: stage.executorRunTime() / 1000,
    "gc_seconds": lambda stage: stage.jvmGcTime() / 1000,
    "shuffle_read_bytes": lambda stage: stage.shuffleReadBytes(),
    "shuffle_written_bytes": lambda stage: stage.shuffleWriteBytes(),
    "spilled_bytes": lambda stage: stage.diskBytesSpilled(),
}
MEMORY_METRICS = ("JVMHeapMemory", "JVMOffHeapMemory", "ProcessTreePythonRSSMemory")
RELEASED = "Executor killed by driver."  # removeReason of an executor that Spark released itself


def last_stage(spark: SparkSession) -> int:
    """Return the id of the last Spark stage that has started, -1 before the first."""
    try:
        return max((int(stage.stageId()) for stage in _stages(spark)), default=-1)
    except Py4JError:
        return -1


def measure(spark: SparkSession, after: int) -> dict[str, float]:
    """Return measurements of the Spark stages with ids above `after`, all attempts, and of all executors."""
    try:
        return {**_stage_sums([stage for stage in _stages(spark) if stage.stageId() > after]), **_executor_stats(spark)}
    except Py4JError as error:
        LOG.warning("Spark's measurements cannot be read: %s", str(error).partition("\n")[0])
        return {}


def _stage_sums(stages: Sequence[Any]) -> dict[str, float]:
    return {name: round(sum(map(count, stages)), 3) for name, count in STAGE_SUMS.items()}


def _executor_stats(spark: SparkSession) -> dict[str, float]:
    executors = list(_iterate(_status_store(spark).executorList(False)))  # noqa: FBT003 - Scala: activeOnly
    workers = [executor for executor in executors if executor.id() != "driver"] or executors
    reasons = [executor.removeReason() for executor in workers if not executor.isActive()]
    return {
        "executors": len(workers),
        "executors_lost": sum(reason.isDefined() and reason.get() != RELEASED for reason in reasons),
        "peak_memory_bytes": max(map(_peak_memory, workers), default=0),
    }


def _peak_memory(executor: Any) -> int:  # noqa: ANN401 - a Java object
    """Return an executor's peak memory in bytes, with its Python workers if processTreeMetrics is enabled."""
    peaks = executor.peakMemoryMetrics()
    return sum(int(peaks.get().getMetricValue(name)) for name in MEMORY_METRICS) if peaks.isDefined() else 0


def _stages(spark: SparkSession) -> Iterator[Any]:
    """Yield every attempt of every Spark stage, without its tasks."""
    context: Any = spark.sparkContext
    no_quantiles = context._gateway.new_array(context._jvm.double, 0)  # noqa: SLF001 - as pyspark's own calls do
    stages = _status_store(spark).stageList(None, False, False, no_quantiles, None)  # noqa: FBT003 - Scala's defaults
    yield from _iterate(stages)


def _status_store(spark: SparkSession) -> Any:  # noqa: ANN401 - a Java object
    context: Any = spark.sparkContext
    return context._jsc.sc().statusStore()  # noqa: SLF001 - as above


def _iterate(sequence: Any) -> Iterator[Any]:  # noqa: ANN401 - a Scala Seq
    iterator = sequence.iterator()
    while iterator.hasNext():
        yield iterator.next()
