"""raft-spark estimate on a real Spark and a fake endpoint: what it asks is stored, and the run costs what it said."""

import json
import time
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from conftest import SPARK, Settle
from raft_spark import articles, base, completions, config, costs, endpoints, estimate, session, tables
from raft_spark.cli import main
from raft_spark.errors import EndpointError, InputError
from test_completions import behave, stored
from test_completions import told as calls

pytestmark = pytest.mark.spark
SETTINGS = (
    "articles.source=sample:60",
    "articles.validation_share=0",
    "articles.test_share=0",
    "endpoints.fake.input_price=2.0",
    "endpoints.fake.output_price=10.0",
)


@pytest.fixture
def url() -> Iterator[str]:
    with endpoints.serving(config.load().endpoints["fake"]) as endpoint:
        yield endpoint.url


@pytest.fixture
def asking(settled: Settle, url: str) -> Settle:
    def settle(*assignments: str) -> config.Config:
        conf = settled(*SETTINGS, f"endpoints.fake.url={url}", *assignments)
        articles.run(conf)
        base.run(conf)
        return conf

    return settle


def within(amount: costs.Amount, truth: float) -> bool:
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


def test_a_finished_lake_has_nothing_to_pay_and_starts_no_spark(asking: Settle, url: str):
    conf = asking()
    completions.run(conf)
    session.stop()
    begin = time.monotonic()
    done = estimate.run(conf, ask=5)
    assert time.monotonic() - begin < 2
    assert (done.requests, done.to_ask, done.bill) == (60, 0, None)
    assert calls(url)["calls"] == 60


def test_enough_stored_answers_tell_without_asking(asking: Settle, url: str):
    completions.run(asking())
    more = estimate.run(asking("articles.source=sample:100"), ask=5)
    assert (more.requests, more.to_ask, more.sampled, more.asked_now) == (100, 40, 60, 0)
    assert calls(url)["calls"] == 60


def test_asking_nothing_costs_nothing_and_says_what_is_missing(asking: Settle, url: str):
    told = estimate.run(asking(), ask=0)
    assert (told.to_ask, told.sampled, told.bill) == (60, 0, None)
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
    kept = {"lake.root": conf.lake.root, "articles.source": "sample:60", "completions.endpoint": "fake"}
    spark = [f'spark."{key}"="{value}"' for key, value in SPARK.items()]
    given = [*(f"{key}={value}" for key, value in kept.items()), f"endpoints.fake.url={conf.teacher.url}", *spark]
    flags = [part for assignment in given for part in ("--set", assignment)]
    done = CliRunner().invoke(main, ["estimate", *flags, *words], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.output


def test_the_verb_shows_a_table_and_the_same_numbers_as_json(asking: Settle, url: str):
    conf = asking()
    shown = call(conf, "--set", "endpoints.fake.input_price=2.0", "--set", "completions.max_spend=0.001")
    for expected in (
        "55 to ask, 5 known",
        "tokens in",
        "±",
        "completions.in_flight allows",
        "total, realtime",
        "max_spend",
    ):
        assert expected in shown
    numbers = json.loads(call(conf, "--ask", "0", "--json").splitlines()[-1])
    assert (numbers["to_ask"], numbers["sampled"]) == (55, 5)
    assert numbers["use"]["tokens_in"]["value"] > 55 * 50
    completions.run(conf)
    assert "Nothing to pay: all 60 requests are answered." in call(conf)


def test_a_missing_price_is_named_by_its_setting(asking: Settle, url: str):
    sets = (
        "--set",
        f'endpoints.other={{kind="openai", url="{url}", model="m"}}',
        "--set",
        "completions.endpoint=other",
    )
    assert "give endpoints.other.input_price and output_price" in call(asking(), *sets)
    assert tables.current(asking().lake, "completions") is None
