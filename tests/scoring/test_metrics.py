"""Metrics computed by hand, and intervals: paired by article, as wide as in theory, independent of the order of rows."""

import random
import statistics
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft_spark import config
from raft_spark.scoring import intervals, metrics
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


def test_citations_are_shares_of_all_citations_and_nothing_where_there_is_none():
    rows = [{**ROW, "citations": 3, "citations_of_oracle": 2}, {**ROW, "pubid": 2, "citations": 1}, {**ROW, "pubid": 3}]
    assert value(measured(rows), "citations_of_oracle") == 0.5
    assert value(measured([ROW]), "citations_of_oracle") is None


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


RANKED = {1: [0, None, None, 0], 3: [0, 2, None, 0]}  # position of the oracle among the k passages, by article


def retrieved(*students: str) -> list[dict[str, Any]]:
    """Return rows of four articles; a student says yes, which is right, and refuses the second article."""
    return [
        {**ROW, "pubid": at, "student": name, "setting": "retrieved", "distractors": k, "position": position}
        | {"abstained": at == 1, "error_class": "timeout" if (at, name) == (3, "plain") else None}
        for name in students
        for k, positions in RANKED.items()
        for at, position in enumerate(positions)
    ]


ASKED = ["evaluation.settings=with,retrieved", "evaluation.distractors=[1, 3]"]


def test_the_retriever_is_measured_by_how_often_and_how_early_it_finds_the_oracle():
    found = measured(retrieved("plain", "tuned"), *ASKED)
    of_retriever = {(key[3], key[5]): row for key, row in found.items() if key[0] == "the retriever"}
    assert {key: row["value"] for key, row in of_retriever.items()} == pytest.approx(
        {(1, "recall"): 0.5, (1, "mrr"): 0.5, (3, "recall"): 0.75, (3, "mrr"): (1 + 1 / 3 + 0 + 1) / 4}
    )
    recall, mrr = of_retriever[3, "recall"], of_retriever[3, "mrr"]
    assert (recall["low"], recall["high"]) == pytest.approx((0.3006, 0.9544), abs=0.0001)  # Wilson's of 3 of 4
    assert 0 < mrr["low"] < mrr["value"] < mrr["high"] <= 1
    assert {key[0] for key in found if key[5] in {"recall", "mrr"}} == {"the retriever"}
    assert "the retriever" not in {key[0] for key in measured([ROW])}


def test_answers_to_what_was_retrieved_are_split_by_whether_the_oracle_was_found():
    found = measured(retrieved("plain", "tuned"), *ASKED)
    refused = {key[3:5]: row["value"] for key, row in found.items() if (key[0], key[5]) == ("tuned", "abstained")}
    assert {at: value for at, value in refused.items() if at[1]} == pytest.approx(
        {(1, "found"): 0, (1, "not found"): 0.5, (3, "found"): 1 / 3, (3, "not found"): 0}
    )
    assert {key[4] for key in measured([ROW])} == {None, *metrics.POSITIONS}


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


def test_no_right_answer_of_48_is_not_an_accuracy_of_exactly_0():
    found = measured(many(0, articles=48) + many(0, "tuned", articles=48))
    row = found["plain", None, "with", 3, None, "accuracy"]
    assert (row["value"], row["low"], row["high"]) == (0, 0, pytest.approx(0.0741, abs=0.0001))
    less = found["tuned", "plain", "with", 3, None, "accuracy"]
    assert (less["value"], less["low"], less["high"]) == pytest.approx((0, -0.0554, 0.0554), abs=0.0001)
    assert (less["p"], less["p_holm"]) == (1, 1)


def test_a_difference_is_that_of_the_same_articles():
    found = measured(many(0.3) + many(0.35, "tuned"))
    row = found["tuned", "plain", "with", 3, None, "accuracy"]
    assert row["value"] == pytest.approx(0.05)
    # 20 of 400 articles differ, all the same way: 20 / 402, and the root of 22 / 402 - (20 / 402)^2 over 402
    assert (row["low"], row["high"]) == pytest.approx((0.0274, 0.0721), abs=0.0001)
    assert row["p"] == pytest.approx(1.3e-5, rel=0.05)  # 0.04975 / 0.01140 = 4.364
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


def lost(name: str, alone: list[float], shown: list[float]) -> list[dict[str, Any]]:
    """Return rows of a student with these ROUGE-L with the oracle alone, and with three distractors."""
    by_setting = {("alone", 0): alone, ("with", 3): shown}
    return [
        {**ROW, "pubid": at, "student": name, "setting": setting, "distractors": k, "rouge_l": value}
        for (setting, k), values in by_setting.items()
        for at, value in enumerate(values)
    ]


def test_what_distractors_cost_is_measured_on_the_same_articles():
    found = measured(lost("plain", [0.9, 0.5, 0.7], [0.8, 0.4, 0.6]) + lost("tuned", [0.6, 0.5, 0.7], [0.6, 0.5, 0.7]))
    plain = found["plain", None, "with", 3, None, "rouge_l_lost"]
    assert (plain["value"], plain["low"], plain["high"]) == pytest.approx((0.1, 0.1, 0.1))  # the same for each article
    assert found["tuned", "plain", "with", 3, None, "rouge_l_lost"]["value"] == pytest.approx(-0.1)
    assert found["plain", None, "with", 3, None, "accuracy_lost"]["value"] == 0
    assert not [key for key in found if key[2] == "alone" and key[5].endswith("_lost")]
    alone = measured(lost("plain", [0.9], [0.8]), "evaluation.students=plain", "evaluation.settings=with")
    assert not [key for key in alone if key[5].endswith("_lost")]


shares = st.lists(st.floats(0, 1), min_size=3, max_size=3)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(shares, shares), min_size=2, max_size=3))
def test_the_loss_of_a_recipe_is_that_of_plain_loops(trainings: list[tuple[list[float], list[float]]]):
    names = [f"s{number}" for number in range(len(trainings))]
    rows = [row for name, values in zip(names, trainings, strict=True) for row in lost(name, *values)]
    students = [f"endpoints.{name}.{each}" for name in names for each in ("kind=fake", f"model={name}")]
    listed = f"[{', '.join(map(repr, names))}]"
    row = measured(rows, *students, f"evaluation.students={listed}", f"evaluation.recipes.raft={listed}")[
        "raft", None, "with", 3, None, "rouge_l_lost"
    ]
    counts, weights = metrics.resample_counts(3, 500, 0), intervals.seed_weights(500, len(trainings), 0, 0)
    resampled = []
    for times, weigh in zip(counts, weights[1:], strict=True):
        of_each = [
            sum(times[at] * (alone[at] - shown[at]) for at in range(3)) / 3 * weigh[number]
            for number, (alone, shown) in enumerate(trainings)
        ]
        resampled.append(sum(of_each) / len(of_each))
    value = sum(sum(alone) - sum(shown) for alone, shown in trainings) / 3 / len(trainings)
    half = 1.959964 * statistics.pstdev(resampled)
    assert (row["value"], row["low"], row["high"]) == pytest.approx((value, value - half, value + half), abs=1e-6)
    assert row["seeds"] == len(trainings)


def recipes(*rates: float) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Return the metrics of the recipes `a`, whose three students are right at 0.3, and `b`, at these rates."""
    by_student = {"a1": 0.3, "a2": 0.3, "a3": 0.3} | {f"b{number}": rate for number, rate in enumerate(rates)}
    students = [f"endpoints.{name}.{each}" for name in by_student for each in ("kind=fake", f"model={name}")]
    names = {"a": [name for name in by_student if name[0] == "a"], "b": [name for name in by_student if name[0] == "b"]}
    return measured(
        [row for name, rate in by_student.items() for row in many(rate, name)],
        *students,
        f"evaluation.students={[*by_student]}",
        *(f"evaluation.recipes.{name}={students}" for name, students in names.items()),
    )


def test_a_difference_of_recipes_is_one_of_their_trainings_not_of_weights_that_happened_to_be_good():
    steady, lucky = recipes(0.4, 0.4, 0.4), recipes(0.3, 0.3, 0.6)
    key = ("b", "a", "with", 3, None, "accuracy")
    assert [found[key]["value"] for found in (steady, lucky)] == pytest.approx([0.1, 0.1])
    assert steady[key]["low"] > 0
    assert lucky[key]["low"] < -0.3  # between trainings: 4.303 * 0.173 / sqrt(3) = 0.43
    assert lucky["b2", "a1", "with", 3, None, "accuracy"]["low"] > 0.2
    assert steady[key]["p_holm"] < 0.05 < lucky[key]["p_holm"]


def test_p_values_are_corrected_for_all_comparisons_of_a_metric():
    rows = many(0.3) + many(0.31, "tuned") + many(0.5, "late")
    twice = rows + [{**row, "distractors": 1} for row in rows]
    found = measured(
        twice, "endpoints.late.kind=fake", "endpoints.late.model=late", "evaluation.students=plain,tuned,late"
    )
    p = {key[:4]: row for key, row in found.items() if key[1] and key[5] == "accuracy"}
    assert len(p) == 6  # three pairs at two k
    small = p["tuned", "plain", "with", 3]
    assert small["p"] == pytest.approx(
        0.1013, abs=0.0001
    )  # 4 of 400: 4 / 402 by the root of 6 / 402 - (4 / 402)^2 over 402 is 1.6385
    assert small["p_holm"] == pytest.approx(2 * small["p"])  # the two largest of six
    assert all(row["p_holm"] < 1e-9 for key, row in p.items() if key[0] == "late")
    assert {row["p_holm"] for key, row in found.items() if not key[1] and not key[5].endswith("_lost")} == {None}


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
        *(("the question itself", name) for name in ("bleu", "chrf", "rouge_l", "squad_f1", "token_f1")),
    ]
