"""Many tasks that report to a coordinator over real sockets while they take part in a run, without an endpoint.

    PYTHONPATH=tests:. python -m support.simulated_tasks PORT FIRST COUNT

Takes part until its stdin is closed, then prints the seconds that each heartbeat waited for its reply, as JSON. A thread takes
the part of all executors: it starts a call whenever `Admission` lets it, and finishes it about CALL_SECONDS later.
"""

import heapq
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass

from conftest import ROOT
from raft_spark.common import ids
from raft_spark.common.background import in_background
from raft_spark.config import Price
from raft_spark.endpoints.base import Reply, Request
from raft_spark.inference import coordinator
from raft_spark.inference.admission import Admission, InFlightRequest, Patience
from raft_spark.inference.coordinator import Coordinator, CoordinatorAddress
from raft_spark.inference.quota import Allocation, ClusterLimits
from raft_spark.monitoring import run_state
from raft_spark.monitoring.run_state import Run

KEY = b"the key of this run"
TASK_CALLS, CALL_SECONDS = 8, 2.0  # calls in flight of each task, and how long one takes
STEP = 0.05  # seconds between two looks at the calls that are due
PRICE = Price(input_price=1.0, output_price=2.0)
PATIENCE = Patience(60.0, 10.0, 30.0, 600.0)
REQUEST = Request([{"role": "user", "content": "a passage " * 150}], "m", {"max_tokens": 512.0})
REPLY = Reply("an answer", "stop", 400, 120)


@dataclass(frozen=True)
class Load:
    """What a coordinator took: its CPU seconds a second, the seconds that half and 99 % of its replies took at most.

    `answered` are the calls a second that its tasks finished.
    """

    cores: float
    median: float
    slow: float
    answered: float


class Timed(Admission):
    """Notes the seconds of each reply: an allocation is valid for HEARTBEAT_TIMEOUT from when its heartbeat was sent."""

    def __setattr__(self, name, value):
        if name == "valid_until" and value < coordinator.UNLIMITED:
            WAITED.append(time.monotonic() - value + coordinator.HEARTBEAT_TIMEOUT)
        super().__setattr__(name, value)


WAITED: list[float] = []


def measured(tasks: int, seconds: float, dollars: float = 0.0, processes: int = 2) -> Load:
    """Serve so many tasks for some seconds, and measure this process once all have come."""
    limits, now = ClusterLimits(TASK_CALLS * tasks, dollars=dollars), ids.now()
    driver = Coordinator(limits, Run("r", "e", "m", now, now, total=10**9, tasks=tasks), 0.0, 1e9)
    with (
        coordinator.serve(driver, "127.0.0.1", "127.0.0.1", KEY, lambda: tasks) as address,
        in_background(lambda over: _look(driver, over)),
    ):
        share = tasks // processes
        clients = [_start(address, number * share, share) for number in range(processes)]
        while driver.run().open < TASK_CALLS * share * processes * 0.9:
            time.sleep(0.2)
        answered, begin, cpu = driver.run().answered, time.monotonic(), time.process_time()
        time.sleep(seconds)
        took, cpu, answered = time.monotonic() - begin, time.process_time() - cpu, driver.run().answered - answered
        waited = sorted(wait for client in clients for wait in json.loads(client.communicate()[0]))
    return Load(cpu / took, waited[len(waited) // 2], waited[len(waited) * 99 // 100], answered / took)


def _look(driver: Coordinator, over: threading.Event) -> None:
    """Read the run as often as a real run's progress does."""
    while not over.wait(run_state.CHECK_EVERY):
        driver.run()


def _start(address: CoordinatorAddress, first: int, count: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "support.simulated_tasks", *map(str, (address.port, first, count))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(command, **pipes, cwd=ROOT, env={**os.environ, "PYTHONPATH": "tests:."})


def work(admissions: list[Admission], over: threading.Event) -> None:
    """Start and finish calls of all tasks until they are `over`."""
    due: list[tuple[float, int, int, InFlightRequest]] = []
    order = 0
    while not over.wait(STEP):
        now = time.monotonic()
        while due and due[0][0] <= now:
            _, _, number, inflight = heapq.heappop(due)
            admissions[number].finish(inflight)
            admissions[number].counters.answered_stored += 1
        for number, admission in enumerate(admissions):
            while not admission.delay(REQUEST):
                inflight = admission.start(InFlightRequest(order, REQUEST, reply=REPLY))
                order += 1
                heapq.heappush(due, (now + CALL_SECONDS * (0.5 + order % 101 / 100), order, number, inflight))


def main() -> None:
    """Be `count` tasks, from the number `first` on."""
    port, first, count = map(int, sys.argv[1:])
    address = CoordinatorAddress("127.0.0.1", port, KEY)
    admissions = [Timed(Allocation(1, 1.0, 1.0, 1.0), PRICE, PATIENCE) for _ in range(count)]
    with ExitStack() as tasks:
        for number, admission in enumerate(admissions, first):
            tasks.enter_context(coordinator.report_to_driver(address, f"{number}-{number}", admission))
        WAITED.clear()
        with in_background(lambda over: work(admissions, over)):
            sys.stdin.read()
        sys.stdout.write(json.dumps(WAITED))


if __name__ == "__main__":
    main()
