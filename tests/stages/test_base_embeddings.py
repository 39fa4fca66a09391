"""Distractors by embeddings on a real Spark and a real HTTP server: each text asked once, the same rows whatever the tasks."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest

from conftest import Settle, article, write_articles
from raft_spark import config
from raft_spark.costs import estimate_embeddings
from raft_spark.errors import ConfigError, EndpointError, StoppedError
from raft_spark.lake import dataframes, lease, parquet, schemas, session, tables
from raft_spark.stages import articles, base
from support import fake_server

pytestmark = pytest.mark.spark
ALL = "base.distractors_from={embedding=1}"
TEXTS = 60 + 180  # questions and passages of the records, all different


@pytest.fixture
def embedding(settled: Settle, url: str, tmp_path: Path) -> Settle:
    """Settle a lake with the articles of `records`, whose distractors the server embeds."""

    def settle(*assignments: str) -> config.Config:
        source = write_articles(tmp_path / "source" / "all.parquet", records(60))
        basis = [
            f"articles.source={source}",
            "lake.row_group_rows=10",
            ALL,
            "base.retrieval.endpoint=fake",
            "base.retrieval.max_similarity=1",
        ]
        return settled(*basis, f"endpoints.fake.url={url}", "base.absent=nothing", *assignments)

    return settle


def records(count: int) -> list[dict[str, object]]:
    """Return articles about twelve topics, each with words that only its articles have."""
    topics = [" ".join(f"topic{topic}word{word}" for word in "abcd") for topic in range(12)]
    return [
        article(
            number,
            [f"Passage {part} of {number}: {topics[number % 12]}" for part in range(3)],
            question=f"What about {number}: {topics[number % 12]} ?",
        )
        for number in range(count)
    ]


def rows(conf: config.Config) -> list[dict[str, object]]:
    version = tables.require(conf.lake, schemas.BASE)
    groups = tables.row_groups(conf.lake, version)
    return sorted((row for group in groups for row in parquet.read_row_group(group).to_pylist()), key=lambda row: row["pubid"])  # fmt: skip


def digest(conf: config.Config) -> str:
    return hashlib.sha256(json.dumps(rows(conf), sort_keys=True).encode()).hexdigest()


def stored(conf: config.Config) -> list[dict[str, object]]:
    spark = session.start(conf)
    return [row.asDict() for row in dataframes.stored_answers(spark, conf.lake, schemas.EMBEDDINGS).collect()]


def test_distractors_are_about_the_question_and_say_how_near_they_are(embedding: Settle):
    conf = embedding("articles.validation_share=0", "articles.test_share=0", "base.retrieval.window=6")
    articles.run(conf)
    version = base.run(conf)
    assert version.counts["not_embedded"] == {}
    found = [(row["pubid"], each) for row in rows(conf) for each in row["documents"] if not each["oracle"]]
    near = [(pubid, each) for pubid, each in found if each["method"] == "embedding"]
    assert Counter(each["method"] for _, each in found).keys() <= {"embedding", "random"}
    assert len(near) > 30
    assert {(pubid - each["pubid"]) % 12 for pubid, each in near} == {0}
    assert all(0 < each["score"] <= 1 and 1 <= each["rank"] <= 6 for _, each in near)


def test_the_rows_are_the_same_for_any_tasks_and_strategy_and_each_text_is_asked_once(embedding: Settle, url: str):
    digests = {}
    for tasks, strategy in ((1, "broadcast"), (5, "broadcast"), (5, "join")):
        conf = embedding(f"base.strategy={strategy}", "base.distractors_from={embedding=0.6,bm25=0.2}")
        articles.run(conf)
        tables.storage(conf.lake, schemas.BASE).delete("")
        base.run(conf, tasks=tasks)
        digests[tasks, strategy] = digest(conf)
    assert len(set(digests.values())) == 1, digests
    assert fake_server.calls(url)["calls"] == TEXTS
    assert len(stored(conf)) == len({row["key"] for row in stored(conf)}) == TEXTS


def test_new_articles_alone_are_asked_and_another_model_anew(embedding: Settle, url: str, tmp_path: Path):
    conf = embedding()
    articles.run(conf)
    base.run(conf)
    assert base.run(embedding("base.seed=1")).counts["not_embedded"] == {}
    assert fake_server.calls(url)["calls"] == TEXTS
    write_articles(tmp_path / "source" / "more.parquet", records(63)[60:])
    more = embedding(f"articles.source={tmp_path / 'source'}")
    articles.run(more)
    base.run(more)
    assert fake_server.calls(url)["calls"] == TEXTS + 3 * 4
    assert estimate_embeddings.run(more)[0].requests == 0
    other = embedding("endpoints.fake.model=other")
    articles.run(other)
    bound = estimate_embeddings.run(other)[0]
    assert (bound.model, bound.requests, bound.tokens_out, bound.dollars) == ("other", TEXTS, 0, 0)
    base.run(other)
    assert fake_server.calls(url)["calls"] == TEXTS + 3 * 4 + TEXTS


def test_what_is_stored_is_not_asked_again_after_a_run_that_failed(embedding: Settle, url: str):
    conf = embedding("completions.attempts=1", "completions.max_failed_share=1")
    articles.run(conf)
    fake_server.behave(url, status=500, share=0.3)
    with pytest.raises(EndpointError, match=r"\d+ texts have no embedding yet \(\d+ model_error\); a rerun asks for these only"):  # fmt: skip
        base.run(conf)
    answered = sum(row["completion"] is not None for row in stored(conf))
    assert 0 < answered < TEXTS
    assert tables.current(conf.lake, schemas.BASE) is None
    fake_server.behave(url)
    fake_server.forget(url)
    base.run(conf)
    assert fake_server.calls(url)["calls"] == TEXTS - answered


def test_a_run_that_was_stopped_keeps_what_it_has_paid_for(embedding: Settle, url: str):
    priced = ("endpoints.fake.input_price=1", "completions.in_flight=1", "completions.max_spend=0.001")
    conf = embedding(*priced)
    articles.run(conf)
    with pytest.raises(StoppedError, match="max_spend"):
        base.run(conf)
    answered = len(stored(conf))
    assert 0 < answered < TEXTS
    base.run(embedding(*priced, "completions.max_spend=0"))
    assert fake_server.calls(url)["calls"] == TEXTS


def test_a_text_that_is_too_long_is_counted_and_not_found(embedding: Settle, url: str, tmp_path: Path):
    long = records(61)[60] | {"context": {"contexts": ["topic0worda " * 9000], "labels": ["METHODS"], "meshes": []}}
    write_articles(tmp_path / "source" / "long.parquet", [long])
    wanted = (f"articles.source={tmp_path / 'source'}", "articles.max_text_chars=1000000")
    conf = embedding(*wanted)
    articles.run(conf)
    version = base.run(conf)
    assert version.counts["not_embedded"] == {"bad_request": 1}
    assert not [
        each for row in rows(conf) for each in row["documents"] if each["pubid"] == 60 and each["method"] == "embedding"
    ]
    assert base.run(conf).id == version.id
    calls = fake_server.calls(url)["calls"]
    base.run(embedding(*wanted, "completions.retry=bad_request"))
    assert fake_server.calls(url)["calls"] == calls + 1


def test_an_endpoint_that_refuses_every_text_ends_the_run_and_says_what_to_change(embedding: Settle, url: str):
    conf = embedding()
    articles.run(conf)
    fake_server.behave(url, status=404)
    with pytest.raises(EndpointError, match=r"endpoint 'fake' refuses: .*it was asked for model 'fake' at http"):
        base.run(conf)
    assert tables.current(conf.lake, schemas.BASE) is None


def test_vectors_of_two_models_under_one_name_are_an_error_that_says_so(embedding: Settle, url: str):
    conf = embedding()
    articles.run(conf)
    vector = {"data": [{"embedding": [1.0, 2.0]}], "usage": {"prompt_tokens": 2}}
    fake_server.behave(url, body=json.dumps(vector), for_calls=5)
    with pytest.raises(Exception, match=r"have 2 and 256 numbers, so they are of different models; give endpoints\.fake a model"):  # fmt: skip
        base.run(conf)


def test_without_a_price_nothing_is_asked_or_written(settled: Settle):
    embedder = "endpoints.e={kind='openai', model='e', url='http://127.0.0.1:1/v1'}"
    conf = settled(ALL, embedder, "base.retrieval.endpoint=e", "completions.max_spend=1")
    with pytest.raises(ConfigError, match=r"the price of endpoints\.e"):
        base.run(conf)
    assert not lease.is_present(tables.storage(conf.lake, schemas.EMBEDDINGS))
    assert tables.current(conf.lake, schemas.BASE) is None
