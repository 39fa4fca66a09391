"""raft-spark estimate with Spark and a fake endpoint: its answers are stored, and the run costs what it estimated."""

import json
import time

import pytest
from click.testing import CliRunner

from conftest import SPARK, Make, Settle
from raft_spark import config
from raft_spark.cli.main import main
from raft_spark.costs import arithmetic, estimate
from raft_spark.errors import EndpointError, InputError, StoppedError
from raft_spark.lake import lease, session
from raft_spark.stages import articles, base, completions
from support.fake_server import behave, calls, stored

pytestmark = pytest.mark.spark
SETTINGS = (
    "articles.source=sample:60",
    "articles.validation_share=0",
    "articles.test_share=0",
    "endpoints.fake.input_price=2.0",
    "endpoints.fake.output_price=10.0",
)


@pytest.fixture
def asking(settled: Settle, make: Make, url: str) -> Settle:
    def settle(*assignments: str) -> config.Config:
        conf = settled(*SETTINGS, f"endpoints.fake.url={url}", *assignments)
        make(conf, articles, base)
        return conf

    return settle


def within(amount: arithmetic.Amount, truth: float) -> bool:
    return abs(amount.value - truth) <= max(amount.margin or 0, 0.1 * truth)


def test_what_is_asked_is_stored_and_the_run_pays_the_rest_for_what_was_told(asking: Settle, url: str):
    conf = asking()
    first = estimate.run(conf, ask=5)
    assert (first.requests, first.to_ask, first.sampled, first.asked_now) == (60, 55, 5, 5)
    assert calls(url)["calls"] == 5
    asked_first = {row["key"] for row in stored(conf)}
    counts = completions.run(conf).counts
    assert (counts["requests"], counts["asked"], counts["answered"]) == (60, 55, 55)
    assert (calls(url)["calls"], calls(url)["repeated"]) == (60, [])
    rest = [row for row in stored(conf) if row["key"] not in asked_first]
    tokens_in, tokens_out = (sum(row[name] for row in rest) for name in ("prompt_tokens", "completion_tokens"))
    assert within(first.use.tokens_in, tokens_in)
    assert within(first.use.tokens_out, tokens_out)
    assert within(first.bill.total, (2 * tokens_in + 10 * tokens_out) / 1_000_000)


def test_a_stored_answer_of_an_estimate_is_a_row_as_the_stage_stores_it(asking: Settle, url: str):
    conf = asking()
    estimate.run(conf, ask=1)
    (early,) = stored(conf)
    completions.run(conf)
    late = next(row for row in stored(conf) if row["key"] != early["key"])
    assert {name for name in early if early[name] is None} == {name for name in late if late[name] is None}
    assert {name: type(value) for name, value in early.items()} == {name: type(late[name]) for name in late}
    assert (early["attempts"], early["model"], early["finish_reason"]) == (1, "fake", "stop")


def test_enough_stored_answers_tell_without_asking(asking: Settle, url: str):
    completions.run(asking())
    conf = asking("articles.source=sample:100")
    more = estimate.run(conf, ask=100)
    assert (more.requests, more.to_ask, more.sampled, more.asked_now) == (100, 40, 60, 0)
    assert calls(url)["calls"] == 60


def test_a_second_estimate_goes_by_the_answers_of_the_first(asking: Settle, url: str):
    estimate.run(asking(), ask=3)
    again = estimate.run(asking(), ask=5)
    assert (again.to_ask, again.sampled, again.asked_now) == (55, 5, 2)
    assert calls(url)["calls"] == 5


def test_an_estimate_asks_nothing_while_a_run_asks(asking: Settle, url: str):
    conf = asking("lake.lease_seconds=3")
    with lease.hold(conf.lake, "completions"):
        with pytest.raises(StoppedError, match="another run, process"):
            estimate.run(conf, ask=3)
        assert estimate.run(conf, ask=0).to_ask == 60
    assert calls(url)["calls"] == 0
    assert stored(conf) == []


def test_asking_nothing_costs_nothing_and_says_what_is_missing(asking: Settle, url: str):
    found = estimate.run(asking(), ask=0)
    assert (found.to_ask, found.sampled, found.bill) == (60, 0, None)
    assert calls(url)["calls"] == 0


def test_answers_to_other_settings_tell_nothing(asking: Settle, url: str):
    completions.run(asking())
    assert estimate.run(asking("completions.max_new_tokens=20"), ask=0).sampled == 0


def test_an_endpoint_that_answers_nothing_is_one_sentence(asking: Settle, url: str):
    behave(url, status=401)
    conf = asking()
    with pytest.raises(EndpointError, match=r"'fake' answered none of 3 requests \(refused\): status 401"):
        estimate.run(conf, ask=3)
    assert stored(conf) == []


def test_without_base_the_error_names_the_stage(settled: Settle):
    with pytest.raises(InputError, match="run `raft-spark base` first"):
        estimate.run(settled(), ask=5)


def call(conf: config.Config, *words: str) -> str:
    """Run the command as a user would; Spark is stopped at its end."""
    basis = [f"lake.root={conf.lake.root}", "completions.endpoint=fake", f"endpoints.fake.url={conf.teacher.url}"]
    spark = [f'spark."{key}"="{value}"' for key, value in SPARK.items()]
    flags = [part for assignment in (*basis, *spark, *SETTINGS) for part in ("--set", assignment)]
    done = CliRunner().invoke(main, ["estimate", *flags, *words])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_verb_tells_the_numbers_as_json_and_of_a_finished_lake_at_once(asking: Settle, url: str):
    conf = asking()
    completions.run(conf)
    session.stop()
    begin = time.monotonic()
    assert "Nothing to pay: all 60 requests are answered." in call(conf)
    assert time.monotonic() - begin < 2
    assert calls(url)["calls"] == 60
    numbers = json.loads(call(conf, "--json", "--set", "completions.temperature=0.5", "--ask", "2").splitlines()[-1])
    assert (numbers["to_ask"], numbers["asked_now"]) == (58, 2)
    assert numbers["bill"]["total"]["value"] == pytest.approx(
        (2 * numbers["use"]["tokens_in"]["value"] + 10 * numbers["use"]["tokens_out"]["value"]) / 1_000_000
    )
