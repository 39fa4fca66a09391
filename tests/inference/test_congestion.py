"""Congestion window, rate limiter, timeout and health in simulated time, at endpoints of changing capacity."""

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft_spark.inference.congestion import (
    BURST_SECONDS,
    AdaptiveTimeout,
    CongestionWindow,
    EndpointHealth,
    RateLimiter,
)

pytestmark = pytest.mark.row

SLOW, SLOW_SHARE = 5.0, 0.01  # seconds of the slowest answers, and how many are so slow
REFUSED_AFTER = 0.003  # seconds until a throttled call comes back


class Endpoint:
    """A simulated endpoint that works on `capacity(time)` calls at once and throttles each further one.

    One window for each of `caps` sends calls without end. `log` has (time of the reply, throttled).
    """

    def __init__(self, capacity: Callable[[float], float], latency: float, caps: list[int], seed: int = 0) -> None:
        self.capacity, self.latency = capacity, latency
        self.windows = [CongestionWindow(cap) for cap in caps]
        self.log: list[tuple[float, bool]] = []
        self._now, self._busy, self._random = 0.0, 0, random.Random(seed)
        self._open, self._sleeps = [0] * len(caps), [False] * len(caps)
        self._order = itertools.count()
        self._events: list[tuple[float, int, int, str, float, int]] = []

    def run(self, seconds: float) -> "Endpoint":
        self._send_all()
        while self._events[0][0] < seconds:
            self._now, _, task, event, started, open_at_start = heapq.heappop(self._events)
            if event == "awake":
                self._sleeps[task] = False
            else:
                self._reply(task, event, started, open_at_start)
            self._send_all()
        return self

    def _send_all(self) -> None:
        for task, window in enumerate(self.windows):
            while self._open[task] < window.size:
                wait = window.delay(self._now)
                if wait:
                    if not self._sleeps[task]:
                        self._sleeps[task] = True
                        self._happens(wait, task, "awake")
                    break
                self._send(task)

    def _send(self, task: int) -> None:
        self._open[task] += 1
        if self._busy >= self.capacity(self._now):
            self._happens(REFUSED_AFTER, task, "throttled")
            return
        self._busy += 1
        slow = self._random.random() < SLOW_SHARE
        self._happens(SLOW if slow else self.latency, task, "answered")

    def _happens(self, after: float, task: int, event: str) -> None:
        heapq.heappush(self._events, (self._now + after, next(self._order), task, event, self._now, self._open[task]))

    def _reply(self, task: int, event: str, started: float, open_at_start: int) -> None:
        self._open[task] -= 1
        self.log.append((self._now, event == "throttled"))
        if event == "throttled":
            self.windows[task].on_throttle(started, self._now, open_at_start)
        else:
            self._busy -= 1
            self.windows[task].on_answer()

    def used(self, begin: float, end: float) -> float:
        """Return the share of the capacity at `begin` that was used until `end`."""
        answered = sum(begin <= time < end and not throttled for time, throttled in self.log)
        seconds = self.latency * (1 - SLOW_SHARE) + SLOW * SLOW_SHARE
        return answered * seconds / (self.capacity(begin) * (end - begin))

    def throttled_share(self, begin: float, end: float) -> float:
        found = Counter(throttled for time, throttled in self.log if begin <= time < end)
        return found[True] / found.total()


# Window


@pytest.mark.parametrize("tasks", [1, 2, 4, 8])
@pytest.mark.parametrize("latency", [0.05, 0.2, 0.7])
@pytest.mark.parametrize("capacity", [10, 50])
def test_nine_tenths_of_what_an_endpoint_bears_are_used_and_few_calls_throttled(
    capacity: int, latency: float, tasks: int
):
    endpoint = Endpoint(lambda _: capacity, latency, [64 // tasks] * tasks).run(70)
    assert endpoint.used(10, 70) >= 0.9
    assert endpoint.throttled_share(10, 70) < 0.03


@pytest.mark.parametrize("tasks", [1, 4])
def test_capacity_that_doubles_is_found_within_ten_seconds(tasks: int):
    endpoint = Endpoint(lambda time: 20 if time < 40 else 40, 0.2, [64 // tasks] * tasks).run(60)
    assert endpoint.used(50, 60) >= 0.9
    assert endpoint.throttled_share(50, 60) < 0.03


@pytest.mark.parametrize("tasks", [1, 4])
def test_capacity_that_falls_to_a_quarter_is_kept_to_within_five_seconds(tasks: int):
    endpoint = Endpoint(lambda time: 40 if time < 40 else 10, 0.2, [64 // tasks] * tasks).run(70)
    assert endpoint.used(45, 70) >= 0.85
    assert endpoint.throttled_share(45, 70) < 0.03


@pytest.mark.parametrize("tasks", [1, 4])
def test_an_endpoint_that_bears_all_is_asked_as_much_as_allowed(tasks: int):
    endpoint = Endpoint(lambda _: 64, 0.2, [64 // tasks] * tasks).run(20)
    assert endpoint.used(10, 20) >= 0.95
    assert not any(throttled for _, throttled in endpoint.log)


def test_where_all_is_throttled_calls_become_rare_until_one_is_answered():
    endpoint = Endpoint(lambda time: 0 if time < 1_000 else 10, 0.2, [64]).run(1_200)
    times = [time for time, _ in endpoint.log if time < 1_000]
    pauses = [later - earlier - REFUSED_AFTER for earlier, later in itertools.pairwise(times)]
    doubled = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2]
    assert [pause for pause in pauses if pause > 0.05] == pytest.approx(doubled + [60.0] * 14)
    assert len(times) < 200
    assert endpoint.used(1_100, 1_200) >= 0.85


def test_a_window_of_failures_halves_once_for_all_calls_that_were_on_their_way():
    window = CongestionWindow(16)
    for _ in range(16):
        window.on_failed_window(started=0.0, now=1.0)
    assert window.size == 8
    window.on_throttle(started=0.5, now=1.5, open_at_start=16)
    assert window.size == 8
    window.on_throttle(started=1.0, now=2.0, open_at_start=8)
    assert window.size == 4


def test_the_endpoint_says_how_long_a_single_call_too_many_waits_but_not_for_ever():
    window = CongestionWindow(1)
    window.on_throttle(0.0, 1.0, 1, retry_after=20.0)
    assert window.delay(1.0) == 20.0
    window.on_throttle(30.0, 31.0, 1, retry_after=3_600.0)
    assert window.delay(31.0) == 60.0


@settings(deadline=None)
@given(st.integers(0, 64), st.lists(st.sampled_from(["answered", "throttled", "failed"]), max_size=200))
def test_a_window_stays_within_its_cap_and_never_closes(cap: int, events: list[str]):
    window = CongestionWindow(cap)
    for now, event in enumerate(events):
        if event == "answered":
            window.on_answer()
        elif event == "throttled":
            window.on_throttle(now - 1.0, now, max(1, cap))
        else:
            window.on_failed_window(now - 1.0, now)
        assert min(cap, 1) <= window.size <= cap


# Rate limiter

gaps = st.lists(st.tuples(st.floats(0, 3), st.floats(0, 1)), min_size=1, max_size=60)


@settings(deadline=None)
@given(st.floats(0.1, 1_000), gaps)
def test_no_interval_has_more_than_its_rate_and_the_little_that_is_caught_up(rate: float, gaps):
    """A sender sends as soon as the limiter allows, and sleeps from time to time; each call is `units`, at most 1."""
    limiter, now, sent = RateLimiter(), 0.0, list[tuple[float, float]]()
    for sleep, units in gaps:
        now += sleep
        now += limiter.delay(now, rate)
        limiter.record(now, rate, units)
        sent.append((now, units))
    for first in range(len(sent)):
        units = 0.0
        for time, sent_then in sent[first:]:
            units += sent_then
            assert units <= rate * (time - sent[first][0]) + BURST_SECONDS * rate + 1 + 1e-6


def test_a_rate_is_reached_evenly_from_the_start():
    limiter, now, times = RateLimiter(), 100.0, []
    for _ in range(5):
        now += limiter.delay(now, 4.0)
        limiter.record(now, 4.0)
        times.append(now)
    assert times == [100.0, 100.0, 100.25, 100.5, 100.75]  # CATCH_UP lets the second go at once


def test_what_was_feared_and_not_used_is_given_back():
    limiter = RateLimiter()
    limiter.record(10.0, 1.0, 8.0)
    assert limiter.delay(10.0, 1.0) == 7.75
    limiter.record(10.0, 1.0, -5.0)
    assert limiter.delay(10.0, 1.0) == 2.75


def test_a_rate_of_nothing_is_waited_for():
    assert RateLimiter().delay(0.0, 0.0) == float("inf")


def test_a_share_that_was_next_to_nothing_and_grows_is_used_at_once():
    limiter = RateLimiter()
    limiter.record(10.0, 1e-15)
    assert limiter.delay(10.0, 1e-15) > 1e9
    assert limiter.delay(10.5, 2.0) == pytest.approx(0.0)


def test_what_is_sent_while_there_is_no_share_is_owed():
    limiter = RateLimiter()
    limiter.record(10.0, 0.0, 4.0)
    assert limiter.delay(10.0, 2.0) == 2.0


# Timeout


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0.01, 600), min_size=32, max_size=600), st.integers(0, 5))
def test_no_answer_is_cut_off_below_three_times_the_slowest_of_late_nor_after_the_most(
    latencies: list[float], timeouts: int
):
    timeout = AdaptiveTimeout(60.0, 600.0)
    for latency in latencies:
        timeout.on_answer(latency)
    assert 60.0 <= timeout.seconds(timeouts) <= 600.0
    assert timeout.seconds(timeouts) >= min(600.0, 3 * max(latencies[-512:]))


def test_before_enough_answers_are_known_the_most_is_waited():
    timeout = AdaptiveTimeout(10.0, 60.0)
    for _ in range(31):
        timeout.on_answer(0.01)
    assert timeout.seconds(0) == 60.0
    timeout.on_answer(0.01)
    assert timeout.seconds(0) == 10.0


def test_a_request_that_timed_out_once_is_given_all_the_time_there_is():
    timeout = AdaptiveTimeout(10.0, 120.0)
    for _ in range(32):
        timeout.on_answer(0.01)
    assert [timeout.seconds(timeouts) for timeouts in range(3)] == [10.0, 120.0, 120.0]


def test_an_answer_a_hundred_times_slower_than_the_median_is_waited_for():
    timeout = AdaptiveTimeout(10.0, 600.0)
    for _ in range(32):
        timeout.on_answer(2.0)
    assert timeout.seconds(0) == 200.0


def test_an_endpoint_that_becomes_fast_is_waited_for_less():
    timeout = AdaptiveTimeout(10.0, 10_000.0)
    for latency in [50.0] * 32 + [0.5] * 480:
        timeout.on_answer(latency)
    assert timeout.seconds(0) == 150.0
    for _ in range(32):
        timeout.on_answer(0.5)
    assert timeout.seconds(0) == 50.0


# Health: patient for 30 s, a request may take 300 s


def new_health(patience: float = 30.0, longest: float = 300.0) -> EndpointHealth:
    return EndpointHealth(0.0, patience, longest)


def test_one_bad_row_never_ends_a_run():
    health = new_health()
    assert not any(health.on_failure("bad", float(now), 16, 16).dead for now in range(1_000))
    assert not any(health.on_throttle("bad", float(now)) for now in range(1_000))


@pytest.mark.parametrize(("cap", "calls"), [(0, 4), (1, 4), (4, 4), (64, 64)])
def test_a_dead_endpoint_is_noticed_after_a_window_of_failing_calls_and_not_before(cap: int, calls: int):
    health = new_health()
    statuses = [health.on_failure(call, 0.1, max(1, cap), cap).dead for call in range(calls)]
    assert statuses == [False] * (calls - 1) + [True]


def test_an_endpoint_that_has_answered_is_waited_for_from_its_first_failure_on():
    health = new_health()
    health.on_answer(10.0)
    assert not any(health.on_failure(call, 15.0, 4, 4).dead for call in range(500))
    assert not health.on_failure("almost", 44.9, 4, 4).dead
    assert health.on_failure("one more", 45.0, 4, 4).dead
    assert health.silent_seconds(45.0) == 35.0


def test_an_endpoint_that_only_says_that_it_is_busy_is_dead_when_a_request_may_take_no_longer():
    health = new_health()
    found = [(at, health.on_throttle(at, float(at))) for at in range(5, 400, 100)]
    assert found == [(5, False), (105, False), (205, False), (305, True)]


def test_an_endpoint_that_asks_again_and_again_to_wait_longer_than_a_request_has_asks_too_much():
    health = new_health()
    assert [health.asks_too_much(wait, 16) for wait in (301.0, 301.0, 300.0, 301.0, 301.0, 301.0, 301.0)] == [
        *[False] * 6,
        True,
    ]
    assert new_health().asks_too_much(301.0, 1)


def test_what_another_task_is_answered_shows_that_the_endpoint_lives():
    health = new_health()
    for now in range(0, 100, 10):
        health.on_answer_elsewhere(float(now))
        assert not any(health.on_failure(call, now + 1.0, 4, 4).dead for call in range(8))
        assert not health.on_throttle(now, now + 2.0)


@pytest.mark.parametrize(("cap", "requests"), [(1, 2), (2, 3), (3, 4), (64, 4)])
def test_an_endpoint_is_out_when_several_requests_in_a_row_fail(cap: int, requests: int):
    health = new_health()
    health.on_answer(0.0)
    found = [health.on_failure(call, 1.0, cap, cap).is_out for call in range(requests)]
    assert found == [False] * (requests - 1) + [True]
    health.on_answer(2.0)
    assert not health.on_failure(0, 3.0, cap, cap).is_out


def test_an_answer_forgives_all_failures():
    health = new_health(patience=0.0)
    for call in range(3):
        health.on_failure(call, 6.0, 4, 4)
    health.on_answer(6.0)
    assert [health.on_failure(call, 12.0, 4, 4).dead for call in range(4)] == [False, False, False, True]


def test_each_window_of_failures_counts_once():
    health = new_health()
    health.on_answer(0.0)
    found = [health.on_failure(call, 1.0, 3, 64) for call in range(6)]
    assert [status.window_failed for status in found] == [False, False, True] * 2
