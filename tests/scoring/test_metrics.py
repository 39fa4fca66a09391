"""Metrics computed by hand, and intervals: paired by article, as wide as in theory, independent of the order of rows."""

import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raft_spark import config
from raft_spark.scoring import metrics
from support.scored_rows import ROW, SCHEMA

pytestmark = pytest.mark.row


def measured(rows: list[dict[str, Any]], *assignments: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    students = [
        "endpoints.plain.kind=fake",
        "endpoints.plain.model=plain",
        "endpoints.tuned.kind=fake",
        "endpoints.tuned.model=tuned",
    ]
    conf = config.load(
        assignments=[*students, "evaluation.students=plain,tuned", "evaluation.resamples=500", *assignments]
    )
    found = metrics.compute_metrics(pa.Table.from_pylist(rows, SCHEMA), conf).to_pylist()
    names = ("student", "against", "setting", "distractors", "place", "figure")
    return {tuple(row[name] for name in names): row for row in found}


def value(found: dict[tuple[Any, ...], dict[str, Any]], name: str, student: str = "plain") -> float | None:
    return found[student, None, "with", 3, None, name]["value"]


def decided(truths: list[str], decisions: list[str | None]) -> dict[tuple[Any, ...], dict[str, Any]]:
    pairs = enumerate(zip(truths, decisions, strict=True))
    return measured(
        [{**ROW, "pubid": at, "final_decision": truth, "decision": decision} for at, (truth, decision) in pairs]
    )


def test_macro_f1_is_the_mean_of_the_labels_that_occur():
    found = decided(["yes", "yes", "yes", "no"], ["yes", "yes", "no", None])
    assert value(found, "accuracy") == 0.5
    assert value(found, "macro_f1") == pytest.approx(
        (2 * 2 / (3 + 2) + 0) / 2
    )  # yes: 2 of 3, 2 said; no: none of 1, 1 said
    assert value(found, "decided") == 0.75


def test_the_majority_of_pubmedqas_test_split_gets_what_is_known_of_it():
    found = decided(["yes"] * 276 + ["no"] * 169 + ["maybe"] * 55, ["yes"] * 500)
    assert value(found, "accuracy") == pytest.approx(0.552)
    assert value(found, "macro_f1") == pytest.approx(0.237, abs=0.0005)


def test_a_failed_request_and_one_without_a_decision_are_wrong_and_an_article_without_a_label_is_left_out():
    rows = [
        ROW,
        {**ROW, "pubid": 2, "answer": None, "error_class": "timeout", "decision": None},
        {**ROW, "pubid": 3, "decision": None},
        {**ROW, "pubid": 4, "final_decision": None, "decision": None},
    ]
    found = measured(rows)
    assert value(found, "accuracy") == pytest.approx(1 / 3)
    assert value(found, "failed") == 0.25


def test_quotes_are_shares_of_all_quotes_and_nothing_where_there_is_none():
    rows = [
        {**ROW, "quotes": 3, "quotes_of_oracle": 2, "quotes_of_distractors": 1},
        {**ROW, "pubid": 2, "quotes": 1},
        {**ROW, "pubid": 3},
    ]
    found = measured(rows)
    assert value(found, "quotes_of_oracle") == 0.5
    assert value(found, "quotes_of_distractors") == 0.25
    assert value(found, "quoting") == pytest.approx(2 / 3)
    assert value(measured([ROW]), "quotes_of_oracle") is None


def test_the_place_of_the_oracle_is_that_of_its_first_passage():
    at = [0, 0, 1, 5, 2, None]
    rows = [{**ROW, "pubid": pubid, "position": place, "rouge_l": pubid / 10} for pubid, place in enumerate(at)]
    found = measured(rows)
    by_place = {
        key[4]: row["value"] for key, row in found.items() if key[5] == "rouge_l" and key[4] and key[0] == "plain"
    }
    assert by_place == pytest.approx({"first": 0.05, "second": 0.2, "third or later": 0.35})
    easier = [{**row, "distractors": 1, "rouge_l": 1.0} for row in rows]
    both = measured(rows + easier, "evaluation.distractors=1,3,6")
    assert {key: row["value"] for key, row in both.items() if key[4]} == {
        key: row["value"] for key, row in found.items() if key[4]
    }  # of base's k alone: with fewer distractors the oracle stands first more often


def test_an_article_without_an_answer_of_its_own_is_left_out_of_words_and_a_failure_is_not():
    none = [{**ROW, "pubid": 2, "reference": reference} for reference in (None, " ")]
    failed = {**ROW, "pubid": 3, "answer": None, "error_class": "timeout"}
    found = measured([{**ROW, "rouge_l": 0.5, "bleu": 0.25}, *none, failed])
    assert (value(found, "rouge_l"), value(found, "bleu")) == (0.25, 0.125)
    assert value(measured(none), "token_f1") is None


def many(rate: float, student: str = "plain", articles: int = 400) -> list[dict[str, Any]]:
    return [
        {**ROW, "pubid": at, "student": student, "decision": "yes" if at < rate * articles else "no"}
        for at in range(articles)
    ]


def test_an_interval_is_as_wide_as_theory_says():
    row = measured(many(0.3), "evaluation.resamples=4000")["plain", None, "with", 3, None, "accuracy"]
    half = 1.96 * np.sqrt(0.3 * 0.7 / 400)
    assert (row["low"], row["high"]) == pytest.approx((0.3 - half, 0.3 + half), abs=0.005)


def test_a_difference_is_that_of_the_same_articles():
    found = measured(many(0.3) + many(0.35, "tuned"))
    row = found["tuned", "plain", "with", 3, None, "accuracy"]
    assert row["value"] == pytest.approx(0.05)
    assert (
        0.025 < row["low"] < row["high"] < 0.075
    )  # 20 of 400 articles differ, all the same way: 1.96 * sqrt(.05 * .95 / 400)
    same = measured(many(0.3) + many(0.3, "tuned"))["tuned", "plain", "with", 3, None, "macro_f1"]
    assert (same["value"], same["low"], same["high"]) == (0, 0, 0)


def test_each_student_is_compared_with_each_that_is_named_before_it():
    found = measured(
        many(0.3) + many(0.35, "tuned") + many(0.45, "late"),
        "endpoints.late.kind=fake",
        "endpoints.late.model=late",
        "evaluation.students=plain,tuned,late",
    )
    less = {key[:2]: row["value"] for key, row in found.items() if key[1] and key[5] == "accuracy"}
    assert less == pytest.approx({("tuned", "plain"): 0.05, ("late", "plain"): 0.15, ("late", "tuned"): 0.10})


def test_every_resample_has_as_many_articles_and_another_seed_other_ones():
    drawn = metrics.resample_counts(50, 200, 0)
    assert (drawn.sum(axis=1) == 50).all()
    assert drawn.mean(axis=0).std() < 0.2
    assert (drawn == metrics.resample_counts(50, 200, 0)).all()
    assert (drawn != metrics.resample_counts(50, 200, 1)).any()


def test_the_order_of_rows_changes_nothing():
    rows = [{**row, "rouge_l": row["pubid"] / 400} for row in many(0.3) + many(0.35, "tuned")]
    assert measured(rows) == measured(random.Random(3).sample(rows, len(rows)))


def test_what_needs_no_model_is_measured_by_what_it_can_be_compared_in():
    bare = {**ROW, "setting": "baseline", "distractors": 0, "position": None, "shown": 0}
    rows = [ROW, {**bare, "student": "the question itself"}, {**bare, "student": "the majority's decision"}]
    computed = [(key[0], key[5]) for key in measured(rows) if key[2] == "baseline"]
    assert sorted(computed) == [
        ("the majority's decision", "accuracy"),
        ("the majority's decision", "macro_f1"),
        *(("the question itself", name) for name in ("bleu", "chrf", "rouge_l", "token_f1")),
    ]
