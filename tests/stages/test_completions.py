"""base -> completions on a real Spark and a real HTTP server: asked once, stored as it comes, never paid twice."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from conftest import Make, Settle
from raft_spark import config
from raft_spark.errors import EndpointError, InputError, StoppedError
from raft_spark.inference import realtime
from raft_spark.lake import session, tables
from raft_spark.monitoring import spark_stats
from raft_spark.stages import articles, base, completions, dataset
from support.fake_server import behave, calls, stored

pytestmark = pytest.mark.spark
ALL_TRAIN = ["articles.source=sample:60", "articles.validation_share=0", "articles.test_share=0"]


@pytest.fixture
def asking(settled: Settle, make: Make, url: str) -> Settle:
    def settle(*assignments: str) -> config.Config:
        conf = settled(*ALL_TRAIN, f"endpoints.fake.url={url}", *assignments)
        make(conf, articles, base)
        return conf

    return settle


def test_every_article_is_asked_once_and_its_answer_stored(asking: Settle, url: str):
    conf = asking()
    version = completions.run(conf)
    counts = {"requests": 60, "distinct": 60, "known": 0, "asked": 60, "answered": 60, "failed": 0, "missing": 0}
    assert version.counts.items() >= {**counts, "dead": {}, "calls": 60, "throttled": 0, "paid_twice": 0}.items()
    rows = stored(conf)
    assert len(rows) == len({row["key"] for row in rows}) == 60
    for row in rows:
        assert row["completion"]
        assert row["error"] is None
        assert row["finish_reason"] == "stop"
        assert row["attempts"] == 1
        assert row["prompt_tokens"] > row["completion_tokens"] > 0
        assert row["latency_ms"] >= 5
        assert row["model"] == "fake"
        assert row["run_id"] == version.id
    assert calls(url)["calls"] == 60


def test_thoughts_are_not_stored_and_counted(asking: Settle, url: str):
    behave(url, {"share": 1, "text": "<think>It says so.</think>Yes, it does.<|eot_id|>"})
    conf = asking()
    version = completions.run(conf)
    assert {(row["completion"], row["removed"]) for row in stored(conf)} == {("Yes, it does.", "thought, token")}
    assert version.counts["removed"] == {"thought": 60, "token": 60}


def test_a_rerun_asks_nothing_and_new_distractors_cost_nothing(asking: Settle, url: str):
    first = completions.run(asking())
    assert completions.run(asking()).id == first.id
    again = completions.run(asking("base.seed=5", "base.distractors=3", "base.oracle_share=0.5"))
    assert again.id != first.id
    assert again.counts["asked"] == 0
    assert calls(url)["calls"] == 60


def test_a_rerun_with_nothing_to_ask_moves_keys_and_neither_questions_nor_answers(asking: Settle, url: str):
    behave(url, {"share": 1, "text": "Yes, it does. " * 400})
    conf = asking()
    completions.run(conf)
    spark = session.start(conf)
    last = spark_stats.last_stage(spark)
    assert completions.run(asking("completions.reuse_truncated=false")).counts["asked"] == 0
    moved = spark_stats.measure(spark, last)["shuffle_written_bytes"]
    assert 60 * 32 < moved < 60 * 300  # a key has 32 characters; a question and its passages have 1,000


def test_both_variants_of_an_article_are_one_question(tmp_path, asking: Settle, url: str):
    from conftest import article, write_articles

    same = [article(number, ["The very same passage.", "And one more."]) for number in (1, 2)]
    others = [article(number, [f"Passage {number}."], f"Is it {number}?") for number in range(10, 40)]
    source = write_articles(tmp_path / "source.parquet", same + others)
    counts = completions.run(asking(f"articles.source={source}", "base.variants=both")).counts
    assert (counts["requests"], counts["distinct"], counts["asked"], counts["answered"]) == (32, 31, 31, 31)
    assert (calls(url)["calls"], calls(url)["repeated"]) == (31, [])


def test_another_word_asks_again_only_those_who_read_it(asking: Settle, url: str):
    def words(teacher: str, student: str) -> str:
        layouts = (f"{who}={{system='{text}', user='{{context}} {{question}}'}}" for who, text in (("teacher", teacher), ("student", student)))  # fmt: skip
        return f"completions.prompts={{answer={{{', '.join(layouts)}}}}}"

    first = completions.run(asking(words("Be brief.", "Be brief.")))
    made = dataset.run(asking(words("Be brief.", "Be brief.")))
    other = asking(words("Be brief.", "Be exact."))
    assert completions.run(other).id == first.id
    changed = dataset.run(other)
    assert changed.id != made.id
    assert calls(url)["calls"] == 60
    assert completions.run(asking(words("Be exact.", "Be exact."))).counts["asked"] == 60
    assert completions.run(asking()).counts["asked"] == 60  # the words of the package are others
    assert calls(url)["calls"] == 180


def test_what_is_sent_is_asked_for_anew_and_a_limit_left_out_costs_nothing_twice(asking: Settle, url: str):
    completions.run(asking())
    seeded = completions.run(asking("completions.parameters.seed=7"))
    assert seeded.counts["asked"] == 60
    assert completions.run(asking("endpoints.fake.parameters.seed=7")).id == seeded.id  # the same, set elsewhere
    unlimited = asking("completions.leave_out=max_tokens", "completions.max_new_tokens=2")
    assert completions.run(unlimited).counts["asked"] == 60
    assert {row["max_tokens"] for row in stored(unlimited)} == {0, 512}
    again = asking("completions.leave_out=max_tokens", "completions.max_new_tokens=1")
    assert completions.run(again).counts["asked"] == 0
    assert calls(url)["calls"] == 180


def test_another_temperature_is_another_question(asking: Settle, url: str):
    completions.run(asking())
    assert completions.run(asking("completions.temperature=0.5")).counts["answered"] == 60
    assert calls(url)["calls"] == 120


def test_more_articles_ask_only_the_new_ones(asking: Settle, url: str):
    completions.run(asking())
    counts = completions.run(asking("articles.source=sample:80")).counts
    assert (counts["requests"], counts["asked"]) == (80, 20)
    assert calls(url)["calls"] == 80


def test_answers_that_the_dataset_rejects_are_asked_for_again_at_other_temperatures_and_no_more(
    asking: Settle, url: str
):
    behave(url, fault="truncated", share=0.5)
    once = asking(REJECTING)
    completions.run(once)
    cut = dataset.run(once).counts["rejected"]["truncated"]
    assert 15 < cut < 45
    conf = asking(REJECTING, 'completions.retry=["ungrounded"]', "completions.again_temperatures=[0.5, 0.9]")
    counts = completions.run(conf).counts
    left = dataset.run(conf).counts["rejected"]["truncated"]
    assert 0 < left < cut / 2
    assert calls(url)["calls"] == 60 + counts["asked"]
    assert cut + left < counts["asked"] == counts["asked_again"] < 2 * cut
    assert len({row["key"] for row in stored(conf)}) == len(stored(conf)) == 60 + counts["asked"]
    behave(url)
    assert completions.run(conf).counts["asked"] == counts["asked"]  # the version that is there
    assert completions.run(asking(REJECTING)).counts["asked"] == 0
    assert dataset.run(asking(REJECTING)).counts["rejected"] == {"truncated": cut}
    assert calls(url)["calls"] == 60 + counts["asked"]


AGAIN = ["completions.retry=ungrounded", "completions.again_temperatures=[0.5, 0.9]", "completions.attempts=1"]
MANY_FAIL = "completions.max_failed_share=0.9"
REJECTING = "dataset.max_rejected_share=0.9"


def test_what_failed_is_told_and_asked_next_though_other_answers_were_asked_for_again(asking: Settle, url: str):
    behave(url, {"status": 500, "share": 0.3}, {"fault": "truncated", "share": 0.3})
    conf = asking(*AGAIN, MANY_FAIL)
    counts = completions.run(conf).counts
    failed = sum(row["completion"] is None for row in stored(conf))
    assert counts["failed"] == counts["missing"] == failed > 0 < counts["asked_again"]
    behave(url)
    counts = completions.run(conf).counts
    assert (counts["failed"], counts["missing"]) == (0, 0)
    cut = Counter(row["pubid"] for row in stored(conf) if row["finish_reason"] == "length")
    always_cut = sum(count == 3 for count in cut.values())  # at each of the three temperatures
    assert dataset.run(conf).counts["rejected"].get("truncated", 0) == always_cut
    behave(url, {"status": 500, "share": 0.3}, {"fault": "truncated", "share": 0.3})
    with pytest.raises(EndpointError, match=r"max_failed_share = 0.05"):
        completions.run(asking(*AGAIN, "completions.top_p=0.9"))


def test_a_try_that_fails_for_good_is_a_dead_letter_and_the_next_temperature_is_tried(asking: Settle, url: str):
    behave(url, {"fault": "filtered", "share": 0.3}, {"fault": "truncated", "share": 0.4})
    conf = asking(*AGAIN, MANY_FAIL)
    counts = completions.run(conf).counts
    tries = Counter(row["pubid"] for row in stored(conf))
    filtered = [row["pubid"] for row in stored(conf) if row["error_class"] == "filtered"]
    assert {tries[pubid] for pubid in filtered} == {1, 3}
    assert counts["dead"] == {"filtered": len(filtered)}
    behave(url)
    assert completions.run(conf).counts == counts
    assert completions.run(asking(*AGAIN, MANY_FAIL, "articles.source=sample:61")).counts["dead"] == counts["dead"]
    named = asking(*AGAIN, MANY_FAIL, "articles.source=sample:61", "completions.retry=ungrounded,filtered")
    counts = completions.run(named).counts
    assert (0 < counts["asked"] <= len(filtered), counts["dead"]) == (
        True,
        {},
    )  # what a try now answers needs no further one


def test_a_run_that_was_told_to_stop_has_its_rejected_answers_asked_for_again_by_the_next(
    asking: Settle, url: str, monkeypatch: pytest.MonkeyPatch
):
    behave(url, fault="truncated", share=0.3)
    whole = realtime.ask
    with monkeypatch.context() as patched:
        patched.setattr(realtime, "ask", lambda *given: replace(whole(*given), state="stopped", reason="told to"))
        with pytest.raises(StoppedError, match="told to; 60 answers are stored"):
            completions.run(asking(*AGAIN))
    counts = completions.run(asking(*AGAIN)).counts
    assert counts["asked"] == counts["asked_again"] > 0


def test_an_empty_answer_is_paid_once_and_again_only_when_told(asking: Settle, url: str):
    behave(url, fault="empty", share=0.3)
    counts = completions.run(asking(MANY_FAIL)).counts
    assert counts["dead"] == {"empty": counts["failed"]}
    assert (calls(url)["calls"], counts["missing"]) == (60, 0)
    assert counts["failed"] > 0
    behave(url)
    assert completions.run(asking(MANY_FAIL)).counts == counts
    counts_again = completions.run(asking(MANY_FAIL, "completions.retry=empty")).counts
    assert (counts_again["asked"], counts_again["dead"]) == (counts["failed"], {})


def test_a_failed_row_keeps_its_reason_and_is_asked_again_by_the_next_run(asking: Settle, url: str):
    behave(url, status=500, share=0.2)
    conf = asking("completions.max_failed_share=0.9", "completions.attempts=1")
    counts = completions.run(conf).counts
    assert counts["failed"] == counts["missing"] > 0
    assert counts["answered"] + counts["failed"] == 60
    failed = [row for row in stored(conf) if row["completion"] is None]
    assert {row["error_class"] for row in failed} == {"model_error"}
    assert all("500" in row["error"] for row in failed)
    behave(url)
    counts_again = completions.run(conf).counts
    assert counts_again["asked"] == counts["failed"]
    assert counts_again["missing"] == 0
    assert calls(url)["repeated"] == []


def test_a_request_the_endpoint_will_not_take_is_asked_again_only_when_its_class_is_named(asking: Settle, url: str):
    behave(url, status=400, share=0.2)
    conf = asking("completions.max_failed_share=0.9")
    first = completions.run(conf)
    dead = first.counts["dead"]["bad_request"]
    assert dead == first.counts["failed"] > 0
    behave(url)
    before = calls(url)["calls"]
    assert completions.run(conf).id == first.id
    assert completions.run(asking("completions.retry=filtered")).id == first.id
    assert calls(url)["calls"] == before
    again = completions.run(asking("completions.retry=bad_request,filtered")).counts
    assert (again["asked"], again["answered"], again["dead"]) == (dead, dead, {})
    assert calls(url)["repeated"] == []


def test_a_larger_limit_asks_only_the_answers_that_were_cut_and_those_only_if_told_so(asking: Settle, url: str):
    few, more = "completions.max_new_tokens=40", "completions.max_new_tokens=60"
    completions.run(asking(few))
    cut = sum(row["finish_reason"] == "length" for row in stored(asking(few)))
    assert 0 < cut < 60
    assert completions.run(asking(more)).counts["asked"] == 0
    again = completions.run(asking(more, "completions.reuse_truncated=false")).counts
    assert (again["asked"], again["answered"]) == (cut, cut)
    assert completions.run(asking(more, "completions.reuse_truncated=false")).counts["asked"] == cut
    assert calls(url)["calls"] == 60 + cut


def test_a_smaller_limit_asks_only_the_answers_that_are_longer_than_it(asking: Settle, url: str):
    completions.run(asking())
    longer = sum(row["completion_tokens"] > 40 for row in stored(asking()))
    assert 0 < longer < 60
    assert completions.run(asking("completions.max_new_tokens=40")).counts["asked"] == longer


def test_a_throttled_call_is_asked_again_within_the_run(asking: Settle, url: str):
    behave(url, status=429, share=0.3)
    conf = asking("completions.attempts=8")
    assert completions.run(conf).counts["answered"] == 60
    assert max(row["attempts"] for row in stored(conf)) > 1


def test_too_many_failures_end_the_stage_after_all_answers_are_stored(asking: Settle, url: str):
    behave(url, status=400, share=0.5)
    conf = asking()
    with pytest.raises(
        EndpointError,
        match=r"\d+ of 60 requests failed \(\d+ bad_request\), more than .*max_failed_share = 0.05.*400.*retry=bad_request",
    ):
        completions.run(conf)
    answered = sum(row["completion"] is not None for row in stored(conf))
    assert answered == calls(url)["answered"] > 0


def test_a_wrong_key_stops_the_job_before_it_has_asked_much(asking: Settle, url: str):
    behave(url, status=401)
    conf = asking("completions.in_flight=4")
    with pytest.raises(EndpointError, match="endpoint 'fake' refuses: status 401"):
        completions.run(conf)
    assert calls(url)["calls"] <= 2 * 4
    behave(url)
    counts = completions.run(conf).counts
    assert (counts["answered"], counts["missing"], counts["dead"]) == (60, 0, {})


def test_what_every_request_is_refused_for_ends_the_run_and_each_further_one_until_it_is_mended(
    asking: Settle, url: str
):
    behave(url, status=400)
    conf = asking("completions.in_flight=8")
    for run in (1, 2):
        with pytest.raises(EndpointError) as raised:
            completions.run(conf)
        assert "endpoint 'fake' refuses every request: status 400: told to fail with 400; it was asked for" in str(
            raised.value
        )
        assert f"model 'fake' at {url}; correct [endpoints.fake]: its address, model and key; 0 answers" in str(
            raised.value
        )
        assert calls(url)["calls"] <= run * 2 * 8
    assert {row["error_class"] for row in stored(conf)} == {"refused"}
    behave(url)
    counts = completions.run(conf).counts
    assert (counts["answered"], counts["missing"], counts["dead"]) == (60, 0, {})


def test_a_run_that_leaves_nothing_but_dead_letters_fails_and_so_does_the_next(asking: Settle, url: str):
    behave(url, fault="filtered")
    words = "all 60 requests failed for good .60 filtered. and none is answered.*--set completions.retry=filtered"
    for _ in range(2):
        with pytest.raises(EndpointError, match=words):
            completions.run(asking("completions.max_failed_share=1"))
    assert calls(url)["calls"] == 60
    with pytest.raises(EndpointError, match=r"60 of 60 requests failed \(60 filtered\), more than"):
        completions.run(asking("completions.retry=filtered"))
    assert calls(url)["calls"] == 120


def test_answers_of_which_nobody_says_how_they_ended_are_kept_and_counted(asking: Settle, url: str, caplog):
    body = {"choices": [{"message": {"content": "Yes, it does."}, "finish_reason": None}]}
    behave(url, body=json.dumps(body), share=0.3)
    conf = asking()
    version = completions.run(conf)
    unsure = sum(row["finish_reason"] is None for row in stored(conf))
    assert version.counts["answered"] == 60
    assert version.counts["without_finish_reason"] == unsure > 0
    assert f"{unsure} answers came without a finish_reason" in caplog.text


def test_two_articles_with_the_same_words_are_asked_once(tmp_path, asking: Settle, url: str):
    from conftest import article, write_articles

    same = [article(number, ["The very same passage.", "And one more."]) for number in (1, 2)]
    others = [article(number, [f"Passage {number}."], f"Is it {number}?") for number in range(10, 40)]
    source = write_articles(tmp_path / "source.parquet", same + others)
    conf = asking(f"articles.source={source}")
    assert completions.run(conf).counts["asked"] == 31


def test_without_base_the_error_names_the_stage(settled: Settle):
    with pytest.raises(InputError, match="run `raft-spark base` first"):
        completions.run(settled())


def test_a_key_never_reaches_what_a_run_writes(asking: Settle, url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TEACHER_KEY", "sk-very-secret-7")
    behave(url, key="another", share=1.0)
    conf = asking("endpoints.fake.api_key_env=TEACHER_KEY")
    with pytest.raises(EndpointError) as raised:
        completions.run(conf)
    assert "sk-very-secret-7" not in str(raised.value)
    root = tables.storage(conf.lake, "").root
    import pathlib

    assert not [
        path for path in pathlib.Path(root).rglob("*") if path.is_file() and b"sk-very-secret-7" in path.read_bytes()
    ]
    assert "sk-very-secret-7" not in json.dumps(conf.settings())
