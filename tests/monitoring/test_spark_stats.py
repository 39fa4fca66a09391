"""Measurements from a stand-in for Spark's status store; tests/integration/test_walk.py reads the real one."""

from types import SimpleNamespace as Java
from typing import Any

import pytest
from py4j.protocol import Py4JError

from raft_spark.monitoring import spark_stats

pytestmark = pytest.mark.row

KILLED = "Executor killed by driver."  # what dynamic allocation releases
SIGKILL = "Command exited with code 137"


def option(value: object) -> Java:
    return Java(isDefined=lambda: value is not None, get=lambda: value)


def seq(found: list[Any]) -> Java:
    def iterator() -> Java:
        left = [*found]
        return Java(hasNext=lambda: bool(left), next=lambda: left.pop(0))

    return Java(iterator=iterator)


def stage(number: int, **found: int) -> Java:
    names = ("numCompleteTasks", "numFailedTasks", "executorRunTime", "jvmGcTime")
    sums = dict.fromkeys([*names, "shuffleReadBytes", "shuffleWriteBytes", "diskBytesSpilled"], 0) | found
    return Java(stageId=lambda: number, **{name: lambda value=value: value for name, value in sums.items()})


def executor(name: str, heap: int | None = None, reason: str | None = None, *, active: bool = True) -> Java:
    peaks = heap and Java(getMetricValue=lambda metric: heap if metric == "JVMHeapMemory" else 5)
    return Java(
        id=lambda: name,
        isActive=lambda: active,
        removeReason=lambda: option(reason),
        peakMemoryMetrics=lambda: option(peaks),
    )


def spark(stages: list[Java], executors: list[Java]) -> Any:
    store = Java(stageList=lambda *_: seq(stages), executorList=lambda _: seq(executors))
    context = Java(sc=lambda: Java(statusStore=lambda: store))
    return Java(
        sparkContext=Java(_jsc=context, _gateway=Java(new_array=lambda *_: []), _jvm=Java(double=None)),
    )


def test_all_attempts_of_later_stages_are_summed():
    before = stage(6, numCompleteTasks=1_000, executorRunTime=9_000)
    first = stage(7, numCompleteTasks=3, numFailedTasks=1, executorRunTime=2_500, jvmGcTime=40, shuffleReadBytes=10)
    again = stage(7, numCompleteTasks=1, executorRunTime=700, shuffleReadBytes=5, shuffleWriteBytes=8)
    session = spark([again, first, before], [executor("driver")])
    found = spark_stats.measure(session, after=6)
    assert spark_stats.last_stage(session) == 7
    assert found.items() >= {"tasks": 4, "failed_tasks": 1, "task_seconds": 3.2, "gc_seconds": 0.04}.items()
    assert found.items() >= {"shuffle_read_bytes": 15, "shuffle_written_bytes": 8, "spilled_bytes": 0}.items()


def test_an_executor_that_spark_released_is_not_lost():
    gone = [executor("2", reason=KILLED, active=False), executor("3", heap=90, reason=SIGKILL, active=False)]
    found = spark_stats.measure(spark([], [executor("driver", heap=500), executor("1", heap=70), *gone]), after=-1)
    assert (found["executors"], found["executors_lost"]) == (3, 1)
    assert (
        found["peak_memory_bytes"] == 100
    )  # of one executor, its heap and its other memory; the driver is not an executor


def test_where_all_is_one_process_the_driver_is_the_executor():
    found = spark_stats.measure(spark([], [executor("driver", heap=500)]), after=-1)
    assert (found["executors"], found["peak_memory_bytes"]) == (1, 510)
    assert spark_stats.last_stage(spark([], [])) == -1


def test_a_spark_without_that_store_ends_no_run(caplog):
    def gone() -> None:
        raise Py4JError("Method statusStore([]) does not exist\n at py4j.Gateway")

    session: Any = Java(
        sparkContext=Java(_jsc=Java(sc=gone), _gateway=Java(new_array=lambda *_: []), _jvm=Java(double=0))
    )
    assert spark_stats.last_stage(session) == -1
    assert spark_stats.measure(session, after=-1) == {}
    assert caplog.messages == ["Spark's measurements cannot be read: Method statusStore([]) does not exist"]
