"""Whether what an endpoint refuses concerns every request."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft_spark.inference import objections
from raft_spark.inference.objections import Situation

pytestmark = pytest.mark.row

FIRST = Situation(16, has_answered=False, was_known=False)
KNOWN = Situation(16, has_answered=False, was_known=True)
LATER = Situation(16, has_answered=True, was_known=True)
WIDE = Situation(64, has_answered=True, was_known=True)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("status 400: bad key (request 17)", "status 400: bad key (request 42)"),
        ("no model; id 3f2a9c1e-7b1d-4c55-9a77-0c3e5b8d1f00", "no model; id 11111111-7b1d-4c55-9a77-0c3e5b8d1f00"),
        ("The key  is wrong, req_abc12", "the key is wrong, req_z9"),
        ("trace deadbeefcafe", "trace abcdefabcdef"),
    ],
)
def test_errors_that_differ_in_numbers_alone_are_alike(one: str, other: str):
    assert objections.without_numbers(one) == objections.without_numbers(other)


def test_errors_in_other_words_are_not_alike():
    assert objections.without_numbers("the key is wrong") != objections.without_numbers("the prompt is too long")


@pytest.mark.parametrize(
    ("found", "situation", "concerns_all"),
    [
        ({"a": 4}, FIRST, True),
        ({"a": 1}, FIRST, True),  # all that there was to ask
        ({"a": 3}, KNOWN, False),  # a few rows that were left of an earlier run
        ({"a": 4}, KNOWN, True),
        ({"a": 2, "b": 2}, FIRST, False),
        ({"a": 15, "b": 1}, FIRST, True),
        ({"a": 31}, LATER, False),
        ({"a": 32}, LATER, True),
        ({"a": 64}, WIDE, False),
        ({"a": 128}, WIDE, True),
        ({}, FIRST, False),
    ],
)
def test_several_alike_in_a_row_concern_every_request(found: dict[str, int], situation: Situation, concerns_all: bool):  # noqa: FBT001
    assert objections.concern_every_request(found, situation) is concerns_all


@given(st.integers(1, 1000), st.booleans(), st.booleans())
def test_a_trial_is_long_enough_to_be_decided(in_flight: int, has_answered: bool, was_known: bool):  # noqa: FBT001
    situation = Situation(in_flight, has_answered, was_known)
    assert objections.concern_every_request({"a": objections.needed(situation)}, situation)
    assert objections.needed(situation) <= max(32, 2 * in_flight)
