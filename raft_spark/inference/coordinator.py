"""Tasks of one run <-> the driver: each says twice a second what it has done, and hears what it may do.

A socket of the driver, open for the time of a run and guarded by the run's key, carries JSON. A task that cannot reach it
keeps to its static share; one that loses it starts no further call until it is back, since the driver gives its share to
others. So the limits of the cluster hold with fewer executors than asked for, with more, and after some are lost.

A task is named PARTITION-ATTEMPT. When an executor is lost with what its tasks had shuffled, Spark begins all unfinished tasks
again and lets the old ones go on: both would ask the same rows. So the older is told to stop, and the younger waits until it
has stored what it had open.
"""

import dataclasses
import json
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, Listener, answer_challenge, deliver_challenge
from typing import Any

from raft_spark.common import ids
from raft_spark.common.background import in_background
from raft_spark.inference.admission import Admission, TaskCounters
from raft_spark.inference.quota import Allocation, ClusterLimits, QuotaLedger
from raft_spark.monitoring import run_state
from raft_spark.monitoring.run_state import Point, Run

HEARTBEAT_SECONDS = 0.5  # seconds
POINT_EVERY = 1.0  # seconds, at first; doubled whenever there are MOST_POINTS
MAX_POINTS = 600
STARTUP_SECONDS = (
    10.0  # seconds from the first task's first report: until then tasks that have not reported have their share
)
REPLY_TIMEOUT = 2.0  # seconds the driver takes at most, else a task holds it for lost
HEARTBEAT_TIMEOUT = 5.0  # seconds between two words of a task, else the driver gives its share to others
REPLACED = "another attempt of this task has begun"
CONNECTION_ERRORS = (OSError, EOFError, AuthenticationError)


@dataclass(frozen=True)
class CoordinatorAddress:
    """Where tasks find the driver. `key` opens it and is worth nothing after the run."""

    host: str
    port: int
    key: bytes = dataclasses.field(repr=False)


class Coordinator:
    """The driver's side: shares the limits out, adds up what was done, hands on a reason to stop."""

    def __init__(self, limits: ClusterLimits, run: Run, hourly_price: float, seconds: float) -> None:
        self.running = 0  # tasks, as Spark knows them; set by whoever can ask it
        self.trouble = ""  # why the endpoint is given up
        self._stop = ""
        self._ledger, self._run, self._hourly_price = QuotaLedger(limits), run, hourly_price
        self._tallies: dict[str, TaskCounters] = {}
        self._here: set[str] = set()
        self._lock = threading.Lock()
        self._begin = time.monotonic()
        self._first_report: float | None = None
        self._over = self._begin + seconds
        self._points: list[Point] = []
        self._point_every = POINT_EVERY

    @property
    def stop_reason(self) -> str:
        """Say why no task starts a call any more, "" while they do."""
        return self.trouble or self._stop

    def stop(self, reason: str) -> None:
        """Let no task start another call; the first reason stays."""
        self._stop = self._stop or reason

    def beat(self, task: str, tally: TaskCounters) -> Allocation:
        """Take what a task has done; return what it may do."""
        with self._lock:
            self._tallies[task] = tally
            self._here.add(task)
            same_rows = [_attempt(other) for other in self._here - {task} if _partition(other) == _partition(task)]
            if any(attempt < _attempt(task) for attempt in same_rows):
                return Allocation(0, 0.0, 0.0, 0.0, self.stop_reason, waits=True)
            self.trouble = self.trouble or tally.trouble
            granted = self._ledger.grant(task, tally.need, max(self.running, self._starting()))
            if time.monotonic() > self._over:
                self.stop("the time set by completions.max_minutes or max_spend is over")
            if self._ledger.is_spent:
                self.stop("another request might pass completions.max_spend")
            return replace(granted, stop=self.stop_reason or (REPLACED if same_rows else ""))

    def _starting(self) -> int:
        """Count the tasks that have begun or will soon, so that the first one to report does not take the whole window."""
        now = time.monotonic()
        self._first_report = self._first_report or now
        ended = len(self._tallies) - len(self._here)
        return self._run.tasks - ended if now - self._first_report < STARTUP_SECONDS else 0

    def left(self, task: str, *, properly: bool) -> None:
        """Take a task's share back. One that died may have had calls open, which count as paid at their dearest."""
        with self._lock:
            tally = self._tallies[task]
            self._here.discard(task)
            self._ledger.left(task, tally.spent if properly else None)
            spent = tally.spent if properly else tally.spent + tally.reserved
            self._tallies[task] = replace(tally, open=0, window=0, reserved=0.0, spent=spent)

    def told(self) -> Run:
        """Return the run as it is now. Its series has fewer than MOST_POINTS points and always ends with the present one."""
        with self._lock:
            run = self._summed()
            point = self._point(run)
            if not self._points or point.seconds - self._points[-1].seconds >= self._point_every:
                self._points.append(point)
            if len(self._points) >= MAX_POINTS - 1:
                self._points, self._point_every = self._points[::2], self._point_every * 2
            is_close = point.seconds - self._points[-1].seconds < self._point_every / 2
            return replace(run, series=(*(self._points[:-1] if is_close else self._points), point))

    def _point(self, run: Run) -> Point:
        answered = sum(tally.answered for tally in self._tallies.values())
        done = (answered, sum(run.failed.values()), run.calls, run.throttled)
        tokens = run.prompt_tokens + run.completion_tokens
        return Point(round(run_state.elapsed(run, time.time()), 1), *done, tokens, run.open, run.window)

    def _summed(self) -> Run:
        tallies = list(self._tallies.values())
        names = ("calls", "throttled", "prompt_tokens", "completion_tokens", "open")
        hours = (time.monotonic() - self._begin) / 3600
        return replace(
            self._run,
            updated_at=ids.now(),
            answered=sum(tally.answered_stored for tally in tallies),
            failed=dict(sum((Counter(tally.failed_stored) for tally in tallies), Counter())),
            dollars=round(sum(tally.spent for tally in tallies) + hours * self._hourly_price, 6),
            window=sum(tally.open if tally.draining else tally.window for tally in tallies),
            **{name: sum(getattr(tally, name) for tally in tallies) for name in names},
        )


def _partition(task: str) -> str:
    return task.partition("-")[0]


def _attempt(task: str) -> int:
    return int(task.partition("-")[2] or 0)


@contextmanager
def serve(
    coordinator: Coordinator, bind: str, host: str, key: bytes, running: Callable[[], int]
) -> Iterator[CoordinatorAddress]:
    """Serve the tasks on a free port of the address `bind`, which they know as `host`; `running` counts those Spark has."""
    over = threading.Event()
    with Listener((bind, 0), backlog=256) as listener:
        port = listener.address[1]
        for target, arguments in (
            (_accept, (listener, coordinator, key, over)),
            (_watch, (running, coordinator, over)),
        ):
            threading.Thread(target=target, args=arguments, daemon=True).start()
        try:
            yield CoordinatorAddress(host, port, key)
        finally:
            over.set()
            socket.create_connection((bind, port)).close()  # closing alone would not wake who waits in accept


def _watch(running: Callable[[], int], coordinator: Coordinator, over: threading.Event) -> None:
    while not over.wait(HEARTBEAT_SECONDS):
        coordinator.running = running()


def _accept(listener: Listener, coordinator: Coordinator, key: bytes, over: threading.Event) -> None:
    """Take connections; each is asked for the key in a thread of its own, so that a stranger holds up nobody."""
    while not over.is_set():
        arguments = (listener.accept(), coordinator, key)
        threading.Thread(target=_serve, args=arguments, daemon=True).start()


def _serve(connection: Connection, coordinator: Coordinator, key: bytes) -> None:
    """Answer one task until it says goodbye or its connection breaks."""
    task, properly = "", False
    with suppress(*CONNECTION_ERRORS), connection:
        deliver_challenge(connection, key)
        answer_challenge(connection, key)
        while not properly:
            told = _heard(connection, HEARTBEAT_TIMEOUT)
            task, properly = told["task"], told["over"]
            granted = coordinator.beat(task, TaskCounters(**told["tally"]))
            connection.send_bytes(json.dumps(dataclasses.asdict(granted)).encode())
    if task:
        coordinator.left(task, properly=properly)


@contextmanager
def report_to_driver(desk: CoordinatorAddress, task: str, meter: Admission) -> Iterator[None]:
    """Keep `meter.grant` up to date while the block runs; it has been heard once before the block begins."""
    try:
        connection = _connected(desk)
        meter.grant = _beat(connection, task, meter.tally)
    except CONNECTION_ERRORS as error:
        logging.getLogger(__name__).warning(
            "no driver at %s:%d (%s): a static share is kept", desk.host, desk.port, error
        )
        yield
        return
    with in_background(lambda over: _report(connection, desk, task, meter, over)):
        yield


def wait_for_previous_attempt(meter: Admission) -> None:
    """Return when no earlier attempt at the same rows runs any more: what it had open is stored then."""
    while meter.grant.waits and not meter.stop:
        time.sleep(HEARTBEAT_SECONDS)


def _report(
    connection: Connection, desk: CoordinatorAddress, task: str, meter: Admission, over: threading.Event
) -> None:
    """Tell and hear, in a thread of the task; a lost connection is made again, and until then no call starts."""
    is_over = False
    while not is_over:
        is_over = over.wait(HEARTBEAT_SECONDS)
        try:
            meter.grant = _beat(connection, task, meter.tally, over=is_over)
        except CONNECTION_ERRORS:
            meter.grant = replace(meter.grant, in_flight=0)
            connection.close()
            with suppress(*CONNECTION_ERRORS):
                connection = _connected(desk)
                if is_over:
                    _beat(connection, task, meter.tally, over=True)
    connection.close()


def _connected(desk: CoordinatorAddress) -> Connection:
    """Open a connection as multiprocessing's own Client does, which would wait for a lost machine for minutes."""
    with socket.create_connection((desk.host, desk.port), timeout=HEARTBEAT_TIMEOUT) as opened:
        opened.settimeout(None)
        connection = Connection(opened.detach())
    if not connection.poll(REPLY_TIMEOUT):
        raise EOFError("the driver says nothing")
    answer_challenge(connection, desk.key)
    deliver_challenge(connection, desk.key)
    return connection


def _beat(connection: Connection, task: str, tally: TaskCounters, *, over: bool = False) -> Allocation:
    connection.send_bytes(json.dumps({"task": task, "tally": dataclasses.asdict(tally), "over": over}).encode())
    return Allocation(**_heard(connection, REPLY_TIMEOUT))


def _heard(connection: Connection, seconds: float) -> Any:  # noqa: ANN401 - what the other side says, of a known shape
    """Return the next word. Raises EOFError when none comes: a machine that is gone breaks no connection."""
    if not connection.poll(seconds):
        raise EOFError("the other side says nothing")
    return json.loads(connection.recv_bytes())
