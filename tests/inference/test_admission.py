"""One task's decisions: money is never passed, tokens are corrected by usage, all by a clock of the test's own."""

import dataclasses
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft_spark.config import Price
from raft_spark.endpoints.base import ErrorClass, Reply, Request
from raft_spark.inference.admission import Admission, InFlightRequest
from raft_spark.inference.quota import UNLIMITED, Allocation

pytestmark = pytest.mark.row

DOLLAR_A_TOKEN = Price(input_price=1_000_000, output_price=2_000_000)  # 1 dollar a token in, 2 out
OPEN = Allocation(8, UNLIMITED, UNLIMITED, UNLIMITED)


class Clock:
    """A clock that stands still until it is set."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def asked(characters: int = 72, max_tokens: int = 50, pubid: int = 1) -> InFlightRequest:
    """72 characters are feared to be 36 tokens, with 64 for the template 100."""
    return InFlightRequest(pubid, Request("x" * characters, "m", {"max_tokens": max_tokens}))


def answer(prompt_tokens: int | None = 20, completion_tokens: int | None = 10) -> Reply:
    return Reply("yes", "stop", prompt_tokens, completion_tokens)


def failed(error_class: ErrorClass) -> Reply:
    return Reply(error_class=error_class, error="as asked")


def called(meter: Admission, reply: Reply, one: InFlightRequest | None = None) -> InFlightRequest:
    """Send one call and let it come back."""
    return meter.finished(replace(meter.started(one or asked()), latency=0.1, reply=reply))


# Money

calls = st.tuples(st.integers(0, 400), st.integers(1, 100))
replies = st.one_of(
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.sampled_from(["throttled", "timeout", "unavailable", "model_error", "filtered", "no usage"]),
)


@given(st.lists(st.tuples(calls, st.booleans(), replies), max_size=40), st.floats(0, 5_000))
@settings(deadline=None)
def test_what_is_spent_and_reserved_never_passes_what_was_granted(steps, dollars: float):
    """Each step sends a call if it may, and lets the oldest come back; usage is any share of what was feared."""
    meter = Admission(replace(OPEN, dollars=dollars), DOLLAR_A_TOKEN, 60.0, Clock())
    open_calls: list[InFlightRequest] = []
    for (characters, max_tokens), comes_back, outcome in steps:
        one = asked(characters, max_tokens)
        if meter.wait(one.request) == 0:
            open_calls.append(meter.started(one))
        assert meter.tally.spent + meter.tally.reserved <= dollars + 1e-6
        if comes_back and open_calls:
            oldest = open_calls.pop(0)
            meter.finished(replace(oldest, reply=reply_of(outcome, oldest)))
        assert meter.tally.spent + meter.tally.reserved <= dollars + 1e-6
        assert meter.tally.open == len(open_calls)


def reply_of(outcome: tuple[float, float] | str, one: InFlightRequest) -> Reply:
    if outcome == "no usage":
        return answer(None, None)
    if isinstance(outcome, str):
        return failed(outcome)
    read, written = outcome
    return answer(int(read * one.request.characters / 2), int(written * one.request.max_tokens))


def test_a_call_is_reserved_at_its_dearest_and_paid_by_its_usage():
    meter = Admission(OPEN, DOLLAR_A_TOKEN, 60.0, Clock())
    sent = meter.started(asked())
    assert (meter.tally.reserved, meter.tally.spent) == (200.0, 0.0)
    meter.finished(replace(sent, reply=answer(20, 10)))
    assert (meter.tally.reserved, meter.tally.spent) == (0.0, 40.0)


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
    meter = Admission(OPEN, DOLLAR_A_TOKEN, 60.0, Clock())
    called(meter, failed(error_class))
    assert (meter.tally.spent, meter.tally.reserved, meter.tally.open) == (paid, 0.0, 0)


def test_an_answer_without_usage_counts_as_the_dearest():
    meter = Admission(OPEN, DOLLAR_A_TOKEN, 60.0, Clock())
    called(meter, answer(None, None))
    assert meter.tally.spent == 200.0


def test_a_call_that_cannot_be_paid_waits_for_an_open_one_that_may_turn_out_cheaper():
    meter = Admission(replace(OPEN, dollars=300.0), DOLLAR_A_TOKEN, 60.0, Clock())
    sent = meter.started(asked())
    assert meter.wait(asked().request) == UNLIMITED
    assert meter.tally.next_call == 200.0
    meter.finished(replace(sent, reply=answer(20, 10)))
    assert meter.wait(asked().request) == 0


def test_the_reporter_never_reads_less_than_was_paid_and_reserved():
    """Every call here costs all that was reserved for it; another thread reads the sum meanwhile."""
    meter, is_over, switch = Admission(OPEN, DOLLAR_A_TOKEN, 60.0, Clock()), threading.Event(), sys.getswitchinterval()
    finished, read_less = 0, []

    def read() -> None:
        while not is_over.is_set():
            paid = finished * 200.0
            said = dataclasses.asdict(meter.tally)
            read_less.append(said["spent"] + said["reserved"] < paid)

    reader = threading.Thread(target=read)
    sys.setswitchinterval(1e-6)
    try:
        reader.start()
        for _ in range(1_000):
            called(meter, answer(None, None))
            finished += 1
    finally:
        sys.setswitchinterval(switch)
        is_over.set()
        reader.join()
    assert read_less
    assert not any(read_less)


# Tokens and requests


def tokens_a_minute(clock: Clock, tokens: float = 6_000.0) -> Admission:
    return Admission(replace(OPEN, tokens_per_minute=tokens), Price(), 60.0, clock)


@pytest.mark.parametrize(
    ("reply", "seconds"),
    [
        (answer(20, 30), 0.25),  # 50 used at 100 a second, 0.25 s may be made up for
        (answer(200, 30), 2.05),  # more than was feared
        (failed("throttled"), 0.0),
        (failed("unavailable"), 0.0),
        (failed("timeout"), 0.75),  # nobody knows: what was feared stays
        (answer(None, None), 0.75),
    ],
)
def test_calls_are_spaced_by_what_they_are_feared_to_take_and_then_by_what_they_took(reply: Reply, seconds: float):
    clock = Clock()
    meter = tokens_a_minute(clock)
    sent = meter.started(asked(175, 50))  # 175 / 3.5 + 50 = 100 tokens
    assert meter.wait(asked().request) == pytest.approx(0.75)
    meter.finished(replace(sent, reply=reply))
    assert meter.wait(asked().request) == pytest.approx(seconds)


def test_answers_teach_how_many_tokens_an_answer_takes():
    meter = tokens_a_minute(Clock())
    assert meter.started(asked(175, 500)).tokens == 550
    called(meter, answer(60, 20))
    called(meter, answer(60, 40))
    assert meter.started(asked(175, 500)).tokens == 80


def test_in_the_long_run_as_many_tokens_are_used_as_allowed_though_fewer_are_than_feared():
    clock = Clock()
    meter, used, end = tokens_a_minute(clock), 0, clock.now + 600
    while clock.now < end:
        clock.now += meter.wait(asked(700, 400).request)
        called(meter, answer(250, 50), asked(700, 400))
        used += 300
    assert used == pytest.approx(60_000, rel=0.02)


def test_requests_a_second_are_kept():
    clock = Clock()
    meter = Admission(replace(OPEN, requests_per_second=2.0), Price(), 60.0, clock)
    called(meter, answer())
    assert meter.wait(asked().request) == 0.25
    clock.now += 0.25
    called(meter, answer())
    assert meter.wait(asked().request) == 0.5


@pytest.mark.parametrize("nothing", [{"requests_per_second": 0.0}, {"tokens_per_minute": 0.0}, {"in_flight": 0}])
def test_without_a_share_nothing_is_sent_and_what_was_open_comes_back(nothing: Mapping[str, float]):
    """A task that lost its driver and found it again may get nothing at first."""
    meter = Admission(replace(OPEN, requests_per_second=2.0, tokens_per_minute=6_000.0), Price(), 60.0, Clock())
    sent = [meter.started(asked()), meter.started(asked())]
    meter.grant = replace(meter.grant, **nothing)
    assert meter.wait(asked().request) == UNLIMITED
    meter.finished(replace(sent[0], reply=answer()))
    meter.finished(replace(sent[1], reply=failed("throttled")))
    assert (meter.tally.open, meter.tally.completion_tokens) == (0, 10)


def test_a_share_that_is_taken_away_between_the_look_and_the_call_hurts_nobody():
    meter = Admission(replace(OPEN, requests_per_second=2.0, tokens_per_minute=6_000.0), Price(), 60.0, Clock())
    assert meter.wait(asked().request) == 0
    meter.grant = replace(meter.grant, requests_per_second=0.0, tokens_per_minute=0.0)
    assert meter.started(asked()).open_then == 1


# Ends


def test_a_refusal_stops_at_once_and_says_the_server_s_words():
    meter = Admission(OPEN, Price(), 60.0, Clock())
    called(meter, Reply(error_class="refused", error="no such model"))
    assert meter.stop == "refuses: no such model"


def test_a_dead_endpoint_is_told_with_how_long_and_the_last_reason():
    clock = Clock()
    meter = Admission(OPEN, Price(), 60.0, clock)
    clock.now += 7
    for pubid in range(8):
        assert meter.stop == ""
        called(meter, failed("unavailable"), asked(pubid=pubid))
    assert meter.stop == "does not answer, for 7 s; the last reason: as asked"


def test_the_driver_s_reason_stops_a_task():
    meter = Admission(OPEN, Price(), 60.0, Clock())
    meter.grant = replace(OPEN, stop="enough")
    assert meter.stop == "enough"


@pytest.mark.parametrize("error_class", ["bad_request", "filtered"])
def test_requests_the_endpoint_will_not_take_say_nothing_against_it(error_class: ErrorClass):
    meter = Admission(OPEN, Price(), 60.0, Clock())
    for pubid in range(100):
        called(meter, failed(error_class), asked(pubid=pubid))
    assert meter.stop == ""
    assert meter.wait(asked().request) == 0


def test_each_time_out_of_a_request_doubles_its_patience():
    meter = Admission(OPEN, Price(), 60.0, Clock())
    for _ in range(32):
        called(meter, answer())
    first = called(meter, failed("timeout"))
    assert meter.seconds(asked()) == 10.0
    assert meter.seconds(first) == 20.0
    assert meter.seconds(called(meter, failed("timeout"), first)) == 40.0
