"""The stored state of a run: written while it runs, read back unchanged, rates over the last seconds."""

import json
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from raft_spark import config
from raft_spark.config import Lake
from raft_spark.errors import InputError
from raft_spark.inference import realtime
from raft_spark.monitoring import run_state
from raft_spark.monitoring.run_state import Point, Run

pytestmark = [pytest.mark.row, pytest.mark.timeout(60)]

PATIENT = 10.0  # seconds


@pytest.fixture
def lake(tmp_path) -> Lake:
    return config.load(assignments=[f"lake.root={tmp_path / 'lake'}"]).lake


def run(name: str = "20261122T173500Z-a", **more: object) -> Run:
    return Run(name, "teacher", "m", "2026-11-22T17:35:00Z", "2026-11-22T17:36:00Z", 100, **more)


def point(seconds: float, answered: int = 0, tokens: int = 0) -> Point:
    return Point(seconds, answered, 0, answered, 0, tokens, 4, 8)


def test_a_run_is_read_as_it_was_written(lake: Lake):
    stored = run(failed={"timeout": 2}, dollars=1.25, series=(point(1.0, 5, 100), point(2.5, 9, 180)))
    run_state.write(lake, stored)
    assert run_state.read(lake) == stored
    assert run_state.read(lake, stored.id) == stored


def test_a_new_state_replaces_the_previous_one(lake: Lake):
    run_state.write(lake, run(answered=1))
    run_state.write(lake, run(answered=2))
    assert run_state.read(lake).answered == 2


def test_the_last_run_that_began_is_read_whichever_was_written_last(lake: Lake):
    run_state.write(lake, run("20261122T173500Z-f"))
    run_state.write(lake, run("20261121T173500Z-a"))
    assert run_state.read(lake).id == "20261122T173500Z-f"
    assert run_state.read(lake, "20261121T173500Z-a").id == "20261121T173500Z-a"


def test_no_run_is_none(lake: Lake):
    assert run_state.read(lake) is None
    assert run_state.read(lake, "20261121T173500Z-a") is None


def test_a_run_is_one_small_json_object(lake: Lake, tmp_path):
    run_state.write(lake, run(failed={"timeout": 2}))
    text = (tmp_path / "lake/completions/runs/20261122T173500Z-a.json").read_text()
    assert json.loads(text)["failed"] == {"timeout": 2}


# Sums


def test_rates_are_those_of_the_last_seconds():
    series = tuple(point(second, second * 2 if second < 60 else 120 + (second - 60) * 10) for second in range(101))
    assert run(series=series).rates(30.0) == (10.0, 0.0)
    assert run(series=series[:50]).rates(30.0) == (2.0, 0.0)
    assert run(series=(point(0.0), point(4.0, 8, 1_000))).rates() == (2.0, 250.0)


@pytest.mark.parametrize("series", [(), (point(3.0, 5),)])
def test_rates_are_zero_with_fewer_than_two_points(series: tuple[Point, ...]):
    assert run(series=series).rates() == (0.0, 0.0)


def test_failures_are_listed_most_frequent_first():
    stored = run(answered=7, failed={"filtered": 1, "timeout": 3})
    assert (stored.failures, stored.done) == ("3 timeout, 1 filtered", 11)


@pytest.mark.parametrize(
    ("failure", "stop_reason", "state"),
    [("", "", "finished"), ("", "max_spend", "stopped"), ("refuses", "", "failed"), ("refuses", "max_spend", "failed")],
)
def test_a_run_that_ended_says_how_and_why(failure: str, stop_reason: str, state: str):
    ended = run_state.finish(run_state.start(run(), 4), failure, stop_reason)
    assert (ended.state, ended.reason, ended.tasks) == (state, failure or stop_reason, 4)


# While it asks


def within(seconds: float, is_so: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not (found := is_so()) and time.monotonic() < end:
        time.sleep(0.01)
    return found


def quick(monkeypatch) -> None:
    monkeypatch.setattr(run_state, "CHECK_EVERY", 0.01)
    monkeypatch.setattr(run_state, "WRITE_EVERY", 0.05)


def test_a_run_is_kept_up_to_date_while_the_block_runs_and_no_longer(lake: Lake, monkeypatch):
    quick(monkeypatch)
    answered = 0
    with run_state.store_periodically(lake, lambda: run(answered=answered)):
        assert within(PATIENT, lambda: run_state.read(lake) is not None)
        answered = 5
        assert within(PATIENT, lambda: run_state.read(lake).answered == 5)
    answered = 6
    time.sleep(0.1)
    assert run_state.read(lake).answered == 5


def test_a_run_is_looked_at_more_often_than_it_is_written(lake: Lake, monkeypatch):
    quick(monkeypatch)
    monkeypatch.setattr(run_state, "WRITE_EVERY", 60.0)
    looks: list[int] = []

    def stored() -> Run:
        looks.append(1)
        return run(answered=len(looks))

    with run_state.store_periodically(lake, stored):
        assert within(PATIENT, lambda: len(looks) >= 5)
    assert run_state.read(lake).answered == 1


def test_after_a_failed_write_the_next_one_stores_the_run(lake: Lake, monkeypatch, tmp_path):
    quick(monkeypatch)
    folder = tmp_path / "lake/completions/runs"
    folder.parent.mkdir(parents=True)
    folder.write_text("in the way")
    with run_state.store_periodically(lake, run):
        time.sleep(0.1)
        folder.unlink()
        assert within(PATIENT, lambda: run_state.read(lake) == run())


def test_an_endpoint_by_the_hour_has_the_time_that_the_rest_of_max_spend_pays_for():
    own = ["endpoints.fake.hourly_price=2", "completions.max_spend=2", "completions.flush_seconds=10"]
    conf = config.load(assignments=["completions.endpoint=fake", *own])
    stored = Run("a", "fake", "fake", "", "", total=1)
    assert realtime._seconds(conf, stored) == 3600 - 10
    assert realtime._seconds(conf, replace(stored, dollars=1.5)) == 900 - 10


@pytest.mark.parametrize("run_id", ["../x", "a/../../b", ".", "/etc/x", "a b"])
def test_what_is_no_id_of_a_run_is_refused(tmp_path, run_id: str):
    lake = config.load(assignments=[f"lake.root={tmp_path}"]).lake
    with pytest.raises(InputError, match=r"is no id of a run; it must be like 2026"):
        run_state.read(lake, run_id)
