"""Divide the limits of a run among its tasks: each task reports to a socket of the driver.

It does so twice a second, and less often where there are more than 250 tasks. A task reports its counters and gets its allocation, as JSON, over a connection that both sides authenticate with the
run's key. A task that cannot reach the driver when it starts keeps its static allocation until the run's time is over.
A task that loses the connection starts no call until it has another, because the driver gives its part to the other
tasks. So the limits hold with fewer executors than requested, with more, and after some are lost.

Anybody may connect to the port; whoever does not prove in time to have the key is disconnected (see handshakes.py).

A task's name is PARTITION-ATTEMPT. When an executor is lost together with shuffle output of its tasks, Spark starts
all unfinished tasks again and lets their old attempts run: both would send the same requests. So the older attempt
gets a reason to stop, and the newer one waits until the older one has stored the replies of its open calls.
"""

import dataclasses
import json
import logging
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from typing import Any

from raft_spark.common import ids, sockets
from raft_spark.common.background import in_background
from raft_spark.inference import objections
from raft_spark.inference.admission import Admission, TaskCounters
from raft_spark.inference.handshakes import CONNECTION_ERRORS, Handshakes, authenticate
from raft_spark.inference.objections import Situation
from raft_spark.inference.quota import HEARTBEAT_SECONDS, UNLIMITED, Allocation, ClusterLimits, QuotaLedger
from raft_spark.monitoring import run_state
from raft_spark.monitoring.run_state import Point, Run

LOG = logging.getLogger(__name__)
LONGEST_HEARTBEAT = 2.0  # seconds between two heartbeats of a task
HEARTBEATS_A_SECOND = 500  # of all tasks together, until each has its longest heartbeat
POINT_EVERY = 1.0  # seconds, at first; doubled whenever there are MAX_POINTS
MAX_POINTS = 600
STARTUP_SECONDS = 10.0  # after the first heartbeat, in which tasks that have not reported yet have their part reserved
REPLY_TIMEOUT = 2.0  # seconds after which a task counts the driver as lost
HEARTBEAT_TIMEOUT = 5.0  # seconds after which the driver counts a task as lost and gives its part to others
ACCEPT_SECONDS = 0.2  # between two looks at the age of handshakes
CONNECT_ATTEMPTS = 3  # a driver that many tasks or strangers call at once may drop a task
SILENT_SECONDS = 30.0  # after which the driver warns that tasks run and none of them has reached it
TIME_IS_OVER = "the time set by completions.max_minutes or max_spend is over"
MONEY_IS_SPENT = "another request might pass completions.max_spend"
REPLACED = "another attempt of this task has begun"


@dataclass(frozen=True)
class CoordinatorAddress:
    """Where tasks connect to the driver; port 0 if it does not listen.

    `key` authenticates them and is valid for this run only. `ends_at` is the Unix time after which a task that does not
    reach the driver starts no call.
    """

    host: str
    port: int
    key: bytes = dataclasses.field(repr=False)
    ends_at: float = UNLIMITED


class Coordinator:
    """Run the driver's side: divide the limits, add up the tasks' counters, pass reasons to stop on to all tasks."""

    def __init__(self, limits: ClusterLimits, run: Run, hourly_price: float, max_seconds: float) -> None:
        self.running_tasks = 0  # as Spark counts them; the thread that asks Spark sets it
        self.must_stop: Callable[[], str] = str  # returns why the whole run must stop, "" while it may go on
        self.endpoint_error = ""  # why the endpoint cannot be used, as a task reported it
        self.store_error = ""  # why answers cannot be stored, as a task reported it
        self._stop_reason = ""
        self._ledger, self._run, self._hourly_price = QuotaLedger(limits), run, hourly_price
        self._counters: dict[str, TaskCounters] = {}  # of all tasks, also those that have left
        self._in_flight = limits.in_flight
        self._acquittals = 0  # how often objections were found to be the requests' own
        self._worked = 0  # replies to all tasks that show that the endpoint works
        self._connected: set[str] = set()
        self._attempts: dict[str, set[int]] = {}  # those that are connected, by partition
        self._lock = threading.Lock()
        self._begin = time.monotonic()
        self._end = self._begin + max_seconds
        self.ends_at = time.time() + max_seconds
        self._first_heartbeat: float | None = None
        self._points: list[Point] = []
        self._point_every = POINT_EVERY

    @property
    def has_heard(self) -> bool:
        """Return whether any task has reached the driver."""
        return self._first_heartbeat is not None

    @property
    def stop_reason(self) -> str:
        """Return why no task starts a call any more, "" while tasks may."""
        return self.endpoint_error or self.store_error or self._stop_reason

    def stop(self, reason: str) -> None:
        """Let no task start another call; only the first reason counts."""
        self._stop_reason = self._stop_reason or reason

    def heartbeat(self, task: str, counters: TaskCounters) -> Allocation:
        """Record a task's counters and return its allocation."""
        with self._lock:
            self._record(task, counters)
            self._connected.add(task)
            partition, attempt = _parse(task)
            attempts = self._attempts.setdefault(partition, set())
            attempts.add(attempt)
            if min(attempts) < attempt:
                return Allocation(0, 0.0, 0.0, 0.0, self.stop_reason, must_wait=True)
            self.endpoint_error = self.endpoint_error or counters.endpoint_error
            self.store_error = self.store_error or counters.store_error
            running = max(self.running_tasks, self._starting_tasks())
            allocation = self._ledger.allocate(task, counters.demand, running)
            self._check_limits()
            if counters.waits and len(self._connected) >= max(1, running):
                self._judge()
            replaced = REPLACED if max(attempts) > attempt else ""
            return replace(
                allocation,
                worked=self._acquittals + self._worked,
                trial=-(-objections.needed(self._situation) // max(1, running)),
                stop_reason=self.stop_reason or replaced,
                heartbeat=max(HEARTBEAT_SECONDS, min(LONGEST_HEARTBEAT, running / HEARTBEATS_A_SECOND)),
            )

    def _record(self, task: str, counters: TaskCounters) -> None:
        before = self._counters.get(task)
        self._worked += counters.worked - (before.worked if before else 0)
        self._counters[task] = counters

    @property
    def _situation(self) -> Situation:
        was_known = self._run.known + self._run.answered > 0
        return Situation(self._in_flight, has_answered=self._worked > 0, was_known=was_known)

    def _judge(self) -> None:
        """Decide, once all tasks wait for it, whether the endpoint's objections concern every request."""
        waiting = [self._counters[task] for task in self._connected]
        if not all(task.waits for task in waiting):
            return
        if objections.concern_every_request(objections.add(task.objections for task in waiting), self._situation):
            self.endpoint_error = self.endpoint_error or objections.refusal(waiting[0].objection)
        else:
            self._acquittals += 1

    def _starting_tasks(self) -> int:
        """Return how many tasks run or will start soon, so that the first to report does not get the whole window."""
        now = time.monotonic()
        self._first_heartbeat = self._first_heartbeat or now
        ended = len(self._counters) - len(self._connected)
        return self._run.tasks - ended if now - self._first_heartbeat < STARTUP_SECONDS else 0

    def _check_limits(self) -> None:
        if reason := self.must_stop():
            self.stop(reason)
        if time.monotonic() > self._end:
            self.stop(TIME_IS_OVER)
        if self._ledger.is_budget_spent:
            self.stop(MONEY_IS_SPENT)

    def release(self, task: str, *, has_finished: bool) -> None:
        """Free a task's part of the limits. If it has not finished, its open calls count at their maximum cost."""
        with self._lock:
            counters = self._counters[task]
            self._connected.discard(task)
            partition, attempt = _parse(task)
            self._attempts[partition].discard(attempt)
            self._ledger.release(task, counters.spent if has_finished else None)
            lost, calls = (0.0, 0) if has_finished else (counters.reserved, counters.open)
            self._counters[task] = replace(
                counters,
                open=0,
                window=0,
                reserved=0.0,
                spent=counters.spent + lost,
                possible=counters.possible + lost,
                possibly_billed=counters.possibly_billed + calls,
            )

    def settle(self, task: str, counters: TaskCounters, stop_reason: str) -> None:
        """Record the last counters of a task that has ended, which may never have reached the driver."""
        with self._lock:
            self._record(task, replace(counters, open=0, window=0, reserved=0.0))
            self.endpoint_error = self.endpoint_error or counters.endpoint_error
            self.store_error = self.store_error or counters.store_error
            self.stop(stop_reason)

    def run(self) -> Run:
        """Return the run as it is now. Its series has fewer than MAX_POINTS points, and the last one is the present."""
        with self._lock:
            run = self._sum()
            point = self._point(run)
            if not self._points or point.seconds - self._points[-1].seconds >= self._point_every:
                self._points.append(point)
            if len(self._points) >= MAX_POINTS - 1:
                self._points, self._point_every = self._points[::2], self._point_every * 2
            is_close = point.seconds - self._points[-1].seconds < self._point_every / 2
            return replace(run, series=(*(self._points[:-1] if is_close else self._points), point))

    def _sum(self) -> Run:
        """Return the run with the sums of all tasks' counters."""
        tasks = list(self._counters.values())
        names = ("calls", "throttled", "prompt_tokens", "completion_tokens", "open", *run_state.NOT_COUNTED)
        hours = (time.monotonic() - self._begin) / 3600
        return replace(
            self._run,
            updated_at=ids.now(),
            answered=sum(task.answered_stored for task in tasks),
            failed=dict(sum((Counter(task.failed_stored) for task in tasks), Counter())),
            dollars=round(sum(task.spent - task.possible for task in tasks) + hours * self._hourly_price, 6),
            possible_dollars=round(sum(task.possible for task in tasks), 6),
            window=sum(task.open if task.draining else task.window for task in tasks),
            **{name: sum(getattr(task, name) for task in tasks) for name in names},
        )

    def _point(self, run: Run) -> Point:
        answered = sum(counters.answered for counters in self._counters.values())
        done = (answered, sum(run.failed.values()), run.calls, run.throttled)
        tokens = run.prompt_tokens + run.completion_tokens
        return Point(round(run_state.elapsed(run, time.time()), 1), *done, tokens, run.open, run.window)


def _parse(task: str) -> tuple[str, int]:
    """Return the partition and the attempt of a task's name."""
    partition, _, attempt = task.partition("-")
    return partition, int(attempt or 0)


@contextmanager
def serve(
    coordinator: Coordinator, bind: str, host: str, key: bytes, count_running: Callable[[], int]
) -> Iterator[CoordinatorAddress]:
    """Serve the tasks while the block runs, on a free port of the address `bind`, which they reach as `host`.

    Where no port can be bound, a warning says so and the tasks keep their static allocations. `count_running` returns
    how many tasks Spark runs; a background thread calls it.
    """
    address = CoordinatorAddress(sockets.bare_host(host), 0, key, coordinator.ends_at)
    try:
        listener = sockets.listen(sockets.bare_host(bind), address.host)
    except OSError as error:
        LOG.warning("the driver cannot listen at %s (%s); each task keeps a static share of the limits", bind, error)
        yield address
        return
    address = replace(address, port=listener.getsockname()[1])
    with (
        listener,
        in_background(lambda over: _count(coordinator, address, count_running, over)),
        in_background(lambda over: _accept(listener, coordinator, key, over)),
    ):
        yield address


def _count(
    coordinator: Coordinator, address: CoordinatorAddress, count_running: Callable[[], int], over: threading.Event
) -> None:
    """Count the running tasks again and again. Warn once if tasks run for SILENT_SECONDS and none has come."""
    since: float | None = None
    while not over.wait(HEARTBEAT_SECONDS):
        coordinator.running_tasks = count_running()
        if coordinator.has_heard or not coordinator.running_tasks:
            since = None
        elif since is None:
            since = time.monotonic()
        elif since + SILENT_SECONDS < time.monotonic():
            since = UNLIMITED
            where = sockets.location(address.host, address.port)
            LOG.warning("no task reaches the driver at %s; each keeps a static share of the limits", where)


def _accept(listener: socket.socket, coordinator: Coordinator, key: bytes, over: threading.Event) -> None:
    """Accept connections, each served in its own thread, so that a stranger without the key blocks no task.

    When the system gives no file or thread for another one, drop handshakes and go on.
    """
    handshakes = Handshakes()
    listener.settimeout(ACCEPT_SECONDS)
    while not over.is_set():
        handshakes.drop(0)
        try:
            opened, _ = listener.accept()
            handshakes.enter(opened)
            threading.Thread(target=_serve, args=(opened, handshakes, coordinator, key), daemon=True).start()
        except TimeoutError:
            continue
        except (OSError, RuntimeError):
            handshakes.drop(len(handshakes))
            over.wait(ACCEPT_SECONDS)


def _serve(opened: socket.socket, handshakes: Handshakes, coordinator: Coordinator, key: bytes) -> None:
    """Answer one task's heartbeats until it reports its last or the connection breaks."""
    task, has_finished = "", False
    with suppress(*CONNECTION_ERRORS), authenticate(opened, handshakes, key) as connection:
        sockets.limit_reads(connection.fileno(), HEARTBEAT_TIMEOUT)
        while not has_finished:
            report = json.loads(connection.recv_bytes())
            task, has_finished = report["task"], report["is_last"]
            allocation = coordinator.heartbeat(task, TaskCounters(**report["counters"]))
            connection.send_bytes(
                json.dumps({name: getattr(allocation, name) for name in Allocation.__slots__}).encode()
            )
    if task:
        coordinator.release(task, has_finished=has_finished)


@contextmanager
def report_to_driver(address: CoordinatorAddress, task: str, admission: Admission) -> Iterator[None]:
    """Get the first `admission.allocation`, then keep it up to date while the block runs."""
    try:
        sent = time.monotonic()
        connection = _connect_again(address)
        admission.allocation = _heartbeat(connection, task, admission)
        admission.valid_until = sent + HEARTBEAT_TIMEOUT
    except CONNECTION_ERRORS as error:
        LOG.warning(
            "cannot reach the driver at %s (%s); this task keeps a static share of the limits",
            sockets.location(address.host, address.port),
            error,
        )
        with in_background(lambda over: _stop_at_limits(address.ends_at, admission, over)):
            yield
        return
    with in_background(lambda over: _report(connection, address, task, admission, over)):
        yield


def _stop_at_limits(ends_at: float, admission: Admission, over: threading.Event) -> None:
    """Let a task with a static allocation start no call after the Unix time `ends_at`, or when its dollars are spent."""
    while not over.wait(HEARTBEAT_SECONDS):
        counters, allocation = admission.snapshot(), admission.allocation
        if time.time() > ends_at:
            admission.allocation = replace(allocation, stop_reason=TIME_IS_OVER)
        elif not counters.open and counters.spent + counters.next_call > allocation.dollars:
            admission.allocation = replace(allocation, stop_reason=MONEY_IS_SPENT)


def wait_for_previous_attempt(admission: Admission) -> None:
    """Wait until no earlier attempt at the same rows runs: it has then stored the replies of its open calls."""
    while admission.allocation.must_wait and not admission.stop_reason:
        time.sleep(HEARTBEAT_SECONDS)


def _report(
    connection: Connection, address: CoordinatorAddress, task: str, admission: Admission, over: threading.Event
) -> None:
    """Send heartbeats until the block is over, and then the last one. Reconnect when the connection is lost.

    Until it is back, the task starts no call, nor after a pause of the process in which the driver gave its part away.
    """
    is_last = False
    while not is_last:
        is_last = over.wait(admission.allocation.heartbeat)
        sent = time.monotonic()
        try:
            admission.allocation = _heartbeat(connection, task, admission, is_last=is_last)
            admission.valid_until = sent + HEARTBEAT_TIMEOUT
        except CONNECTION_ERRORS:
            admission.allocation = replace(admission.allocation, in_flight=0)
            connection.close()
            with suppress(*CONNECTION_ERRORS):
                connection = _connect(address)
                if is_last:
                    _heartbeat(connection, task, admission, is_last=True)
    connection.close()


def _connect_again(address: CoordinatorAddress) -> Connection:
    """Connect like `_connect`, several times if the driver answers but drops the connection."""
    for _ in range(CONNECT_ATTEMPTS - 1):
        with suppress(EOFError, ConnectionResetError, BrokenPipeError):
            return _connect(address)
        time.sleep(random.uniform(0, HEARTBEAT_SECONDS))  # noqa: S311 - no secret
    return _connect(address)


def _connect(address: CoordinatorAddress) -> Connection:
    """Open an authenticated connection like multiprocessing's Client, which waits for a lost machine for minutes."""
    with socket.create_connection((address.host, address.port), timeout=HEARTBEAT_TIMEOUT) as opened:
        opened.settimeout(None)
        connection = Connection(opened.detach())
    if not connection.poll(REPLY_TIMEOUT):
        raise EOFError("the driver does not answer")
    answer_challenge(connection, address.key)
    deliver_challenge(connection, address.key)
    return connection


def _heartbeat(connection: Connection, task: str, admission: Admission, *, is_last: bool = False) -> Allocation:
    report = {"task": task, "counters": dataclasses.asdict(admission.snapshot()), "is_last": is_last}
    connection.send_bytes(json.dumps(report).encode())
    return Allocation(**_receive(connection, REPLY_TIMEOUT))


def _receive(connection: Connection, seconds: float) -> Any:  # noqa: ANN401 - JSON; the caller knows its shape
    """Return the next message. Raises EOFError if none comes in time: no connection breaks when a machine is lost."""
    if not connection.poll(seconds):
        raise EOFError("the other side does not answer")
    return json.loads(connection.recv_bytes())
