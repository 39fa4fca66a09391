"""Many requests at once: each is yielded once, a slow or failing one blocks no other, limits hold, nothing hangs."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft_spark.config import Price
from raft_spark.endpoints.base import ErrorClass, Reply, Request
from raft_spark.inference import admission, congestion, executor
from raft_spark.inference.admission import Admission, InFlightRequest, Patience
from raft_spark.inference.executor import RetryLimits
from raft_spark.inference.quota import UNLIMITED, Allocation

pytestmark = [pytest.mark.row, pytest.mark.timeout(60)]

OK = Reply(completion="yes", finish_reason="stop")
PATIENT = 20.0  # seconds that a fake waits at most, so that a broken executor fails instead of hanging


def requests(count: int) -> Iterator[tuple[int, Request]]:
    return ((number, Request(str(number), "m", {})) for number in range(count))


def failed(error_class: ErrorClass, retry_after: float | None = None, error: str = "as asked") -> Reply:
    """A failed reply; one that is unavailable was sent, so that it counts as an attempt."""
    return Reply(error_class=error_class, error=error, retry_after=retry_after, is_cut_off=error_class == "unavailable")


def limits(
    in_flight: int = 4, attempts: int = 3, deadline_seconds: float = 60, silent_seconds: float = 30
) -> tuple[RetryLimits, Admission]:
    allocation = Allocation(in_flight, UNLIMITED, UNLIMITED, UNLIMITED)
    return RetryLimits(attempts, deadline_seconds), Admission(
        allocation, Price(), Patience(60.0, 10.0, silent_seconds, deadline_seconds)
    )


def answers(
    asking: Iterator[tuple[int, Request]], ask: Callable[[Request], Reply], limited: tuple[RetryLimits, Admission]
) -> Iterator[InFlightRequest | None]:
    return executor.ask_all(asking, lambda request, _: ask(request), *limited)


def all_answers(
    count: int, ask: Callable[[Request], Reply], limited: tuple[RetryLimits, Admission]
) -> list[InFlightRequest]:
    return [inflight for inflight in answers(requests(count), ask, limited) if inflight is not None]


@pytest.fixture
def _short_waits(monkeypatch):
    monkeypatch.setattr(executor, "BACKOFF_BASE", 0.01)
    monkeypatch.setattr(congestion, "MIN_PAUSE", 0.0)


@contextmanager
def no_backoff_and_never_dead() -> Iterator[None]:
    """Retry without backoff, and never count the endpoint as dead."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executor, "BACKOFF_BASE", 0.0)
        patch.setattr(congestion, "MIN_PAUSE", 0.0)
        patch.setattr(congestion, "MIN_FAILURES", 1_000_000)
        yield


# Every request once

classes = [name for name in get_args(ErrorClass) if name != "refused"]
outcomes = st.lists(st.lists(st.sampled_from(classes), max_size=4), max_size=12)


@given(outcomes, st.integers(1, 5), st.integers(1, 4))
@settings(deadline=None, max_examples=50)
def test_every_request_comes_out_once_with_its_last_reply(failures, in_flight: int, attempts: int):
    """Each request fails with the classes of its list, call by call, and then succeeds."""
    calls: Counter[int] = Counter()
    retried = {"timeout", "unavailable", "model_error"}

    def ask(request: Request) -> Reply:
        number = int(request.prompt)
        calls[number] += 1
        mine = failures[number]
        error = "abcdefghijkl"[number]  # another in each, so that none seems to concern every request
        return failed(mine[calls[number] - 1], error=error) if calls[number] <= len(mine) else OK

    with no_backoff_and_never_dead(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(admission, "ALONE_SECONDS", 0.0)
        answered = all_answers(len(failures), ask, limits(in_flight, attempts))
    assert sorted(inflight.pubid for inflight in answered) == list(range(len(failures)))
    for inflight in answered:
        mine = failures[inflight.pubid]
        spent, expected = 0, len(mine) + 1
        for at, found in enumerate(mine, 1):
            spent += found != "throttled"
            if found not in {*retried, "throttled"} or (found != "throttled" and spent >= attempts):
                expected = at
                break
        assert inflight.attempts == calls[inflight.pubid] == expected
        assert inflight.reply.error_class == (mine[expected - 1] if expected <= len(mine) else None)
        assert inflight.request.prompt == str(inflight.pubid)


def test_no_requests_are_no_answers():
    assert all_answers(0, lambda _: OK, limits()) == []


def test_answers_come_in_the_order_they_are_finished():
    seconds = {"0": 0.3, "1": 0.15, "2": 0.0}

    def ask(request: Request) -> Reply:
        time.sleep(seconds[str(request.prompt)])
        return OK

    answered = all_answers(3, ask, limits(in_flight=3))
    assert [inflight.pubid for inflight in answered] == [2, 1, 0]
    assert answered[2].latency >= 0.3


# Slots


def test_a_slow_answer_holds_back_no_other():
    others_are_done = threading.Event()

    def ask(request: Request) -> Reply:
        if request.prompt == "0":
            assert others_are_done.wait(PATIENT)
        return OK

    order = []
    for inflight in answers(requests(50), ask, limits(in_flight=2)):
        order += [inflight.pubid] if inflight else []
        if len(order) == 49:
            others_are_done.set()
    assert order == [*range(1, 50), 0]


@pytest.mark.parametrize("in_flight", [1, 3, 8])
def test_so_many_are_in_flight_and_never_more(in_flight: int):
    flying, most, lock = 0, 0, threading.Lock()

    def ask(request: Request) -> Reply:
        nonlocal flying, most
        with lock:
            flying += 1
            most = max(most, flying)
        time.sleep(0.005)
        with lock:
            flying -= 1
        return failed("model_error") if request.prompt in {"3", "5"} else OK

    with no_backoff_and_never_dead():
        assert len(all_answers(40, ask, limits(in_flight))) == 40
    assert most == in_flight


def test_requests_are_made_when_there_is_room_for_them():
    built = 0

    def building() -> Iterator[tuple[int, Request]]:
        nonlocal built
        for pair in requests(100):
            built += 1
            yield pair

    answered = 0
    for inflight in answers(building(), lambda _: OK, limits(in_flight=4)):
        answered += inflight is not None
        assert built <= answered + 4  # one is ready in addition to the open calls
    assert built == 100


@pytest.mark.parametrize("in_flight", [1, 2])
def test_a_request_that_waits_gives_its_slot_to_another(in_flight: int):
    calls: Counter[str] = Counter()

    def ask(request: Request) -> Reply:
        calls[str(request.prompt)] += 1
        first_of_waiting = int(str(request.prompt)) < in_flight and calls[str(request.prompt)] == 1
        return failed("throttled", retry_after=0.4) if first_of_waiting else OK

    answered = all_answers(8, ask, limits(in_flight))
    assert {inflight.pubid for inflight in answered[:-in_flight]} == set(range(in_flight, 8))


# Retries


@pytest.mark.parametrize(
    ("error_class", "calls"),
    [
        ("timeout", 3),
        ("unavailable", 3),
        ("model_error", 3),
        ("bad_request", 1),
        ("filtered", 1),
        ("empty", 1),
        ("refused", 1),
    ],
)
@pytest.mark.usefixtures("_short_waits")
def test_only_what_may_pass_is_asked_again_and_so_many_times_at_most(error_class: ErrorClass, calls: int):
    asks: list[Request] = []

    def ask(request: Request) -> Reply:
        asks.append(request)
        return failed(error_class)

    (inflight,) = all_answers(1, ask, limits(attempts=3))
    assert len(asks) == inflight.attempts == calls
    assert inflight.reply == failed(error_class)


def test_every_class_of_error_is_decided_on():
    assert len(get_args(ErrorClass)) == 8  # throttled, below, and the table above


@pytest.mark.usefixtures("_short_waits")
def test_throttled_calls_do_not_use_up_the_attempts():
    calls: Counter[str] = Counter()

    def ask(request: Request) -> Reply:
        calls["all"] += 1
        return failed("throttled") if calls["all"] <= 6 else failed("timeout")

    (inflight,) = all_answers(1, ask, limits(attempts=2))
    assert (inflight.attempts, inflight.throttles, inflight.reply.error_class) == (8, 6, "timeout")


def times_of_calls(reply: Reply, limited: tuple[RetryLimits, Admission]) -> list[float]:
    """Ask one request that gets this reply at first and succeeds then; return when it was inflight."""
    times: list[float] = []

    def ask(_: Request) -> Reply:
        times.append(time.monotonic())
        return reply if len(times) == 1 else OK

    all_answers(1, ask, limited)
    return times


@pytest.mark.usefixtures("_short_waits")
def test_retry_after_is_respected():
    first, second = times_of_calls(failed("throttled", retry_after=0.3), limits())
    assert 0.3 <= second - first < 5


def test_retry_after_is_respected_up_to_a_cap(monkeypatch):
    monkeypatch.setattr(executor, "BACKOFF_CAP", 0.1)
    first, second = times_of_calls(failed("unavailable", retry_after=3_600), limits())
    assert 0.1 <= second - first < 5


@pytest.mark.usefixtures("_short_waits")
def test_a_request_is_not_asked_again_after_its_deadline():
    within = limits(attempts=100, deadline_seconds=0.5)
    (inflight,) = all_answers(1, lambda _: failed("throttled", retry_after=0.3), within)
    assert (inflight.attempts, inflight.reply.error_class) == (2, "throttled")


def test_waits_grow_with_jitter(monkeypatch):
    longest = []
    monkeypatch.setattr(executor.random, "uniform", lambda _, upper: longest.append(upper) or 0.0)
    all_answers(1, lambda _: failed("timeout"), limits(attempts=10))
    assert longest == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


# Time passes


def test_while_nothing_is_answered_the_caller_is_told_every_tick(monkeypatch):
    monkeypatch.setattr(executor, "TICK", 0.02)

    def ask(_: Request) -> Reply:
        time.sleep(0.3)
        return OK

    found = list(answers(requests(1), ask, limits()))
    assert found.count(None) >= 2
    assert isinstance(found[-1], InFlightRequest)


def test_a_storm_of_retries_does_not_silence_the_ticks():
    calls = itertools.count()

    def ask(_: Request) -> Reply:
        time.sleep(0.005)
        return failed("throttled", retry_after=0.0) if next(calls) < 40 else OK

    with no_backoff_and_never_dead():
        found = list(answers(requests(2), ask, limits(in_flight=2, attempts=100)))
    assert found.count(None) >= 40


def test_a_waiting_request_does_not_keep_the_window_busy_while_all_slots_are_taken():
    def ask(request: Request) -> Reply:
        if request.prompt == "0" and not waited:
            waited.append(request)
            return failed("throttled")
        time.sleep(0.3)
        return OK

    waited: list[Request] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executor, "BACKOFF_BASE", 0.001)
        found = list(answers(requests(2), ask, limits(in_flight=1)))
    assert found.count(None) < 20


# No mix-up


@given(st.integers(1, 16), st.lists(st.tuples(st.floats(0, 0.003), st.booleans()), max_size=40))
@settings(deadline=None, max_examples=25)
def test_no_answer_comes_out_with_another_request(in_flight: int, calls: list[tuple[float, bool]]):
    """Each call takes its seconds, and some fail at first; the answer repeats the prompt."""
    failed_once: set[str] = set()

    def ask(request: Request) -> Reply:
        prompt = str(request.prompt)
        seconds, fails_first = calls[int(prompt)]
        time.sleep(seconds)
        if fails_first and prompt not in failed_once:
            failed_once.add(prompt)
            return failed("model_error")
        return Reply(completion=prompt)

    with no_backoff_and_never_dead():
        answered = all_answers(len(calls), ask, limits(in_flight))
    assert sorted(inflight.pubid for inflight in answered) == list(range(len(calls)))
    assert all(str(inflight.pubid) == inflight.request.prompt == inflight.reply.completion for inflight in answered)


# The window adapts


def test_what_the_endpoint_bears_is_found_with_real_threads():
    busy, throttled, lock = 0, Counter[bool](), threading.Lock()

    def ask(_: Request) -> Reply:
        nonlocal busy
        with lock:
            is_full = busy >= 6
            throttled[is_full] += 1
            busy += not is_full
        if is_full:
            return failed("throttled")
        time.sleep(0.005)
        with lock:
            busy -= 1
        return OK

    limited = limits(in_flight=32)
    with no_backoff_and_never_dead():
        assert len(all_answers(600, ask, limited)) == 600
    assert throttled[True] < 0.2 * throttled[False]
    assert limited[1].counters.throttled == throttled[True] > 0
    assert 3 <= limited[1].counters.window <= 10


@pytest.mark.parametrize("in_flight", [4, 16, 64])
def test_a_dead_endpoint_is_given_up_after_fewer_calls_than_two_windows(in_flight: int):
    calls = itertools.count()

    def ask(_: Request) -> Reply:
        next(calls)
        return failed("unavailable")

    limited, begin = limits(in_flight), time.monotonic()
    answered = all_answers(1_000, ask, limited)
    assert time.monotonic() - begin < 5
    assert in_flight <= next(calls) < 2 * in_flight
    assert limited[1].stop_reason.startswith("has not answered")
    assert {inflight.reply.error_class for inflight in answered} == {"unavailable"}


def test_one_request_that_always_fails_ends_no_run():
    def ask(request: Request) -> Reply:
        return failed("timeout") if request.prompt == "3" else OK

    limited = limits(in_flight=4, attempts=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executor, "BACKOFF_BASE", 0.0)
        answered = all_answers(10, ask, limited)
    assert [inflight.attempts for inflight in answered if inflight.reply.error] == [20]
    assert limited[1].stop_reason == ""


@pytest.mark.usefixtures("_short_waits")
def test_an_endpoint_that_is_away_for_a_while_costs_no_row_its_attempts():
    """It refuses connections for a second; two attempts at each row would be over within a tenth of that."""
    begin = time.monotonic()

    def ask(_: Request) -> Reply:
        is_away = 0.1 < time.monotonic() - begin < 1.1
        time.sleep(0.005)
        return Reply(error_class="unavailable", error="connection refused") if is_away else OK

    limited = limits(in_flight=8, attempts=2)
    answered = all_answers(400, ask, limited)
    assert [inflight.reply for inflight in answered] == [OK] * 400
    assert limited[1].counters.calls > 400


# Ends


def test_an_endpoint_that_dies_is_given_up_after_few_more_calls():
    asked = itertools.count(1)

    def ask(request: Request) -> Reply:
        return OK if next(asked) <= 100 else failed("unavailable")  # at once, as a closed port does

    within = limits(in_flight=16, attempts=100, silent_seconds=1.0)
    found = all_answers(1000, ask, within)
    assert sum(inflight.reply.completion is not None for inflight in found) == 100
    assert "has not answered" in within[1].stop_reason
    assert next(asked) - 101 <= 16 + 2 * 16, "those that were open, and twice as many"


def test_an_exception_in_ask_surfaces():
    def ask(request: Request) -> Reply:
        if request.prompt == "7":
            raise ZeroDivisionError
        return OK

    with pytest.raises(ZeroDivisionError):
        all_answers(20, ask, limits(in_flight=3))


def test_an_exception_in_the_requests_surfaces():
    def broken() -> Iterator[tuple[int, Request]]:
        yield from requests(3)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(answers(broken(), lambda _: OK, limits()))


def test_closing_early_waits_for_the_open_calls_only():
    calls = []

    def ask(request: Request) -> Reply:
        calls.append(request)
        time.sleep(0.05)
        return OK

    going = answers(requests(1_000), ask, limits(in_flight=4))
    next(inflight for inflight in going if inflight is not None)
    begin = time.monotonic()
    going.close()
    assert time.monotonic() - begin < 5
    assert len(calls) <= 8
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ask")]


def test_closing_does_not_wait_for_requests_that_wait():
    going = answers(requests(1), lambda _: failed("throttled", retry_after=30), limits())
    assert next(going) is None
    begin = time.monotonic()
    going.close()
    assert time.monotonic() - begin < 5


def test_a_refusal_ends_all_at_once():
    calls = itertools.count()

    def ask(_: Request) -> Reply:
        next(calls)
        return failed("refused")

    limited = limits(in_flight=8)
    answered = all_answers(1_000, ask, limited)
    assert len(answered) == next(calls) <= 8
    assert limited[1].stop_reason == "refuses: as asked"


def test_a_stop_starts_no_call_waits_for_the_open_ones_and_yields_what_has_failed():
    """Request 0 waits for its retry; 1 and 2 are open at the stop, and 2 fails; no call starts for the others."""
    calls: list[str] = []
    stopped = threading.Event()

    def ask(request: Request) -> Reply:
        calls.append(str(request.prompt))
        if request.prompt == "0":
            return failed("unavailable", retry_after=30)
        assert stopped.wait(PATIENT)
        return OK if request.prompt == "1" else failed("timeout")

    limited = limits(in_flight=2)
    going, found = answers(requests(100), ask, limited), []
    for inflight in going:
        found += [inflight] if inflight else []
        if len(calls) == 3 and not stopped.is_set():
            limited[1].allocation = replace(limited[1].allocation, stop_reason="enough")
            stopped.set()
    assert calls == ["0", "1", "2"]
    assert {inflight.pubid: inflight.reply.error_class for inflight in found} == {
        0: "unavailable",
        1: None,
        2: "timeout",
    }


def test_a_stop_before_the_first_call_asks_nothing():
    limited = limits()
    limited[1].allocation = replace(limited[1].allocation, stop_reason="enough")
    assert all_answers(10, lambda _: OK, limited) == []


def test_without_a_share_nothing_is_asked_until_there_is_one(monkeypatch):
    monkeypatch.setattr(executor, "TICK", 0.01)
    limited = limits(in_flight=0)
    going = answers(requests(5), lambda _: OK, limited)
    assert [next(going) for _ in range(5)] == [None] * 5
    assert limited[1].counters.calls == 0
    limited[1].allocation = replace(limited[1].allocation, in_flight=2)
    assert sorted(inflight.pubid for inflight in going if inflight) == [0, 1, 2, 3, 4]
