"""Polling: growing pauses, an end after the time limit, and none without one."""

import itertools

import pytest

from raft_spark.common import background

pytestmark = pytest.mark.row


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace the clock by one that only pauses advance; return the pauses."""
    slept: list[float] = []
    monkeypatch.setattr(background.time, "sleep", slept.append)
    monkeypatch.setattr(background.time, "monotonic", lambda: sum(slept))
    return slept


def test_pauses_grow_up_to_the_longest(pauses: list[float]):
    numbers = background.poll(iter(range(100)).__next__)
    assert list(itertools.islice(numbers, 10)) == list(range(10))
    assert pauses == [2.0, 3.0, 4.5, 6.75, 10.125, 15.1875, 22.78125, 30.0, 30.0]


def test_polling_ends_after_the_time_limit(pauses: list[float]):
    assert list(background.poll(iter(range(100)).__next__, 9.0)) == [0, 1, 2]
    assert pauses == [2.0, 3.0, 4.5]
