"""completions.mode = "batch" with Spark and a fake Bedrock: jobs, the rest by calls, each request answered once."""

import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from conftest import Make, Settle
from raft_spark import config, endpoints
from raft_spark.costs import estimate
from raft_spark.endpoints.base import Request
from raft_spark.errors import EndpointError, InputError, StoppedError
from raft_spark.inference import batch, batch_jobs
from raft_spark.monitoring import run_state
from raft_spark.stages import articles, base, completions, dataset
from support.fake_server import calls, stored

PRICES = ("input_price=4", "output_price=20", "batch_input_price=2", "batch_output_price=10")


@pytest.fixture
def service() -> Iterator[str]:
    with endpoints.serving(config.load().endpoints["fake"]) as endpoint:
        yield endpoint.url.removesuffix("/v1")


@pytest.fixture
def asking(settled: Settle, make: Make, service: str) -> Settle:
    """Settle batch jobs of at least 20 records for 120 articles at a fake Bedrock."""
    role = "role_arn=arn:aws:iam::123456789012:role/batch"
    own = ("kind=bedrock", "model=m", f"url={service}", "region=us-east-1", role, *PRICES)
    jobs = ("batch.min_records=20", "batch.max_records=70", "batch.poll_seconds=0.2", "mode=batch", "endpoint=b")
    whole = ("source=sample:120", "validation_share=0", "test_share=0")
    basis = [*(f"endpoints.b.{one}" for one in own), *(f"completions.{one}" for one in jobs)]
    behave(service, min_records=20)

    def settle(*assignments: str) -> config.Config:
        conf = settled(*(f"articles.{one}" for one in whole), *basis, *assignments)
        make(conf, articles, base)
        return conf

    return settle


def behave(service: str, **fields: object) -> None:
    urllib.request.urlopen(f"{service}/jobs/behave", json.dumps(fields).encode()).close()


def records(service: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{service}/jobs/records") as answer:
        return dict(json.load(answer))


def dollars(rows: list[dict[str, Any]], price_in: int, price_out: int) -> float:
    used = (row["prompt_tokens"] * price_in + row["completion_tokens"] * price_out for row in rows if row["completion"])
    return sum(used) / 1_000_000


@pytest.mark.spark
def test_what_fails_is_asked_in_another_job_and_the_rest_by_calls_and_every_answer_is_paid_once(
    asking: Settle, service: str
):
    behave(service, failed=0.3)
    conf = asking()
    version = completions.run(conf)
    expected = {"requests": 120, "known": 0, "asked": 120, "answered": 120, "failed": 0, "missing": 0, "paid_twice": 0}
    assert version.counts.items() >= {**expected, "dead": {}}.items()
    paid = records(service)["answered"]
    assert 120 - 20 < len(paid) < 120
    assert set(paid.values()) == {1}
    assert sorted(set(records(service)["sent"].values())) == [1, 2]
    answered = [row for row in stored(conf) if row["completion"]]
    in_jobs = [row for row in answered if row["latency_ms"] is None]
    by_calls = [row for row in answered if row["latency_ms"] is not None]
    assert {row["key"] for row in in_jobs} == set(paid)
    assert len(by_calls) == calls(service)["calls"] == 120 - len(paid)
    assert len({row["key"] for row in answered}) == len({row["key_of_any_length"] for row in answered}) == 120
    assert {(row["attempts"], row["model"], row["max_tokens"], row["run_id"]) for row in answered} == {
        (1, "m", 512, version.id)
    }
    run = run_state.read(conf.lake)
    assert (run.state, run.total, run.answered, run.failed, run.open) == ("finished", 120, 120, {}, 0)
    assert run.dollars == pytest.approx(dollars(in_jobs, 2, 10) + dollars(by_calls, 4, 20), abs=1e-5)
    assert dataset.run(conf).counts["dollars"] == pytest.approx(run.dollars, abs=1e-5)  # each answer at its own price
    jobs, called = records(service)["jobs"], calls(service)["calls"]
    assert completions.run(asking("completions.mode=realtime", "base.seed=5")).counts["known"] == 120
    assert (records(service)["jobs"], calls(service)["calls"]) == (jobs, called)


def stop_when_submitted(service: str) -> None:
    while not records(service)["jobs"]:
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.spark
def test_a_run_that_leaves_while_jobs_go_on_is_finished_by_the_next_without_another_job(asking: Settle, service: str):
    behave(service, seconds=6)
    conf = asking()
    threading.Thread(target=stop_when_submitted, args=(service,)).start()
    with pytest.raises(StoppedError, match="SIGTERM"):
        completions.run(conf)
    pending = batch_jobs.pending(conf.lake)
    assert sum(job.records for job in pending) == 120
    assert "submitted" in {job.state for job in pending}
    with pytest.raises(InputError, match=r"batch jobs of .* are not collected yet .* completions.mode=batch"):
        completions.run(asking("completions.mode=realtime"))
    counts = completions.run(asking()).counts
    assert (counts["asked"], counts["answered"], counts["missing"]) == (120, 120, 0)
    assert (records(service)["jobs"], set(records(service)["sent"].values())) == (len(pending), {1})
    assert calls(service)["calls"] == 0
    # a driver dies after it has stored the answers and before it has marked the jobs as collected
    for job in pending:
        batch_jobs._store(asking().lake, replace(job, status=""))
    conf = asking("articles.source=sample:125")
    assert completions.run(conf).counts["missing"] == 0
    assert len(stored(conf)) == len({row["key"] for row in stored(conf)}) == 125
    assert (records(service)["jobs"], calls(service)["calls"]) == (len(pending), 5)


@pytest.mark.spark
def test_an_estimate_says_what_batch_jobs_will_cost(asking: Settle, service: str):
    conf = asking()
    found = estimate.run(conf, ask=5)
    assert (found.mode, found.to_ask) == ("batch", 115)
    total = found.bill.total
    counts = completions.run(conf).counts
    assert (counts["answered"], calls(service)["calls"]) == (115, 5)
    assert abs(counts["dollars"] - total.value) <= max(total.margin, 0.1 * total.value)


@pytest.mark.spark
def test_no_job_is_submitted_that_max_spend_might_not_pay_for(asking: Settle, service: str, capfd):
    conf = asking("completions.max_spend=0.16")
    with pytest.raises(StoppedError, match="another batch job might pass"):
        completions.run(conf)
    assert "completions.max_spend pays for" in capfd.readouterr().err
    sent = records(service)["sent"]
    assert 20 <= len(sent) < 120
    assert 120 * 512 * 10 / 1e6 > 0.16  # so that max_spend does not pay for all at once
    run = run_state.read(conf.lake)
    assert 0 < run.dollars <= 0.16
    assert (run.state, run.answered, calls(service)["calls"]) == ("stopped", len(sent), 0)


@pytest.mark.spark
def test_jobs_that_answer_nothing_are_not_made_again_nor_asked_by_calls(asking: Settle, service: str):
    behave(service, status="Failed", message="the role cannot read the input")
    with pytest.raises(
        EndpointError, match=r"endpoint 'b' failed in batch mode: .* Failed the role cannot read the input"
    ):
        completions.run(asking())
    assert (set(records(service)["sent"].values()), calls(service)["calls"]) == ({1}, 0)


@pytest.mark.row
def test_records_are_paid_for_in_order_at_their_dearest():
    around = Request("x" * 72, "m", {"max_tokens": 100})
    price = config.Price(input_price=1, output_price=10)
    groups = [("000", 1, 0), ("00a", 2, 200), ("fff", 1, 0)]
    # one record: (72 / 2 + 64) tokens in, 100 out: 100 + 1000 millionths; those of 00a: 2 * 1100 + 200 / 2
    for millionths, group in ((1_099, "000"), (1_101, "00a"), (3_399, "00a"), (3_401, "fff"), (4_501, "")):
        assert batch.first_unaffordable_group(millionths / 1e6, groups, around, price) == group


@pytest.mark.row
def test_batch_tokens_have_their_own_price_and_else_that_on_demand():
    known = config.Price(input_price=4, output_price=20, batch_input_price=0, batch_output_price=10)
    assert (batch.batch_price(known).input_price, batch.batch_price(known).output_price) == (0, 10)
    unknown = config.Price(input_price=4, output_price=20)
    assert (batch.batch_price(unknown).input_price, batch.batch_price(unknown).output_price) == (4, 20)


@pytest.mark.row
def test_a_run_waits_for_jobs_until_its_minutes_are_over():
    run = run_state.Run("r", "b", "m", "", "", 0)
    assert batch.BatchProgress(config.load(), run).should_continue()
    progress = batch.BatchProgress(config.load(assignments=["completions.max_minutes=0.0001"]), run)
    time.sleep(0.01)
    assert not progress.should_continue()
    assert progress.stop_reason.startswith("the time set by completions.max_minutes is over")


@pytest.mark.row
def test_a_run_that_goes_on_another_way_adds_up():
    point = run_state.Point(seconds=60, answered=90, failed=1, calls=91, throttled=0, tokens=900, open=9, window=0)
    before = run_state.Run("r", "b", "m", "", "", 100, answered=90, failed={"filtered": 1}, calls=91, dollars=1.0)
    now = replace(before, answered=8, failed={"filtered": 1}, calls=10, throttled=1, dollars=0.5, window=4)
    later = run_state.Point(seconds=75, answered=8, failed=1, calls=10, throttled=1, tokens=90, open=1, window=4)
    both = run_state.join(replace(before, series=(point,)), replace(now, series=(later,)))
    assert (both.answered, both.failed, both.calls, both.dollars, both.window) == (98, {"filtered": 2}, 101, 1.5, 4)
    assert both.series == (point, run_state.Point(75, 98, 2, 101, 1, 990, 1, 4))
    assert run_state.join(run_state.Run("r", "b", "m", "", "", 100), now) == now
