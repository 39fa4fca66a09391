"""completions.mode = "batch" at OpenAI's batch jobs and at SageMaker's asynchronous endpoints, with Spark."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT, SPARK, Make, Settle
from raft_spark import config, endpoints
from raft_spark.costs import estimate
from raft_spark.errors import InputError, StoppedError
from raft_spark.inference import batch_jobs
from raft_spark.monitoring import run_state
from raft_spark.stages import articles, base, completions, dataset
from support import batch_services, processes
from support.fake_server import calls, stored
from support.processes import family, kill

PRICES = ("input_price=4", "output_price=20", "batch_input_price=2", "batch_output_price=10")
ROWS = 120


@dataclass(frozen=True)
class Door:
    """A batch service of the fake server: its settings, and the counts and faults that it has."""

    name: str
    url: str
    settings: tuple[str, ...]

    def assignments(self) -> list[str]:
        own = (*self.settings, *PRICES)
        jobs = ("batch.min_records=20", "batch.max_records=70", "batch.poll_seconds=0.2", "mode=batch", "endpoint=b")
        return [
            "articles.source=sample:120",
            "articles.validation_share=0",
            "articles.test_share=0",
            *(f"endpoints.b.{one}" for one in own),
            *(f"completions.{one}" for one in jobs),
        ]

    def behave(self, **fields: object) -> None:
        batch_services.behave(self.url, self.name, **fields)

    def counts(self) -> dict[str, Any]:
        return batch_services.records(self.url, self.name)


@pytest.fixture(params=["batches", "async"])
def door(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Door]:
    with endpoints.serving(config.load().endpoints["fake"]) as endpoint:
        base_url = endpoint.url.removesuffix("/v1")
        settings = {
            "batches": ("kind=openai", "model=m", f"url={endpoint.url}"),
            "async": (
                "kind=sagemaker",
                "endpoint_name=slow",
                "model=m",
                f"url={base_url}",
                "codec=openai",
                "region=us-east-1",
            ),
        }
        found = Door(request.param, base_url, settings[request.param])
        found.behave(output=str(tmp_path / "out"), failure=str(tmp_path / "failed"))
        yield found


@pytest.fixture
def asking(settled: Settle, make: Make, door: Door) -> Settle:
    def settle(*assignments: str) -> config.Config:
        conf = settled(*door.assignments(), *assignments)
        make(conf, articles, base)
        return conf

    return settle


def dollars(rows: list[dict[str, Any]], price_in: int, price_out: int) -> float:
    used = (row["prompt_tokens"] * price_in + row["completion_tokens"] * price_out for row in rows if row["completion"])
    return sum(used) / 1_000_000


@pytest.mark.spark
def test_what_fails_is_asked_again_and_every_answer_is_paid_once_at_the_batch_price(asking: Settle, door: Door):
    door.behave(failed=0.3)
    conf = asking()
    version = completions.run(conf)
    expected = {
        "requests": ROWS,
        "known": 0,
        "asked": ROWS,
        "answered": ROWS,
        "failed": 0,
        "missing": 0,
        "paid_twice": 0,
    }
    assert version.counts.items() >= {**expected, "dead": {}}.items()
    paid = door.counts()["answered"]
    assert set(paid.values()) == {1}
    assert {1, 2} <= set(door.counts()["sent"].values())
    answered = [row for row in stored(conf) if row["completion"]]
    in_jobs = [row for row in answered if row["latency_ms"] is None]
    by_calls = [row for row in answered if row["latency_ms"] is not None]
    assert {row["key"] for row in in_jobs} == set(paid)
    assert len(by_calls) == calls(door.url)["calls"] == ROWS - len(paid) < 20
    assert door.name == "batches" or not by_calls  # an asynchronous endpoint takes no calls in real time
    assert len({row["key"] for row in answered}) == ROWS
    run = run_state.read(conf.lake)
    assert (run.state, run.total, run.answered, run.failed, run.open) == ("finished", ROWS, ROWS, {}, 0)
    assert run.dollars == pytest.approx(dollars(in_jobs, 2, 10) + dollars(by_calls, 4, 20), abs=1e-5)
    assert dataset.run(conf).counts["dollars"] == pytest.approx(run.dollars, abs=1e-5)
    sent = door.counts()["sent"]
    assert completions.run(asking("base.seed=5")).counts["known"] == ROWS
    assert door.counts()["sent"] == sent


@pytest.mark.spark
@pytest.mark.parametrize("door", ["batches"], indirect=True)
def test_an_estimate_has_the_batch_price_and_max_spend_holds(asking: Settle, door: Door):
    conf = asking()
    found = estimate.run(conf, ask=5)
    assert (found.mode, found.to_ask) == ("batch", 115)
    total = found.bill.total
    with pytest.raises(StoppedError, match="another batch job might pass"):
        completions.run(asking("completions.max_spend=0.2"))
    assert 20 <= len(door.counts()["sent"]) < 115
    first = run_state.read(conf.lake).dollars
    assert 0 < first <= 0.2
    assert completions.run(conf).counts["missing"] == 0
    spent = first + run_state.read(conf.lake).dollars
    assert abs(spent - total.value) <= max(total.margin, 0.1 * total.value)


@pytest.mark.spark
@pytest.mark.parametrize("door", ["async"], indirect=True)
def test_an_estimate_sends_nothing_in_real_time_to_an_asynchronous_endpoint(asking: Settle, door: Door):
    found = estimate.run(asking(), ask=5)
    assert (found.mode, found.to_ask, found.use) == ("batch", ROWS, None)
    assert calls(door.url)["calls"] == 0


@contextmanager
def started(conf: config.Config, door: Door, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `raft-spark completions` in a session of its own, of which nothing is left after the block."""
    spark = [f'spark."{key}"="{value}"' for key, value in SPARK.items()]
    settings = [*spark, f"lake.root={conf.lake.root}", "completions.in_flight=8", *door.assignments()]
    command = [sys.executable, str(ROOT / "jobs/completions.py")]
    command += [part for assignment in settings for part in ("--set", assignment)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with processes.started(command, log, environment) as run:
        yield run


def until(come: Callable[[], object], run: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(4_000):
        if come():
            return
        assert run.poll() is None, log.read_text()
        time.sleep(0.05)
    pytest.fail("it did not come")


@pytest.mark.spark
def test_a_driver_killed_while_jobs_run_is_followed_by_one_that_collects_them(
    asking: Settle, door: Door, tmp_path: Path
):
    conf, log = asking(), tmp_path / "log"
    door.behave(seconds=8)
    with started(conf, door, log) as run:
        until(lambda: len(door.counts()["sent"]) == ROWS, run, log)
        until(lambda: {job.state for job in batch_jobs.pending(conf.lake)} == {"submitted"}, run, log)
        assert [kill(pid) for pid in [run.pid, *family(run, "SparkSubmit")]] == [True, True]
        assert run.wait(30) == -signal.SIGKILL
    assert stored(conf) == []
    with pytest.raises(InputError, match=r"batch jobs of m at .* are not collected yet .* completions.mode=batch"):
        completions.run(asking("completions.mode=realtime"))
    assert completions.run(conf).counts["missing"] == 0
    assert len({row["key"] for row in stored(conf) if row["completion"]}) == ROWS
    assert Counter(door.counts()["sent"].values()) == {1: ROWS}
    assert calls(door.url)["calls"] == 0
