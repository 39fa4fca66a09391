"""A task's requests to teachers on their bad days, over the real clients: every row is answered or has its reason."""

import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass

import pytest

from raft_spark.config import Endpoint, Price
from raft_spark.endpoints import connect
from raft_spark.endpoints.base import Request
from raft_spark.inference import admission as admissions
from raft_spark.inference import executor
from raft_spark.inference.admission import Admission, InFlightRequest, Patience
from raft_spark.inference.executor import RetryLimits
from raft_spark.inference.quota import UNLIMITED, Allocation
from support.bad_teachers import BUSY, TEXT, BadTeacher

pytestmark = [pytest.mark.row, pytest.mark.timeout(120)]

ROWS = 60


@dataclass(frozen=True)
class Played:
    """What came of the rows of a task, and what the teacher was asked."""

    rows: list[InFlightRequest]
    stop_reason: str
    calls: int
    most_for_one: int
    seconds: float

    @property
    def answers(self) -> set[str | None]:
        return {row.reply.completion for row in self.rows}

    @property
    def classes(self) -> Counter[str | None]:
        return Counter(row.reply.error_class for row in self.rows)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(executor, "BACKOFF_BASE", 0.05)
    monkeypatch.setattr(admissions, "ALONE_SECONDS", 0.5)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")


def play(
    mode: str,
    *,
    rows: int = ROWS,
    in_flight: int = 16,
    silent: float = 30.0,
    deadline: float = 600.0,
    attempts: int = 5,
) -> Played:
    requests = (
        (number, Request([{"role": "user", "content": f"Question {number}?"}], "m", {})) for number in range(rows)
    )
    allocation = Allocation(in_flight, UNLIMITED, UNLIMITED, UNLIMITED)
    admission = Admission(allocation, Price(), Patience(60.0, 60.0, silent, deadline))
    begin = time.monotonic()
    with BadTeacher(mode) as teacher:
        bedrock = Endpoint(kind="bedrock", url=teacher.address, model="m", region="us-east-1")
        openai = Endpoint(kind="openai", url=f"{teacher.address}/v1", model="m")
        with closing(connect(bedrock if mode.startswith("bedrock") else openai, in_flight, 60.0)) as client:
            found = executor.ask_all(requests, client.ask, RetryLimits(attempts, deadline), admission)
            answered = [row for row in found if row is not None]
        seconds = time.monotonic() - begin
        return Played(answered, admission.stop_reason, teacher.calls, teacher.most_for_one, seconds)


@pytest.mark.parametrize("mode", BUSY)
def test_a_teacher_that_bears_four_calls_answers_every_row_of_thirty_two_at_once(mode: str):
    played = play(mode, in_flight=32)
    assert (len(played.rows), played.answers, played.stop_reason) == (ROWS, {TEXT}, "")


@pytest.mark.parametrize(
    "mode", ["abort", "out_of_resources", "status_424", "status_499", "status_409", "retry_after_ms"]
)
def test_what_is_worth_another_try_is_tried_again(mode: str):
    played = play(mode, attempts=20)
    assert (len(played.rows), played.answers, played.stop_reason) == (ROWS, {TEXT}, "")
    assert played.calls > ROWS


@pytest.mark.parametrize("mode", ["think", "reasoning_field", "parts", "null_reason"])
def test_what_is_an_answer_is_read_and_paid_for_once(mode: str):
    played = play(mode)
    assert (len(played.rows), played.answers, played.most_for_one) == (ROWS, {TEXT}, 1)
    assert {row.reply.finish_reason for row in played.rows} == {None if mode == "null_reason" else "stop"}


def test_a_stream_is_read_though_nobody_asked_for_one():
    assert play("stream").answers == {"Yes, the treatment works."}


def test_a_refusal_is_the_row_s_own():
    played = play("refusal_field")
    assert (played.classes, played.most_for_one, played.stop_reason) == ({"filtered": ROWS}, 1, "")


@pytest.mark.parametrize(
    ("mode", "error"),
    [
        ("bad_key_400", "refuses every request: status 400: the key is not valid"),
        ("bad_model_422", "refuses every request: status 422: no model of this name (request "),
        ("bedrock_retired", "refuses every request: ValidationException: the weights of this one are gone"),
    ],
)
@pytest.mark.parametrize("in_flight", [1, 16])
def test_what_concerns_every_row_ends_the_run_within_two_windows_and_fails_none_for_good(
    mode: str, error: str, in_flight: int
):
    played = play(mode, in_flight=in_flight)
    assert played.stop_reason.startswith(error)
    assert 4 <= played.calls <= max(4, 2 * in_flight)
    assert set(played.classes) == {"refused"}, "a later run asks these rows again"


def test_a_key_that_is_revoked_in_mid_run_ends_it_too_and_fails_no_row_for_good():
    played = play("revoked", rows=400)
    assert played.stop_reason == "refuses every request: status 400: the key is not valid"
    assert set(played.classes) == {None, "refused"}
    assert played.calls <= 40 + 3 * 32


def test_one_row_that_is_refused_is_its_own_fault():
    played = play("one_bad_row")
    assert (played.classes, played.stop_reason) == ({None: ROWS - 1, "bad_request": 1}, "")


def test_a_last_row_that_is_refused_alone_is_its_own_fault():
    played = play("one_bad_row", rows=1)
    assert (played.classes, played.stop_reason) == ({"bad_request": 1}, "")


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("quota", "refuses: status 429: the quota is used up"),
        ("long_wait", "asks to wait 86,400 s, longer than a request may take by completions.deadline_seconds"),
    ],
)
def test_a_quota_that_is_used_up_ends_the_run_at_once(mode: str, reason: str):
    played = play(mode)
    assert played.stop_reason.startswith(reason)
    assert played.calls <= 12 + 2 * 16
    assert set(played.classes) <= {None, "refused", "throttled"}
    assert played.seconds < 10


def test_a_restart_loses_no_row():
    played = play("restart")
    assert (len(played.rows), played.answers, played.stop_reason) == (ROWS, {TEXT}, "")


def test_a_teacher_that_is_always_busy_ends_the_run_when_patience_ends():
    played = play("always_503", deadline=3.0)
    assert played.stop_reason.startswith("has not answered for ")
    assert played.stop_reason.endswith("the last error: status 503: loading")
    assert set(played.classes) == {"throttled"}
    assert 3 <= played.seconds < 20
