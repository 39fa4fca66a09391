"""articles -> evaluation on a real Spark and real HTTP servers: every student asked once, failures counted, nothing paid twice."""

import json
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from conftest import Make, Settle, article, write_articles
from raft_spark import config, endpoints
from raft_spark.costs import estimate_evaluation
from raft_spark.errors import StoppedError
from raft_spark.lake import browse, dataframes, session, tables
from raft_spark.scoring import metrics
from raft_spark.stages import articles, evaluation

pytestmark = pytest.mark.spark
SMALL = ["articles.source=sample:40", "articles.test_share=0.4", "articles.validation_share=0", "evaluation.rows=8"]
FEW = ["evaluation.distractors=[1, 2]", "evaluation.resamples=100", "evaluation.examples=2"]
PRICES = {"input": 2, "output": 10}  # dollars for a million tokens
ASKED = 8 * 6  # articles; with and without the oracle at two k, the oracle alone, no passage


@pytest.fixture
def urls() -> Iterator[dict[str, str]]:
    """Two fake model servers: the students."""
    with ExitStack() as stack:
        serving = endpoints.serving(config.load().endpoints["fake"])
        other = endpoints.serving(config.load().endpoints["fake"])
        yield {"plain": stack.enter_context(serving).url, "tuned": stack.enter_context(other).url}


@pytest.fixture
def evaluating(settled: Settle, make: Make, urls: dict[str, str]) -> Settle:
    def settle(*assignments: str) -> config.Config:
        students = [
            f"endpoints.{name}.{key}={value}"
            for name, url in urls.items()
            for key, value in {"kind": "fake", "model": name, "url": url}.items()
        ]
        conf = settled(*SMALL, *FEW, *students, "evaluation.students=plain,tuned", *assignments)
        make(conf, articles)
        return conf

    return settle


def calls(url: str) -> int:
    with urllib.request.urlopen(url.removesuffix("/v1") + "/calls") as answer:
        return int(json.load(answer)["calls"])


def behave(url: str, **how: object) -> None:
    request = urllib.request.Request(url.removesuffix("/v1") + "/behave", json.dumps(how).encode())
    urllib.request.urlopen(request).close()


def rows(conf: config.Config, version: tables.Version) -> list[dict[str, Any]]:
    return [row.asDict() for row in dataframes.read(session.start(conf), conf.lake, version).collect()]


def test_students_are_asked_once_what_failed_is_counted_and_a_rerun_asks_only_that(
    evaluating: Settle, urls: dict[str, str]
):
    behave(urls["plain"], status=500, share=0.3)
    behave(urls["tuned"], text="I don't know.")
    conf = evaluating("completions.attempts=1")
    first = evaluation.run(conf)
    found = rows(conf, first)
    by_setting = Counter((row["student"], row["setting"], row["distractors"]) for row in found)
    swept = {(name, setting, k): 8 for name in urls for setting in ("with", "without") for k in (1, 2)}
    once = {(name, setting, 0): 8 for name in urls for setting in ("alone", "closed")}
    assert {key: count for key, count in by_setting.items() if key[1] != metrics.BASELINE} == swept | once
    failed = [row for row in found if row["error_class"]]
    assert first.counts["failed"] == {"model_error": len(failed)}
    assert failed
    assert {(row["student"], row["answer"], row["rouge_l"]) for row in failed} == {("plain", None, 0.0)}
    assert all(row["abstained"] for row in found if row["student"] == "tuned")
    stored_metrics = pq.read_table(browse.folder(conf.lake, first) + "/metrics/metrics.parquet").to_pylist()
    told = {
        row["figure"]: row["value"] for row in stored_metrics if (row["student"], row["setting"]) == ("plain", "closed")
    }
    assert told["failed"] == sum(row["setting"] == "closed" for row in failed) / 8
    behave(urls["plain"])
    before = calls(urls["plain"]), calls(urls["tuned"])
    assert before == (ASKED, ASKED)
    second = evaluation.run(conf)
    assert second.counts["failed"] == {}
    distinct = len({row["question"] for row in failed if row["setting"] == "closed"})
    others = sum(row["setting"] != "closed" for row in failed)
    assert calls(urls["plain"]) == ASKED + distinct + others
    assert evaluation.run(conf).id == second.id
    assert calls(urls["tuned"]) == ASKED
    page = (tables.storage(conf.lake, "evaluation").read(f"versions/{second.id}/evaluation.html") or b"").decode()
    assert page.count('<article class="card example">') == 2


def test_the_citations_of_a_student_are_counted_and_reported(evaluating: Settle, urls: dict[str, str]):
    behave(urls["plain"], text="It worked [1].\n<ANSWER>: Yes [2].", share=1)
    conf = evaluating("evaluation.students=plain", "completions.style=cot", "completions.passage_marks=numbers")
    version = evaluation.run(conf)
    found = [row for row in rows(conf, version) if row["setting"] != metrics.BASELINE]
    assert {row["answer"] for row in found} == {"It worked [1].\n<ANSWER>: Yes [2]."}
    assert {(row["setting"], row["citations"], row["citations_of_oracle"]) for row in found} >= {
        ("closed", 2, 0), ("without", 2, 0), ("alone", 2, 2), ("with", 2, 1),
    }  # fmt: skip
    folder = Path(browse.folder(conf.lake, version))
    assert "citations that name the oracle" in (folder / "evaluation.md").read_text()


def test_an_empty_answer_is_wrong_and_paid_once_and_the_page_comes_when_it_can_be_drawn(
    evaluating: Settle, urls: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    behave(urls["plain"], fault="empty", share=0.3)
    conf = evaluating()
    with monkeypatch.context() as without:
        without.setattr(evaluation, "find_spec", lambda name: None if name == "matplotlib" else find_spec(name))
        first = evaluation.run(conf)
        assert evaluation.run(conf).id == first.id
    assert first.counts["failed"] == {"empty": first.counts["rows"] - 8 * 4 - first.counts["answers"]}
    assert first.counts["failed"]["empty"] > 0
    second = evaluation.run(conf)
    assert second.counts == first.counts
    assert [calls(url) for url in urls.values()] == [ASKED, ASKED]
    assert {file.path for file in second.files} - {file.path for file in first.files} == {"evaluation.html"}
    assert evaluation.run(conf).id == second.id


def test_what_failed_for_good_is_asked_again_when_its_class_is_named_and_a_limit_holds_for_all_students(
    evaluating: Settle, urls: dict[str, str], tmp_path
):
    records = [
        article(
            number, [f"Passage {number}."], f"Is it {number}?", long_answer=None if number % 2 else f"It is {number}."
        )
        for number in range(40)
    ]
    for url in urls.values():
        behave(url, text="I do not know it.")
    own = [f"articles.source={write_articles(tmp_path / 'source.parquet', records)}", "evaluation.max_new_tokens=8"]
    prices = [
        f"endpoints.{name}.{side}_price={price}" for name in urls for side, price in (("input", 0), ("output", 1e6))
    ]
    behave(urls["plain"], status=400, share=0.3)
    first = evaluation.run(evaluating(*own))
    assert first.counts["failed"]["bad_request"] > 0
    behave(urls["plain"], text="I do not know it.")
    assert evaluation.run(evaluating(*own)).id == first.id
    named = evaluating(*own, "completions.retry=bad_request")
    assert evaluation.run(named).counts["failed"] == {}
    stored = (
        dataframes.stored_answers(session.start(named), named.lake, "evaluation")
        .where("completion IS NOT NULL")
        .collect()
    )
    tokens = sum(row["completion_tokens"] for row in stored) / 2
    others = ["endpoints.plain.model=plain-2", "endpoints.tuned.model=tuned-2", f"completions.max_spend={1.5 * tokens}"]
    conf = evaluating(*own, *prices, *others)
    with pytest.raises(StoppedError, match="max_spend"):
        evaluation.run(conf)
    stored = dataframes.stored_answers(session.start(conf), conf.lake, "evaluation").where("model LIKE '%-2'").collect()
    assert tokens < sum(row["completion_tokens"] for row in stored) <= 1.5 * tokens


SHOWN = ["evaluation.students=plain", "evaluation.distractors=[1, 3]"]


def metric(conf: config.Config, version: tables.Version, *key: object) -> dict[str, Any]:
    """Return a metric by student, setting, k, place and figure."""
    stored = pq.read_table(browse.folder(conf.lake, version) + "/metrics/metrics.parquet").to_pylist()
    names = ("student", "setting", "distractors", "place", "figure")
    return next(row for row in stored if row["against"] is None and key == tuple(row[name] for name in names))


def test_what_a_retriever_finds_is_shown_estimated_and_split_by_whether_it_found_the_oracle(
    evaluating: Settle, urls: dict[str, str]
):
    evaluation.run(evaluating(*SHOWN))
    before = calls(urls["plain"])
    conf = evaluating(*SHOWN, "evaluation.settings=with,without,alone,closed,retrieved")
    (told,) = estimate_evaluation.run(conf)
    version = evaluation.run(conf)
    assert told.requests == calls(urls["plain"]) - before == 2 * 8  # those of other settings are stored
    found = [row for row in rows(conf, version) if row["setting"] == "retrieved"]
    assert Counter((row["distractors"], row["shown"]) for row in found) == {(1, 1): 8, (3, 3): 8}
    at = {(row["pubid"], row["distractors"]): row["position"] for row in found}
    assert all(at[pubid, 3] == 0 for (pubid, k), position in at.items() if (k, position) == (1, 0))
    assert {position for (_, k), position in at.items() if k == 1} <= {0, None}
    for k in (1, 3):
        positions = [position for (_, each), position in at.items() if each == k]
        hits = sum(position is not None for position in positions)
        recall = metric(conf, version, "the retriever", "retrieved", k, None, "recall")
        assert (recall["value"], recall["articles"]) == (hits / 8, 8)
        assert metric(conf, version, "plain", "retrieved", k, "found", "rouge_l")["value"] > 0
    report = (tables.storage(conf.lake, "evaluation").read(f"versions/{version.id}/evaluation.md") or b"").decode()
    assert "## Retriever" in report
    assert "## Oracle found or not" in report


def test_a_model_is_shown_what_a_retriever_finds(settled: Settle):
    asked = ["evaluation.students=embedded", "evaluation.settings=retrieved", "evaluation.distractors=[1]"]
    conf = settled(*SMALL, *FEW, *asked, "evaluation.rows=2", "evaluation.max_new_tokens=4")
    articles.run(conf)
    version = evaluation.run(conf)
    assert version.counts["failed"] == {}
    answers = [row for row in rows(conf, version) if row["student"] == "embedded"]
    assert [(row["setting"], row["shown"]) for row in answers] == [("retrieved", 1)] * 2
    assert all(row["answer"] for row in answers)


def test_real_questions_find_their_own_passages(evaluating: Settle, real_articles: Path):
    all_of_them = [f"articles.source={real_articles}", "articles.test_share=0.999", "evaluation.rows=0"]
    conf = evaluating(*all_of_them, *SHOWN, "evaluation.settings=retrieved", "evaluation.distractors=[1]")
    version = evaluation.run(conf)
    recall = metric(conf, version, "the retriever", "retrieved", 1, None, "recall")
    assert recall["articles"] > 690
    assert recall["value"] >= 0.93


JUDGED = {
    "statements": [{"statement": "It did.", "supported": True}, {"statement": "It did not.", "supported": False}],
    "questions": ["Did it?"],
    "noncommittal": False,
}


def test_a_judge_is_asked_twice_an_answer_and_only_once(evaluating: Settle, urls: dict[str, str]):
    with endpoints.serving(config.load().endpoints["fake"]) as judge:
        behave(judge.url, text=json.dumps(JUDGED), share=0.8)  # the others get a made-up answer, which is no JSON
        asked = [f"endpoints.judge.{each}" for each in ("kind=fake", "model=judge", f"url={judge.url}")]
        own = [*asked, "evaluation.students=tuned", "evaluation.judge=judge"]
        conf = evaluating(*own)
        version = evaluation.run(conf)
        answers = [row for row in rows(conf, version) if row["setting"] != metrics.BASELINE]
        judged = [row for row in answers if row["judge_error"] is None]
        assert version.counts["unjudged"] == {"unreadable": len(answers) - len(judged)}
        assert 0 < len(judged) < len(answers) == ASKED
        assert {row["faithfulness"] for row in judged if row["setting"] != "closed"} == {0.5}
        assert {row["faithfulness"] for row in judged if row["setting"] == "closed"} == {None}
        assert all(0 < row["relevance"] < 1 for row in judged)
        assert calls(judge.url) == 2 * ASKED - 8
        assert evaluation.run(evaluating(*own, "evaluation.resamples=200")).counts == version.counts
        assert calls(judge.url) == 2 * ASKED - 8


def test_what_it_would_cost_at_most_is_told_before_anything_is_asked(evaluating: Settle, urls: dict[str, str]):
    with endpoints.serving(config.load().endpoints["fake"]) as judge:
        asked = [f"endpoints.judge.{each}" for each in ("kind=fake", "model=judge", f"url={judge.url}")]
        prices = [f"endpoints.{name}.{side}_price={price}" for name in urls for side, price in PRICES.items()]
        conf = evaluating(*asked, *prices, "evaluation.judge=judge", "evaluation.max_new_tokens=64")
        told = estimate_evaluation.run(conf)
        assert [calls(url) for url in (*urls.values(), judge.url)] == [0, 0, 0]
        evaluation.run(conf)
        stored = dataframes.stored_answers(session.start(conf), conf.lake, "evaluation").collect()
        for each in told:
            own = [row for row in stored if row["model"] == each.model]
            used = {name: sum(row[name] for row in own) for name in ("prompt_tokens", "completion_tokens")}
            assert each.requests == len(own) == {"judge": 2 * (2 * ASKED - 8)}.get(each.endpoint, ASKED)
            assert used["prompt_tokens"] <= each.tokens_in < 3 * used["prompt_tokens"]
            assert used["completion_tokens"] <= each.tokens_out
        students = {each.endpoint: each for each in told if each.endpoint in urls}
        assert {name: each.dollars for name, each in students.items()} == {
            name: pytest.approx((2 * each.tokens_in + 10 * each.tokens_out) / 1e6) for name, each in students.items()
        }
        assert [each.requests for each in estimate_evaluation.run(conf)] == [0, 0, 0]
