"""Tasks and driver over real sockets: allocations as tasks join and leave, lost tasks and drivers, the run."""

import itertools
import json
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raft_spark.config import Price
from raft_spark.inference import coordinator
from raft_spark.inference.admission import Admission, Patience, TaskCounters
from raft_spark.inference.coordinator import Coordinator, CoordinatorAddress, report_to_driver, serve
from raft_spark.inference.quota import Allocation, ClusterLimits
from raft_spark.monitoring import run_state
from raft_spark.monitoring.run_state import Run

pytestmark = [pytest.mark.row, pytest.mark.timeout(60)]

KEY = b"the key of this run"
BEGAN = "2026-11-22T17:35:00+00:00"
PATIENT = 10.0  # seconds
PATIENCE = Patience(60.0, 10.0, 30.0, 600.0)
STATIC = Allocation(3, 1.0, 1.0, 1.0)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(coordinator, "HEARTBEAT_SECONDS", 0.02)


def new_coordinator(
    dollars: float = 0.0, *, hourly_price: float = 0.0, seconds: float = 1e9, tasks: int = 0
) -> Coordinator:
    limits = ClusterLimits(16, dollars=dollars)
    return Coordinator(limits, Run("r", "e", "m", BEGAN, BEGAN, total=100, tasks=tasks), hourly_price, seconds)


@contextmanager
def serving(driver: Coordinator) -> Iterator[CoordinatorAddress]:
    with serve(driver, "127.0.0.1", "127.0.0.1", KEY, lambda: 0) as address:
        yield address


def new_admission() -> Admission:
    return Admission(STATIC, Price(), PATIENCE)


def within(seconds: float, is_so: Callable[[], bool]) -> bool:
    """Wait until the condition holds, at most `seconds`; return whether it does."""
    end = time.monotonic() + seconds
    while not (found := is_so()) and time.monotonic() < end:
        time.sleep(0.01)
    return found


class Relay:
    """A proxy between tasks and a driver that can be cut (`down`), or stop to forward data (`frozen`)."""

    def __init__(self, address: CoordinatorAddress) -> None:
        self.down = self.frozen = False
        self._address, self._ends = address, list[socket.socket]()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = replace(address, port=self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self.down = True
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            near = self._listener.accept()[0]
            if self.down:
                near.close()
                continue
            far = socket.create_connection((self._address.host, self._address.port))
            self._ends += [near, far]
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                while self.frozen:
                    time.sleep(0.01)
                target.sendall(data)
            target.shutdown(socket.SHUT_RDWR)


# Shares


def test_tasks_share_while_both_run_and_one_has_it_all_before_and_after():
    one, two = new_admission(), new_admission()
    with serving(new_coordinator()) as address, report_to_driver(address, "1", one):
        assert one.allocation.in_flight == 16
        with report_to_driver(address, "2", two):
            assert within(PATIENT, lambda: (one.allocation.in_flight, two.allocation.in_flight) == (8, 8))
        assert within(PATIENT, lambda: one.allocation.in_flight == 16)


def test_a_task_that_drains_leaves_its_share_to_the_others():
    one, two = new_admission(), new_admission()
    with (
        serving(new_coordinator()) as address,
        report_to_driver(address, "1", one),
        report_to_driver(address, "2", two),
    ):
        two.counters.open, two.counters.draining = 3, True
        assert within(PATIENT, lambda: one.allocation.in_flight == 13)


def test_tasks_that_spark_knows_have_their_share_kept_for_them():
    one = new_admission()
    with (
        serve(new_coordinator(), "127.0.0.1", "127.0.0.1", KEY, lambda: 4) as address,
        report_to_driver(address, "1", one),
    ):
        assert within(PATIENT, lambda: one.allocation.in_flight == 4)


def test_the_first_task_leaves_their_share_to_those_that_have_not_reported_yet(monkeypatch):
    """Otherwise it opens all calls of the cluster, and its window is below them once the second task reports."""
    set_clock(monkeypatch)
    driver = new_coordinator(tasks=2)
    assert driver.heartbeat("0-0", TaskCounters()).in_flight == 8
    assert driver.heartbeat("1-1", TaskCounters()).in_flight == 8
    driver.heartbeat("0-0", TaskCounters(open=8, window=8))
    driver.heartbeat("1-1", TaskCounters(open=8, window=8))
    assert (driver.run().open, driver.run().window) == (16, 16)
    driver.release("1-1", has_finished=True)
    assert driver.heartbeat("0-0", TaskCounters(open=8, window=8)).in_flight == 16


def test_tasks_that_do_not_come_are_waited_for_ten_seconds(monkeypatch):
    clock = set_clock(monkeypatch)
    driver = new_coordinator(tasks=4)
    assert driver.heartbeat("0-0", TaskCounters()).in_flight == 4
    clock.now += coordinator.STARTUP_SECONDS
    assert driver.heartbeat("0-0", TaskCounters(open=4, window=4)).in_flight == 16


TASK = """
import sys, time
from raft_spark.config import Price
from raft_spark.inference import coordinator
from raft_spark.inference.admission import Admission, Patience
from raft_spark.inference.quota import Allocation
coordinator.HEARTBEAT_SECONDS = 0.05
admission = Admission(Allocation(1, 1.0, 1.0, 1.0), Price(), Patience(60.0, 10.0, 30.0, 600.0))
admission.counters.answered_stored, admission.counters.calls = 5, 7
with coordinator.report_to_driver(coordinator.CoordinatorAddress("127.0.0.1", int(sys.argv[1]), sys.argv[2].encode()), sys.argv[3], admission):
    time.sleep(60)
"""


def process(address: CoordinatorAddress, task: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", TASK, str(address.port), KEY.decode(), task], env=os.environ)


def test_the_share_of_a_killed_process_is_free_within_two_seconds_and_its_work_stays_counted():
    driver, one = new_coordinator(), new_admission()
    with serving(driver) as address, report_to_driver(address, "0-0", one), process(address, "1-1") as other:
        assert within(30, lambda: one.allocation.in_flight == 8)
        assert within(PATIENT, lambda: driver.run().answered == 5)
        other.kill()
        assert within(2, lambda: one.allocation.in_flight == 16)
        assert (driver.run().answered, driver.run().calls) == (5, 7)


# Lost


def test_a_task_that_loses_its_driver_starts_no_call_until_it_is_back():
    one = new_admission()
    with serving(new_coordinator()) as address:
        relay = Relay(address)
        with report_to_driver(relay.address, "1", one):
            assert one.allocation.in_flight == 16
            relay.cut()
            assert within(PATIENT, lambda: one.allocation.in_flight == 0)
            time.sleep(0.1)
            assert one.allocation.in_flight == 0
            relay.down = False
            assert within(PATIENT, lambda: one.allocation.in_flight == 16)


def test_a_network_that_falls_silent_is_a_lost_driver_to_a_task_and_a_lost_task_to_the_driver(monkeypatch):
    """No connection breaks when a machine is lost. The task gives up its part before the driver gives it to others."""
    assert coordinator.REPLY_TIMEOUT + coordinator.LONGEST_HEARTBEAT < coordinator.HEARTBEAT_TIMEOUT
    monkeypatch.setattr(coordinator, "REPLY_TIMEOUT", 0.2)
    monkeypatch.setattr(coordinator, "HEARTBEAT_TIMEOUT", 0.6)
    one, two = new_admission(), new_admission()
    with serving(new_coordinator()) as address:
        relay = Relay(address)
        with report_to_driver(address, "1", one), report_to_driver(relay.address, "2", two):
            assert within(PATIENT, lambda: (one.allocation.in_flight, two.allocation.in_flight) == (8, 8))
            relay.frozen = True
            assert within(2, lambda: two.allocation.in_flight == 0)
            assert within(2, lambda: one.allocation.in_flight == 16)
            relay.frozen = False
            assert within(PATIENT, lambda: (one.allocation.in_flight, two.allocation.in_flight) == (8, 8))


def test_a_task_whose_machine_is_lost_amid_a_word_frees_its_share(monkeypatch):
    monkeypatch.setattr(coordinator, "HEARTBEAT_TIMEOUT", 0.5)
    one = new_admission()
    with serving(new_coordinator()) as address, report_to_driver(address, "1", one):
        lost = Client((address.host, address.port), authkey=KEY)
        report = {"task": "2", "counters": {}, "is_last": False}
        lost.send_bytes(json.dumps(report).encode())
        assert within(PATIENT, lambda: one.allocation.in_flight == 8)
        os.write(lost.fileno(), b"\0\0")
        assert within(PATIENT, lambda: one.allocation.in_flight == 16)
        lost.close()


def test_a_last_word_is_said_again_where_the_connection_broke(monkeypatch):
    monkeypatch.setattr(coordinator, "HEARTBEAT_SECONDS", 60.0)
    driver, one = new_coordinator(), new_admission()
    with serving(driver) as address:
        relay = Relay(address)
        with report_to_driver(relay.address, "1", one):
            relay.cut()
            relay.down = False
            one.counters.answered_stored = 40
        assert driver.run().answered == 40


def test_without_a_driver_a_task_keeps_its_static_share(caplog):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    one = new_admission()
    with report_to_driver(CoordinatorAddress("127.0.0.1", port, KEY), "1", one):
        assert one.allocation == STATIC
    assert f"cannot reach the driver at 127.0.0.1:{port}" in caplog.text


def test_a_driver_of_another_run_is_no_driver(caplog):
    one = new_admission()
    with serving(new_coordinator()) as address, report_to_driver(replace(address, key=b"another"), "1", one):
        assert one.allocation == STATIC
    assert "keeps a static share" in caplog.text
    assert "another" not in caplog.text


@pytest.mark.parametrize("bind", ["::1", "[::1]", "[0:0:0:0:0:0:0:1%lo]", "2001:db8::7"])
@pytest.mark.parametrize("host", ["::1", "[::1]", "[0:0:0:0:0:0:0:1%lo]"])
def test_a_driver_with_an_ipv6_address_is_reached_at_it(bind: str, host: str):
    one = new_admission()
    with serve(new_coordinator(), bind, host, KEY, lambda: 0) as address, report_to_driver(address, "1", one):
        assert address.host == "::1"
        assert one.allocation.in_flight == 16


def test_a_driver_without_a_port_says_so_and_its_tasks_keep_their_static_shares(caplog):
    """Under a limit of open files, no socket can be opened."""
    one = new_admission()
    with no_more_files():
        served = ExitStack()
        address = served.enter_context(serve(new_coordinator(), "127.0.0.1", "127.0.0.1", KEY, lambda: 0))
    with served, report_to_driver(address, "1", one):
        assert one.allocation == STATIC
    assert "the driver cannot listen at 127.0.0.1" in caplog.text
    assert "Too many open files" in caplog.text


@contextmanager
def no_more_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_tasks_that_never_reach_a_driver_are_missed(monkeypatch, caplog):
    monkeypatch.setattr(coordinator, "SILENT_SECONDS", 0.1)
    with serve(new_coordinator(), "127.0.0.1", "::1", KEY, lambda: 2) as address:
        assert within(PATIENT, lambda: f"no task reaches the driver at [::1]:{address.port}" in caplog.text)
        time.sleep(0.3)
    assert caplog.text.count("no task reaches") == 1


@pytest.mark.parametrize(
    ("ends_in", "spent", "reason"),
    [(-1.0, 0.0, "max_minutes"), (1e9, 0.7, "max_spend"), (1e9, 0.5, "")],
    ids=["time", "money", "neither"],
)
def test_a_task_without_a_driver_ends_when_its_time_or_its_money_is_over(ends_in: float, spent: float, reason: str):
    one = new_admission()
    one.counters = TaskCounters(spent=spent, next_call=0.4)
    with report_to_driver(CoordinatorAddress("127.0.0.1", 0, KEY, time.time() + ends_in), "1", one):
        assert within(PATIENT if reason else 0.2, lambda: bool(one.stop_reason)) == bool(reason)
        assert reason in one.stop_reason


def test_the_last_counters_of_a_task_count_though_it_never_reached_the_driver():
    driver = new_coordinator()
    driver.settle("0-0", TaskCounters(calls=3, answered_stored=2, failed_stored={"empty": 1}, spent=0.5, window=8), "")
    driver.settle("1-1", TaskCounters(endpoint_error="refuses: no such model"), "it is late")
    run = driver.run()
    assert (run.calls, run.answered, run.failed, run.dollars, run.window) == (3, 2, {"empty": 1}, 0.5, 0)
    assert (driver.endpoint_error, driver.stop_reason) == ("refuses: no such model", "refuses: no such model")


# Strangers


def test_a_stranger_with_another_key_is_turned_away_and_disturbs_nobody():
    one, driver = new_admission(), new_coordinator()
    with serving(driver) as address, report_to_driver(address, "1", one):
        with pytest.raises(AuthenticationError):
            Client((address.host, address.port), authkey=b"another")
        one.counters.calls = 9
        assert within(PATIENT, lambda: driver.run().calls == 9)
        assert one.allocation.in_flight == 16


def test_strangers_who_say_nothing_hold_up_nobody():
    with serving(new_coordinator()) as address, ExitStack() as strangers:
        for _ in range(20):
            strangers.enter_context(socket.create_connection((address.host, address.port)))
        one, begin = new_admission(), time.monotonic()
        with report_to_driver(address, "1", one):
            assert one.allocation.in_flight == 16
        assert time.monotonic() - begin < 2


DRIVER = """
import resource, sys, time
from raft_spark.inference.coordinator import Coordinator, serve
from raft_spark.inference.quota import ClusterLimits
from raft_spark.monitoring.run_state import Run
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
run = Run("r", "e", "m", "2026-11-22T17:35:00+00:00", "2026-11-22T17:35:00+00:00", total=100)
with serve(Coordinator(ClusterLimits(16), run, 0.0, 1e9), "127.0.0.1", "127.0.0.1", sys.argv[1].encode(), lambda: 0) as address:
    print(address.port, flush=True)
    sys.stdin.read()
"""


def test_a_flood_of_strangers_ends_no_driver():
    """2,100 connections that say nothing, at a limit of 1,024 files; then some that say only half a word."""
    command = [sys.executable, "-c", DRIVER, KEY.decode()]
    with (
        many_files(4096),
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as driver,
        ExitStack() as strangers,
    ):
        address = CoordinatorAddress("127.0.0.1", int(driver.stdout.readline()), KEY)
        one, two, three = (new_admission() for _ in range(3))
        with report_to_driver(address, "1", one):
            for _ in range(2_100):
                strangers.enter_context(socket.create_connection((address.host, address.port), timeout=PATIENT))
            with report_to_driver(address, "2", two):
                assert within(PATIENT, lambda: (one.allocation.in_flight, two.allocation.in_flight) == (8, 8))
            for _ in range(200):
                strangers.enter_context(socket.create_connection((address.host, address.port))).sendall(b"\0\0")
            with report_to_driver(address, "3", three):
                assert within(PATIENT, lambda: (one.allocation.in_flight, three.allocation.in_flight) == (8, 8))
        assert within(PATIENT, lambda: sum(1 for _ in Path(f"/proc/{driver.pid}/fd").iterdir()) < 30)
        driver.stdin.close()
        assert driver.wait(PATIENT) == 0


@contextmanager
def many_files(count: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count:
        pytest.skip(f"this machine allows {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_key_is_not_shown():
    assert "key of this run" not in repr(CoordinatorAddress("127.0.0.1", 1, KEY))


# Stops


@pytest.mark.parametrize("reason", ["a person's", "a task's", "the store's", "the lease's"])
def test_a_reason_to_stop_reaches_every_task_within_a_second(reason: str):
    driver, admissions = new_coordinator(), [new_admission() for _ in range(4)]
    with serving(driver) as address, ExitStack() as tasks:
        for number, one in enumerate(admissions):
            tasks.enter_context(report_to_driver(address, str(number), one))
        assert not any(one.stop_reason for one in admissions)
        if reason == "a person's":
            driver.stop(reason)
        elif reason == "a task's":
            admissions[2].counters.endpoint_error = reason
        elif reason == "the store's":
            admissions[2].counters.store_error = reason
        else:
            driver.must_stop = lambda: reason
        assert within(1, lambda: all(one.stop_reason == reason for one in admissions))
    assert driver.stop_reason == reason
    assert driver.endpoint_error == (reason if reason == "a task's" else "")
    assert driver.store_error == (reason if reason == "the store's" else "")


def test_an_allocation_is_valid_while_the_driver_counts_the_task_as_alive():
    one = new_admission()
    with serving(new_coordinator()) as address, report_to_driver(address, "1", one):
        first = one.valid_until
        assert first <= time.monotonic() + coordinator.HEARTBEAT_TIMEOUT
        assert within(2, lambda: one.valid_until > first)


def test_the_first_reason_stays():
    driver = new_coordinator()
    driver.stop("first")
    driver.stop("second")
    assert driver.stop_reason == "first"


def test_a_run_ends_when_its_time_is_over(monkeypatch):
    clock = set_clock(monkeypatch)
    driver = new_coordinator(seconds=60.0)
    clock.now += 60
    assert driver.heartbeat("1", TaskCounters()).stop_reason == ""
    clock.now += 1
    assert "max_minutes" in driver.heartbeat("1", TaskCounters()).stop_reason


def test_a_run_ends_when_its_money_is_spent():
    driver = new_coordinator(dollars=1.0)
    assert driver.heartbeat("1", TaskCounters(spent=0.5, next_call=0.4)).stop_reason == ""
    assert "max_spend" in driver.heartbeat("1", TaskCounters(spent=0.7, next_call=0.4)).stop_reason


# Sums


def set_clock(monkeypatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=1_000.0)
    began = datetime.fromisoformat(BEGAN).timestamp() - clock.now
    fake = SimpleNamespace(
        monotonic=lambda: clock.now, time=lambda: began + clock.now, strftime=time.strftime, gmtime=time.gmtime
    )
    monkeypatch.setattr(coordinator, "time", fake)
    return clock


def test_a_run_is_the_sum_of_its_tasks_failures_by_class():
    driver, one, two = new_coordinator(), new_admission(), new_admission()
    one.counters = TaskCounters(10, 8, 1, 100, 20, 7, {"timeout": 2, "filtered": 1}, open=2, window=8, spent=0.5)
    two.counters = TaskCounters(5, 4, 0, 50, 10, 4, {"timeout": 1}, open=1, window=4, spent=0.25)
    with serving(driver) as address, report_to_driver(address, "0-0", one), report_to_driver(address, "1-1", two):
        run = driver.run()
    assert (run.total, run.answered, run.failed, run.done) == (100, 11, {"timeout": 3, "filtered": 1}, 15)
    assert (run.calls, run.throttled, run.prompt_tokens, run.completion_tokens) == (15, 1, 150, 30)
    assert (run.open, run.window, run.dollars) == (3, 12, 0.75)


def test_a_task_that_died_keeps_its_work_and_its_next_attempt_adds_to_it():
    driver = new_coordinator(dollars=10.0)
    driver.heartbeat("0-0", TaskCounters(calls=10, answered_stored=8, open=2, window=8, spent=0.5, reserved=0.25))
    driver.release("0-0", has_finished=False)
    run = driver.run()
    assert (run.answered, run.calls, run.open, run.window) == (8, 10, 0, 0)
    assert (run.dollars, run.possible_dollars, run.possibly_billed) == (
        0.5,
        0.25,
        2,
    )  # the open calls, at their dearest
    driver.heartbeat("0-4", TaskCounters(calls=3, answered_stored=3, spent=0.125))
    run = driver.run()
    assert (run.answered, run.calls, run.dollars, run.possible_dollars) == (11, 13, 0.625, 0.25)


def test_what_may_have_been_billed_is_no_part_of_the_dollars():
    driver = new_coordinator(dollars=10.0)
    driver.heartbeat("0-0", TaskCounters(spent=3.0, possible=2.0, prompts_not_counted=4, possibly_billed=1))
    driver.heartbeat("1-0", TaskCounters(spent=1.0, possible=0.5, completions_not_counted=2, possibly_billed=3))
    run = driver.run()
    assert (run.dollars, run.possible_dollars, run.most_dollars) == (1.5, 2.5, 4.0)
    assert (run.prompts_not_counted, run.completions_not_counted, run.possibly_billed) == (4, 2, 4)
    both = run_state.join(run, run)
    assert (both.dollars, both.possible_dollars, both.possibly_billed, both.prompts_not_counted) == (3.0, 5.0, 8, 8)


def test_what_an_hour_costs_is_part_of_the_dollars(monkeypatch):
    clock = set_clock(monkeypatch)
    driver = new_coordinator(hourly_price=2.0)
    clock.now += 900
    assert driver.run().dollars == 0.5


def test_the_series_of_a_long_run_has_at_most_some_hundred_points_evenly_spread(monkeypatch):
    clock = set_clock(monkeypatch)
    driver = new_coordinator()
    for _ in range(6_000):
        clock.now += 1
        series = driver.run().series
        assert len(series) < 600
    gaps = {later.seconds - earlier.seconds for earlier, later in itertools.pairwise(series)}
    assert len(series) >= 250
    assert max(gaps) <= 2 * min(gaps)
    assert (series[0].seconds, series[-1].seconds) == (1, 6_000)


def test_the_course_of_a_run_ends_at_its_last_word_and_counts_from_its_start(monkeypatch):
    """A run looks up answers before its tasks start, and it ends between two points: all its points use one clock."""
    clock = set_clock(monkeypatch)
    clock.now += 700
    driver = new_coordinator()
    driver.heartbeat("0-0", TaskCounters(calls=1, open=1, window=8))
    driver.run()
    clock.now += 80.2
    driver.run()
    driver.heartbeat("0-0", TaskCounters(calls=90, answered=90, window=8))
    clock.now += 0.6
    (*_, last) = driver.run().series
    assert (last.seconds, last.answered, last.calls) == (780.8, 90, 90)


def test_two_words_shortly_after_one_another_make_one_point(monkeypatch):
    clock = set_clock(monkeypatch)
    driver = new_coordinator()
    clock.now += 5
    driver.run()
    clock.now += 0.1
    assert [point.seconds for point in driver.run().series] == [5.1]


def test_a_task_that_drains_may_have_no_more_open_than_it_has():
    driver = new_coordinator(tasks=2)
    driver.heartbeat("0-0", TaskCounters(open=3, window=8, draining=True))
    driver.heartbeat("1-1", TaskCounters(open=13, window=13))
    run = driver.run()
    assert (run.open, run.window) == (16, 16)


def objecting(count: int, words: str = "the key is not valid") -> TaskCounters:
    return TaskCounters(objections={words: count}, objection=f"status 400: {words}", waits=True)


def test_what_all_tasks_are_refused_ends_the_run():
    driver = new_coordinator(tasks=2)
    assert driver.heartbeat("0-0", TaskCounters()).trial == 8
    driver.heartbeat("1-1", TaskCounters())
    assert driver.heartbeat("0-0", objecting(8)).stop_reason == "", "the other may be answered yet"
    assert (
        driver.heartbeat("1-1", objecting(8)).stop_reason == "refuses every request: status 400: the key is not valid"
    )


def test_an_answer_to_one_task_acquits_the_endpoint_for_all():
    driver = new_coordinator(tasks=2)
    driver.heartbeat("0-0", objecting(8))
    driver.heartbeat("1-1", TaskCounters(worked=1))
    allocation = driver.heartbeat("0-0", objecting(8))
    assert (allocation.worked, allocation.stop_reason, allocation.trial) == (1, "", 16)


def test_tasks_that_are_refused_for_different_reasons_go_on():
    driver = new_coordinator(tasks=2)
    driver.heartbeat("0-0", objecting(8, "too long"))
    assert driver.heartbeat("1-1", objecting(8, "too odd")).worked == 1
    assert driver.heartbeat("0-0", objecting(8, "too long")).stop_reason == ""


def test_a_few_rows_that_are_left_of_an_earlier_run_may_all_be_refused():
    limits = ClusterLimits(16)
    driver = Coordinator(limits, Run("r", "e", "m", BEGAN, BEGAN, total=2, known=98, tasks=1), 0.0, 1e9)
    assert driver.heartbeat("0-0", objecting(2)).stop_reason == ""
    assert driver.heartbeat("0-0", TaskCounters()).worked == 1


def test_a_task_that_others_are_answered_for_does_not_take_the_endpoint_for_dead():
    driver = new_coordinator(tasks=2)
    driver.heartbeat("0-0", TaskCounters(worked=5))
    assert driver.heartbeat("1-1", TaskCounters()).worked == 5


# Many tasks


words = st.tuples(
    st.integers(0, 2), st.integers(0, 3), st.none() | st.integers(0, 5)
)  # partition, attempt, replies that show that the endpoint works, or None for one that leaves


@given(st.lists(words, max_size=30))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_attempt_waits_for_the_older_ones_and_makes_way_for_the_newer_ones(said: list):
    driver, here, worked = new_coordinator(), set(), {}
    for partition, attempt, replies in said:
        task = f"{partition}-{attempt}"
        if replies is None:
            if (partition, attempt) in here:
                here.remove((partition, attempt))
                driver.release(task, has_finished=True)
            continue
        here.add((partition, attempt))
        worked[task] = replies
        others = [number for other, number in here if other == partition]
        allocation = driver.heartbeat(task, TaskCounters(worked=replies))
        assert allocation.must_wait == any(number < attempt for number in others)
        if not allocation.must_wait:
            is_replaced = any(number > attempt for number in others)
            assert allocation.stop_reason == (coordinator.REPLACED if is_replaced else "")
            assert allocation.worked == sum(worked.values())


@pytest.mark.parametrize(("tasks", "seconds"), [(1, 0.5), (250, 0.5), (500, 1.0), (5_000, 2.0)])
def test_many_tasks_report_less_often(monkeypatch, tasks: int, seconds: float):
    monkeypatch.setattr(coordinator, "HEARTBEAT_SECONDS", 0.5)
    driver = new_coordinator(tasks=tasks)
    driver.running_tasks = tasks
    assert driver.heartbeat("0-0", TaskCounters()).heartbeat == seconds


def test_a_heartbeat_among_500_tasks_costs_no_more_than_twice_that_among_20():
    few, many = (min(heartbeat_seconds(tasks) for _ in range(3)) for tasks in (20, 500))
    assert many < 2 * few


def heartbeat_seconds(tasks: int) -> float:
    """Return the CPU seconds of a heartbeat."""
    driver = new_coordinator(tasks=tasks)
    driver.running_tasks = tasks
    for number in range(tasks):
        driver.heartbeat(f"{number}-{number}", TaskCounters())
    begin = time.thread_time()
    for number in range(2_000):
        driver.heartbeat(f"{number % tasks}-{number % tasks}", TaskCounters(open=8, worked=number))
    return (time.thread_time() - begin) / 2_000
