"""Admission of one task, with a fake clock: it never exceeds its dollars and corrects estimates by the usage."""

import sys
import threading
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft_spark.config import Price
from raft_spark.endpoints.base import ErrorClass, Reply, Request
from raft_spark.inference.admission import Admission, InFlightRequest, Patience
from raft_spark.inference.quota import UNLIMITED, Allocation

pytestmark = pytest.mark.row

DOLLAR_A_TOKEN = Price(input_price=1_000_000, output_price=2_000_000)  # 1 dollar a token in, 2 out
PATIENCE = Patience(timeout=60.0, least_timeout=10.0, silent=30.0, deadline=600.0)
OPEN = Allocation(8, UNLIMITED, UNLIMITED, UNLIMITED)


class Clock:
    """A clock that a test sets."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def new_inflight(characters: int = 72, max_tokens: int = 50, pubid: int = 1) -> InFlightRequest:
    """72 characters are at most 36 tokens; with 64 for the template, 100."""
    return InFlightRequest(pubid, Request("x" * characters, "m", {"max_tokens": max_tokens}))


def answer(prompt_tokens: int | None = 20, completion_tokens: int | None = 10) -> Reply:
    return Reply("yes", "stop", prompt_tokens, completion_tokens)


def failed(error_class: ErrorClass) -> Reply:
    return Reply(error_class=error_class, error="as asked")


def call(admission: Admission, reply: Reply, inflight: InFlightRequest | None = None) -> InFlightRequest:
    """Start one call and finish it with this reply."""
    return admission.finish(replace(admission.start(inflight or new_inflight()), latency=0.1, reply=reply))


def test_no_call_starts_while_the_driver_has_not_renewed_the_allocation():
    clock = Clock()
    admission = Admission(OPEN, Price(), PATIENCE, clock)
    admission.valid_until = clock.now + 5
    assert admission.delay(new_inflight().request) == 0
    clock.now += 5.1
    assert admission.delay(new_inflight().request) == UNLIMITED
    admission.valid_until = clock.now + 5
    assert admission.delay(new_inflight().request) == 0


# Money

calls = st.tuples(st.integers(0, 400), st.integers(1, 100))
replies = st.one_of(
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.sampled_from(["throttled", "timeout", "unavailable", "model_error", "filtered", "no usage"]),
)


@given(st.lists(st.tuples(calls, st.booleans(), replies), max_size=40), st.floats(0, 5_000))
@settings(deadline=None)
def test_what_is_spent_and_reserved_never_passes_what_was_granted(steps, dollars: float):
    """Each step starts a call if allowed, and may finish the oldest; its usage is any share of the maximum."""
    admission = Admission(replace(OPEN, dollars=dollars), DOLLAR_A_TOKEN, PATIENCE, Clock())
    open_calls: list[InFlightRequest] = []
    for (characters, max_tokens), comes_back, outcome in steps:
        inflight = new_inflight(characters, max_tokens)
        if admission.delay(inflight.request) == 0:
            open_calls.append(admission.start(inflight))
        assert admission.counters.spent + admission.counters.reserved <= dollars + 1e-6
        if comes_back and open_calls:
            oldest = open_calls.pop(0)
            admission.finish(replace(oldest, reply=reply_of(outcome, oldest)))
        assert admission.counters.spent + admission.counters.reserved <= dollars + 1e-6
        assert admission.counters.open == len(open_calls)


def reply_of(outcome: tuple[float, float] | str, inflight: InFlightRequest) -> Reply:
    if outcome == "no usage":
        return answer(None, None)
    if isinstance(outcome, str):
        return failed(outcome)
    read, written = outcome
    return answer(int(read * inflight.request.characters / 2), int(written * inflight.request.max_tokens))


def test_a_call_is_reserved_at_its_dearest_and_paid_by_its_usage():
    admission = Admission(OPEN, DOLLAR_A_TOKEN, PATIENCE, Clock())
    sent = admission.start(new_inflight())
    assert (admission.counters.reserved, admission.counters.spent) == (200.0, 0.0)
    admission.finish(replace(sent, reply=answer(20, 10)))
    assert (admission.counters.reserved, admission.counters.spent) == (0.0, 40.0)


@pytest.mark.parametrize(
    ("error_class", "paid"),
    [
        ("timeout", 200.0),
        ("model_error", 200.0),
        ("filtered", 200.0),
        ("unavailable", 0.0),
        ("throttled", 0.0),
        ("bad_request", 0.0),
        ("refused", 0.0),
    ],
)
def test_what_may_have_been_billed_counts_as_the_dearest_and_what_never_began_as_nothing(
    error_class: ErrorClass, paid: float
):
    admission = Admission(OPEN, DOLLAR_A_TOKEN, PATIENCE, Clock())
    call(admission, failed(error_class))
    assert (admission.counters.spent, admission.counters.reserved, admission.counters.open) == (paid, 0.0, 0)


@pytest.mark.parametrize(
    ("reply", "certain", "possible", "not_counted", "possibly_billed"),
    [
        (answer(20, 10), 40.0, 0.0, (0, 0), 0),
        (answer(None, None), 0.0, 200.0, (1, 1), 0),
        (answer(None, 10), 20.0, 100.0, (1, 0), 0),  # 36 tokens of the prompt and 64 of the template at most
        (answer(20, None), 20.0, 100.0, (0, 1), 0),  # 50 tokens of the answer at most
        (failed("model_error"), 0.0, 200.0, (0, 0), 1),
        (failed("timeout"), 0.0, 200.0, (0, 0), 1),
        (failed("throttled"), 0.0, 0.0, (0, 0), 0),
        (failed("unavailable"), 0.0, 0.0, (0, 0), 0),
        (replace(failed("unavailable"), is_cut_off=True), 0.0, 200.0, (0, 0), 1),
        (replace(failed("empty"), prompt_tokens=20, completion_tokens=10), 40.0, 0.0, (0, 0), 0),
        (replace(failed("filtered"), prompt_tokens=20, completion_tokens=0), 20.0, 0.0, (0, 0), 0),
    ],
)
def test_what_the_server_counted_is_certain_and_the_rest_is_possible_at_its_dearest(
    reply: Reply, certain: float, possible: float, not_counted: tuple[int, int], possibly_billed: int
):
    admission = Admission(OPEN, DOLLAR_A_TOKEN, PATIENCE, Clock())
    call(admission, reply)
    counters = admission.counters
    assert (counters.spent - counters.possible, counters.possible) == (certain, possible)
    assert (counters.prompts_not_counted, counters.completions_not_counted) == not_counted
    assert counters.possibly_billed == possibly_billed


def test_five_failures_without_usage_add_nothing_to_the_certain_dollars():
    admission = Admission(OPEN, DOLLAR_A_TOKEN, PATIENCE, Clock())
    for pubid in range(20):
        call(admission, answer(20, 10), new_inflight(pubid=pubid))
    for pubid in range(5):
        call(admission, failed("model_error"), new_inflight(pubid=pubid))
    counters = admission.counters
    assert (counters.spent - counters.possible, counters.possible) == (20 * 40.0, 5 * 200.0)


def test_a_call_that_cannot_be_paid_waits_for_an_open_one_that_may_turn_out_cheaper():
    admission = Admission(replace(OPEN, dollars=300.0), DOLLAR_A_TOKEN, PATIENCE, Clock())
    sent = admission.start(new_inflight())
    assert admission.delay(new_inflight().request) == UNLIMITED
    assert admission.counters.next_call == 200.0
    admission.finish(replace(sent, reply=answer(20, 10)))
    assert admission.delay(new_inflight().request) == 0


def test_the_reporter_never_reads_less_than_was_paid_and_reserved():
    """Every call costs all that was reserved for it, while another thread reads the sum."""
    admission, is_over = Admission(OPEN, DOLLAR_A_TOKEN, PATIENCE, Clock()), threading.Event()
    switch = sys.getswitchinterval()
    started, read_less = 0, []

    def read() -> None:
        while not is_over.is_set():
            committed = started * 200.0
            counters = admission.snapshot()
            read_less.append(counters.spent + counters.reserved < committed)

    reader = threading.Thread(target=read)
    sys.setswitchinterval(1e-6)
    try:
        reader.start()
        for _ in range(1_000):
            sent = admission.start(new_inflight())
            started += 1
            admission.finish(replace(sent, reply=answer(None, None)))
    finally:
        sys.setswitchinterval(switch)
        is_over.set()
        reader.join()
    assert read_less
    assert not any(read_less)


# Tokens and requests


def tokens_a_minute(clock: Clock, tokens: float = 6_000.0) -> Admission:
    return Admission(replace(OPEN, tokens_per_minute=tokens), Price(), PATIENCE, clock)


@pytest.mark.parametrize(
    ("reply", "seconds"),
    [
        (answer(20, 30), 0.25),  # 50 used at 100 a second, a burst of 0.25 s is allowed
        (answer(200, 30), 2.05),  # more than was estimated
        (failed("throttled"), 0.0),
        (failed("unavailable"), 0.0),
        (failed("timeout"), 0.75),  # usage unknown: the estimate stays
        (answer(None, None), 0.75),
        (answer(None, 10), 0.35),  # 50 tokens of the prompt stay estimated: 60 used
        (answer(20, None), 0.45),  # 50 tokens of the answer stay estimated: 70 used
    ],
)
def test_calls_are_spaced_by_what_they_are_feared_to_take_and_then_by_what_they_took(reply: Reply, seconds: float):
    clock = Clock()
    admission = tokens_a_minute(clock)
    sent = admission.start(new_inflight(175, 50))  # 175 / 3.5 + 50 = 100 tokens
    assert admission.delay(new_inflight().request) == pytest.approx(0.75)
    admission.finish(replace(sent, reply=reply))
    assert admission.delay(new_inflight().request) == pytest.approx(seconds)


def test_answers_teach_how_many_tokens_an_answer_takes():
    admission = tokens_a_minute(Clock())
    assert admission.start(new_inflight(175, 500)).tokens == 550
    call(admission, answer(60, 20))
    call(admission, answer(60, 40))
    assert admission.start(new_inflight(175, 500)).tokens == 80


def test_answers_without_a_count_teach_nothing():
    admission = tokens_a_minute(Clock())
    call(admission, answer(None, None))
    assert admission.start(new_inflight(175, 500)).tokens == 550
    call(admission, answer(60, 40))
    assert admission.start(new_inflight(175, 500)).tokens == 90


def test_in_the_long_run_as_many_tokens_are_used_as_allowed_though_fewer_are_than_feared():
    clock = Clock()
    admission, used, end = tokens_a_minute(clock), 0, clock.now + 600
    while clock.now < end:
        clock.now += admission.delay(new_inflight(700, 400).request)
        call(admission, answer(250, 50), new_inflight(700, 400))
        used += 300
    assert used == pytest.approx(60_000, rel=0.02)


def test_requests_a_second_are_kept():
    clock = Clock()
    admission = Admission(replace(OPEN, requests_per_second=2.0), Price(), PATIENCE, clock)
    call(admission, answer())
    assert admission.delay(new_inflight().request) == 0.25
    clock.now += 0.25
    call(admission, answer())
    assert admission.delay(new_inflight().request) == 0.5


@pytest.mark.parametrize("nothing", [{"requests_per_second": 0.0}, {"tokens_per_minute": 0.0}, {"in_flight": 0}])
def test_without_a_share_nothing_is_sent_and_what_was_open_comes_back(nothing: Mapping[str, float]):
    """A task that lost its driver and reconnected may get no rate at first."""
    admission = Admission(replace(OPEN, requests_per_second=2.0, tokens_per_minute=6_000.0), Price(), PATIENCE, Clock())
    sent = [admission.start(new_inflight()), admission.start(new_inflight())]
    admission.allocation = replace(admission.allocation, **nothing)
    assert admission.delay(new_inflight().request) == UNLIMITED
    admission.finish(replace(sent[0], reply=answer()))
    admission.finish(replace(sent[1], reply=failed("throttled")))
    assert (admission.counters.open, admission.counters.completion_tokens) == (0, 10)


def test_a_share_that_is_taken_away_between_the_look_and_the_call_hurts_nobody():
    admission = Admission(replace(OPEN, requests_per_second=2.0, tokens_per_minute=6_000.0), Price(), PATIENCE, Clock())
    assert admission.delay(new_inflight().request) == 0
    admission.allocation = replace(admission.allocation, requests_per_second=0.0, tokens_per_minute=0.0)
    assert admission.start(new_inflight()).open_at_start == 1


# Ends


def test_a_refusal_stops_at_once_and_says_the_server_s_words():
    admission = Admission(OPEN, Price(), PATIENCE, Clock())
    call(admission, Reply(error_class="refused", error="no such model"))
    assert admission.stop_reason == "refuses: no such model"


def test_a_dead_endpoint_is_told_with_how_long_and_the_last_reason():
    clock = Clock()
    admission = Admission(OPEN, Price(), PATIENCE, clock)
    clock.now += 7
    for pubid in range(8):
        assert admission.stop_reason == ""
        call(admission, failed("unavailable"), new_inflight(pubid=pubid))
    assert admission.stop_reason == "has not answered for 7 s; the last error: as asked"


def test_the_driver_s_reason_stops_a_task():
    admission = Admission(OPEN, Price(), PATIENCE, Clock())
    admission.allocation = replace(OPEN, stop_reason="enough")
    assert admission.stop_reason == "enough"


def test_requests_that_a_filter_stops_say_nothing_against_the_endpoint():
    admission = Admission(OPEN, Price(), PATIENCE, Clock())
    for pubid in range(100):
        call(admission, failed("filtered"), new_inflight(pubid=pubid))
    assert admission.stop_reason == ""
    assert admission.delay(new_inflight().request) == 0


def objection(number: int, words: str = "the key is not valid") -> Reply:
    return Reply(error_class="bad_request", error=f"status 400: {words} (request {number}ab)")


def test_after_a_window_of_the_same_objection_a_task_starts_no_call_and_waits_for_the_driver():
    clock = Clock()
    admission = Admission(replace(OPEN, trial=6), Price(), PATIENCE, clock)
    admission.valid_until = clock.now + 1e6
    for number in range(5):
        call(admission, objection(number), new_inflight(pubid=number))
    assert admission.delay(new_inflight().request) == 0
    refused = call(admission, objection(5), new_inflight(pubid=5))
    assert admission.delay(new_inflight().request) == UNLIMITED
    admission.await_judgement(is_over=False)
    assert (admission.counters.waits, admission.counters.objections) == (
        True,
        {"status # the key is not valid (request #": 6},
    )
    assert not admission.is_to_blame(refused)
    admission.allocation = replace(admission.allocation, worked=1)
    admission.look_elsewhere()
    admission.await_judgement(is_over=False)
    assert (admission.counters.waits, admission.stop_reason) == (False, "")
    assert admission.is_to_blame(refused)
    assert admission.delay(new_inflight().request) == 0


def test_an_answer_to_a_request_that_was_sent_later_shows_that_the_objection_was_the_row_s_own():
    clock = Clock()
    admission = Admission(OPEN, Price(), PATIENCE, clock)
    earlier = admission.start(new_inflight(pubid=1))
    clock.now += 1
    refused = call(admission, objection(2), new_inflight(pubid=2))
    clock.now += 1
    later = admission.start(new_inflight(pubid=3))
    admission.finish(replace(earlier, reply=answer()))
    assert not admission.is_to_blame(refused)
    admission.finish(replace(later, reply=answer()))
    assert admission.is_to_blame(refused)


def test_answers_of_this_task_that_come_back_from_the_driver_are_not_those_of_another():
    admission = Admission(OPEN, Price(), PATIENCE, Clock())
    for _ in range(3):
        call(admission, answer())
    call(admission, objection(1))
    admission.allocation = replace(OPEN, worked=3)
    admission.look_elsewhere()
    assert admission.counters.objections
    admission.allocation = replace(OPEN, worked=4)
    admission.look_elsewhere()
    assert not admission.counters.objections


def test_an_endpoint_that_is_busy_for_too_long_is_told():
    clock = Clock()
    admission = Admission(OPEN, Price(), PATIENCE, clock)
    for pubid in range(2):
        call(admission, failed("throttled"), new_inflight(pubid=pubid))
        assert admission.stop_reason == ""
        clock.now += 310
    call(admission, failed("throttled"), new_inflight(pubid=3))
    assert admission.stop_reason == "has not answered for 620 s; the last error: as asked"


def test_a_request_that_timed_out_has_the_whole_time_from_then_on():
    admission = Admission(OPEN, Price(), PATIENCE, Clock())
    for _ in range(32):
        call(admission, answer())
    first = call(admission, failed("timeout"))
    assert admission.timeout(new_inflight()) == 10.0
    assert admission.timeout(first) == 60.0
    assert admission.timeout(call(admission, failed("timeout"), first)) == 60.0
    assert admission.counters.possibly_billed == 2
