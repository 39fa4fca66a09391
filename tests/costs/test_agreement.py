"""Estimate, run, manifests and the server's own counts tell the same tokens and dollars."""

import json
import urllib.request
from pathlib import Path

import pytest

from conftest import Make, Settle, article, write_articles
from raft_spark import config
from raft_spark.costs import estimate
from raft_spark.errors import StoppedError
from raft_spark.monitoring import run_state
from raft_spark.stages import articles, base, completions, dataset
from support.fake_server import behave, calls, stored

pytestmark = pytest.mark.spark
IN, OUT = 2.0, 10.0  # dollars per million tokens
PRICES = (f"endpoints.fake.input_price={IN}", f"endpoints.fake.output_price={OUT}")
SHARES = ("articles.validation_share=0", "articles.test_share=0")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 articles with 50 different requests: five requests of three articles each, and 45 of one."""
    shared = [article(number, [f"Shared passage {number % 5}."], f"Is it {number % 5}?") for number in range(15)]
    single = [article(100 + number, [f"Passage {number} of one."], f"Is it one, {number}?") for number in range(45)]
    return write_articles(tmp_path_factory.mktemp("source") / "source.parquet", shared + single)


@pytest.fixture
def asking(settled: Settle, make: Make, url: str, source: Path) -> Settle:
    def settle(*assignments: str) -> config.Config:
        basis = (f"articles.source={source}", *SHARES, *PRICES, f"endpoints.fake.url={url}", "base.variants=both")
        conf = settled(*basis, *assignments)
        make(conf, articles, base)
        return conf

    return settle


def billed(url: str) -> tuple[int, int]:
    """Return the tokens of prompts and answers that the server would bill: of all answers that it made."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/calls/tokens") as answer:
        seconds = json.load(answer)
    return sum(read for _, read, _ in seconds), sum(written for *_, written in seconds)


def dollars(tokens: tuple[int, int]) -> float:
    return (tokens[0] * IN + tokens[1] * OUT) / 1e6


def tokens_of(counts: dict[str, dict[str, int]]) -> tuple[int, int]:
    return counts["tokens"]["prompt"], counts["tokens"]["completion"]


def test_estimate_run_manifests_and_server_agree_on_duplicates_retries_failures_and_a_rerun(asking: Settle, url: str):
    conf = asking("completions.max_failed_share=1", "completions.attempts=20", "dataset.gate.length=off")
    expected = estimate.run(conf, 8)
    assert (expected.requests, expected.asked_now, expected.to_ask) == (50, 8, 42)
    of_estimate, answered_by_estimate = billed(url), calls(url)["answered"]
    assert answered_by_estimate == 8

    behave(url, {"status": 500, "share": 0.2}, {"fault": "empty", "share": 0.2})
    first = completions.run(conf).counts
    of_first = tuple(now - before for now, before in zip(billed(url), of_estimate, strict=True))
    server = calls(url)
    failures = server["by_status"]["500"]
    assert first["failed_by_class"].keys() == {"empty"}  # billed, and its tokens are counted
    assert failures > 0
    assert tokens_of(first) == of_first
    assert first["calls"] == server["calls"] - 8
    assert first["dollars"] == pytest.approx(dollars(of_first), abs=1e-6)
    assert first["possibly_billed"] == failures  # the calls with status 500, in a figure of their own
    assert first["possible_dollars"] > failures * 512 * OUT / 1e6
    run = run_state.read(conf.lake)
    assert (run.dollars, run.possible_dollars) == (first["dollars"], first["possible_dollars"])

    behave(url)
    again = conf.model_copy(update={"completions": conf.completions.model_copy(update={"retry": ("empty",)})})
    second = completions.run(again).counts
    of_second = tuple(now - one - two for now, one, two in zip(billed(url), of_estimate, of_first, strict=True))
    assert second["asked"] == second["answered"] == first["failed"] > 0
    assert tokens_of(second) == of_second
    assert (second["possibly_billed"], second["possible_dollars"]) == (0, 0.0)

    paid = [row for row in stored(conf) if row["completion"] is not None]
    assert len(paid) == len({row["key"] for row in paid}) == 50
    of_answers = sum(row["prompt_tokens"] for row in paid), sum(row["completion_tokens"] for row in paid)
    made = dataset.run(again).counts
    assert made["rows"] == 120  # 60 articles, each with and without its oracle, share 50 answers
    assert tokens_of(made) == of_answers
    assert made["not_counted"] == {"prompt": 0, "completion": 0}
    assert made["dollars"] == pytest.approx(dollars(of_answers), abs=1e-6)

    rest = dollars(of_answers) - dollars(of_estimate)
    total = expected.bill.model
    assert abs(total.value - rest) <= max(total.margin, 0.1 * rest)
    before = calls(url)["calls"]
    assert completions.run(again).counts == second
    assert calls(url)["calls"] == before


BODY = '{"choices": [{"message": {"content": "It is so, as the passage says."}, "finish_reason": "stop"}]}'


@pytest.mark.parametrize("rule", [{"fault": "uncounted"}, {"body": BODY}])
def test_what_a_server_does_not_count_is_unknown_and_never_free(asking: Settle, url: str, rule: dict[str, str]):
    """One server counts 0 tokens, another tells no usage."""
    behave(url, rule)
    conf = asking("dataset.gate.length=off")
    assert estimate.run(conf, 2).use is None
    counts = completions.run(conf).counts
    assert counts["known"] + counts["answered"] == 50
    assert counts["tokens"] == {"prompt": None, "completion": None}
    assert counts["not_counted"] == {"prompt": 48, "completion": 48}
    assert (counts["dollars"], counts["possibly_billed"]) == (0.0, 0)
    assert counts["possible_dollars"] > 48 * 512 * OUT / 1e6 >= dollars(billed(url))
    assert {(row["prompt_tokens"], row["completion_tokens"]) for row in stored(conf)} == {(None, None)}
    made = dataset.run(conf).counts
    assert made["tokens"] == {"prompt": None, "completion": None}
    assert made["not_counted"] == {"prompt": 50, "completion": 50}
    assert (made["rows"], made["dollars"]) == (120, 0.0)


def test_a_limit_holds_at_a_server_that_counts_nothing(asking: Settle, url: str):
    behave(url, fault="uncounted")
    conf = asking(
        "completions.max_spend=0.1", "completions.in_flight=4"
    )  # 512 tokens at most, so 0.00512 dollars a call
    with pytest.raises(StoppedError, match="max_spend"):
        completions.run(conf)
    assert 10 <= calls(url)["calls"] <= 19
    assert dollars(billed(url)) <= 0.1
