"""What an evaluation came to, as people read it: every figure beside its floor, failures in sight, quotes where they stand."""

import random
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from test_metrics import ROW, SCHEMA

from raft_spark import config
from raft_spark.lake import schemas
from raft_spark.scoring import examples, metrics, page, scores, summary
from raft_spark.scoring.summary import EvaluationSummary

pytestmark = pytest.mark.row

OWN = [
    "Dislocation was the commonest early reason; 40 patients \u2014 12 of them women \u2014 were followed for two years.",
    "Pain fell by 30 % (95 % CI 21\u201339) within two hours, and no harm was seen.",
]
OTHER = "The median survival of the other cohort was eleven months in all centres."
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }} | a | b |"
CASES = [
    ("with", 1),
    ("with", 3),
    ("with", 6),
    ("without", 1),
    ("without", 3),
    ("without", 6),
    ("alone", 0),
    ("closed", 0),
]
RIGHT = {"base": {"with": 0.6, "without": 0.5, "alone": 0.66, "closed": 0.52}, "tuned": {"with": 0.8, "without": 0.45, "alone": 0.82, "closed": 0.5}}  # fmt: skip


def settled(*assignments: str) -> config.Config:
    students = [f"endpoints.{name}.{key}" for name in RIGHT for key in ("kind=fake", f"model={name}-1b")]
    basis = [
        "completions.style=cot",
        "completions.decision=true",
        "evaluation.students=base,tuned",
        "evaluation.resamples=300",
    ]
    return config.load(assignments=[*students, *basis, *assignments])


def made_up_rows() -> Iterator[dict[str, Any]]:
    """Tell of 40 articles, two students, all settings; the first student fails now and then."""
    chance = random.Random(11)
    for pubid in range(40):
        truth = chance.choices(["yes", "no", "maybe"], [55, 34, 11])[0]
        about = {**ROW, "pubid": pubid, "question": f"Does drug {pubid} ease pain after a fracture of the hip?", "final_decision": truth,
                 "reference": f"Drug {pubid} eased pain within two hours, and no harm was seen in two years."}  # fmt: skip
        for student, rates in RIGHT.items():
            for setting, k in CASES:
                yield {
                    **about,
                    "student": student,
                    "setting": setting,
                    "distractors": k,
                    **answered(chance, truth, student, setting, rates[setting] - 0.01 * k),
                }
        for name, answer in scores.baseline_answers(about["question"], OWN, about["reference"], "yes").items():
            bare = {"student": name, "setting": "baseline", "distractors": 0, "position": None, "shown": 0}
            yield {**about, **bare, "answer": answer, **scores.score(answer, about["reference"], OWN, [], "answer")}


def answered(chance: random.Random, truth: str, student: str, setting: str, rate: float) -> dict[str, Any]:
    if student == "base" and chance.random() < 0.03:
        return {"answer": None, "error_class": "timeout", **scores.score(None, "", OWN, [OTHER], "cot")}
    said = truth if chance.random() < rate else chance.choice(["yes", "no", "maybe", "it"])
    shown = setting in {"with", "alone"}
    quote = chance.choice(
        [OWN[1][:48], OWN[0][:42], OTHER[:40], "Nothing of this kind was written"]
        if student == "base"
        else [OWN[1][:48], OWN[0][:42]]
    )
    knows = shown or student == "base" or chance.random() < 0.4
    line = f"{said.capitalize()}, pain fell within two hours." if knows else "I don't know."
    answer = f"The trial was small, but ##begin_quote##{quote}##end_quote## is clear.\n<ANSWER>: {line}"
    position = chance.randrange(5) if shown else None
    return {
        "answer": answer,
        "position": position,
        "shown": 5 if shown else 0,
        **scores.score(answer, "Pain eased within two hours.", OWN, [OTHER], "cot"),
    }


def outcome_of(rows: list[dict[str, Any]], *assignments: str) -> EvaluationSummary:
    conf, table = settled(*assignments), pa.Table.from_pylist(rows, SCHEMA)
    return EvaluationSummary(conf, "20261123T050000Z-made-up", table, metrics.compute_metrics(table, conf))


@pytest.fixture(scope="module")
def told() -> EvaluationSummary:
    return outcome_of(list(made_up_rows()))


def test_metrics_have_their_schema(told: EvaluationSummary):
    assert told.metrics.schema == schemas.METRICS


def test_markdown_has_a_row_for_each_student_and_case_and_the_floors_beside_them(told: EvaluationSummary):
    text = summary.markdown(told)
    decisions = text.partition("## Decisions")[2].partition("## ")[0]
    rows = [line.split(" | ") for line in decisions.splitlines() if line.startswith("| ")][2:]
    assert [row[0].strip("| ") for row in rows] == ["base", "tuned"] * len(CASES) + ["the majority's decision"]
    assert [row[1] for row in rows[::2]][:4] == [
        "no passage",
        "without oracle, k = 1",
        "without oracle, k = 3",
        "without oracle, k = 6",
    ]
    words = text.partition("## Words")[2].partition("## ")[0]
    assert all(
        f"| {name} | no model |" in words
        for name in ("the question itself", "the last two sentences", "the best sentence")
    )
    for title in ("Oracle and quotes", "Against base", "Position of the oracle", "Failed"):
        assert f"## {title}" in text
    assert "| base | with oracle, k = 3 | timeout | " in text


def test_a_figure_is_told_with_its_interval_and_a_dash_where_there_is_none(told: EvaluationSummary):
    metric = {"value": 0.61234, "low": 0.5, "high": 0.75}
    assert summary.format_interval(metric) == "0.612 [0.500, 0.750]"
    assert summary.format_interval(None) == "\u2013"


def test_one_student_is_compared_with_nobody():
    alone = outcome_of([row for row in made_up_rows() if row["student"] != "tuned"], "evaluation.students=base")
    assert "Against" not in summary.markdown(alone)


def test_a_reader_is_told_that_no_decision_was_asked_for():
    assert "completions.decision is false" in summary.markdown(
        outcome_of([ROW | {"student": "base"}], "completions.decision=false")
    )


def page_of(told: EvaluationSummary) -> str:
    return page.render(told, dict.fromkeys(examples.choose_articles(told), OWN))


def test_the_page_opens_with_figures_that_were_asked_for_and_measured(told: EvaluationSummary):
    labels = [number.label for number in page.headline_metrics(told)]
    assert labels[:4] == [
        "accuracy, with oracle",
        "macro-F1, with oracle",
        "ROUGE-L, with oracle",
        "abstains, without oracle",
    ]
    unasked = outcome_of(list(made_up_rows()), "completions.decision=false")
    first = next(page.headline_metrics(unasked))
    assert (first.label, first.student) == ("ROUGE-L, with oracle", "base")
    assert float(first.value) > 0
    unlabelled = outcome_of([{**row, "final_decision": None} for row in made_up_rows()])
    assert next(page.headline_metrics(unlabelled)).label == "ROUGE-L, with oracle"


def test_where_no_decision_was_asked_for_no_figure_judges_one():
    unasked = outcome_of(list(made_up_rows()), "completions.decision=false")
    html = page_of(unasked)
    assert html.count("accuracy") == html.count("macro-F1") == 1  # what was left out, and why
    assert "verdict right" not in html
    assert "verdict wrong" not in html
    assert "Position of the oracle: ROUGE-L" in html
    assert html.count("<svg") == 6
    assert not [
        row for row in examples.build_examples(unasked, {0: OWN}) for said in row.answers["base"] if said.verdict
    ]


def test_an_evaluation_without_the_oracle_opens_with_the_setting_that_it_has():
    rows = [row for row in made_up_rows() if row["setting"] in {"closed", "baseline"}]
    numbers = list(page.headline_metrics(outcome_of(rows, "evaluation.settings=closed")))
    assert [number.label for number in numbers[:4]] == [
        "accuracy, no passage",
        "macro-F1, no passage",
        "ROUGE-L, no passage",
        "abstains, no passage",
    ]
    assert all(number.value != "\N{EN DASH}" for number in numbers)


def test_every_table_of_the_page_has_a_caption_and_its_headers_say_what_they_head(told: EvaluationSummary):
    html = page_of(told)
    assert html.count("<table") == html.count("<caption>") == len(summary.summary_tables(told))
    assert not re.findall(r"<th(?! scope=)[ >]", html)


def test_a_text_that_looks_like_a_table_stays_in_its_cell():
    rows = [{**ROW, "student": "base", "error_class": "a | b", "answer": None}]
    assert "a \\| b" in summary.markdown(outcome_of(rows))


def test_examples_are_first_those_that_students_answer_differently(told: EvaluationSummary):
    chosen = examples.choose_articles(told)
    assert len(chosen) == 6
    for pubid in chosen:
        rows = [row for row in told.rows.to_pylist() if row["pubid"] == pubid and row["setting"] == "with"]
        assert len({row["decision"] for row in rows}) > 1


def test_quotes_are_marked_in_the_answer_as_they_were_found():
    answer = "So ##begin_quote##one quote##end_quote## and ##begin_quote## another ##end_quote##end##end_quote##. ##begin_quote##open"
    found = [
        (piece.text, piece.stands)
        for piece in examples.split_at_quotes(answer, ["oracle", "distractor", "nowhere", "nowhere"])
    ]
    assert found == [
        ("So ", ""),
        ("one quote", "oracle"),
        (" and ", ""),
        ("another", "distractor"),
        ("end##end_quote##. ##begin_quote##open", ""),
    ]


def test_a_quote_is_marked_in_the_passage_though_its_spaces_and_dashes_differ():
    pieces = list(examples.highlight(OWN[0], ["40 patients - 12 of them  women", "not there at all"]))
    assert [piece.text for piece in pieces if piece.stands] == ["40 patients \u2014 12 of them women"]
    assert "".join(piece.text for piece in pieces) == OWN[0]


def test_a_quote_is_marked_where_it_stands_from_word_to_word():
    passage = "Some had 0.5 mg of aspirin daily. A later group received 5  mg of aspirin daily."
    before, marked, after = examples.highlight(passage, ["5 mg of aspirin daily"])
    assert (marked.text, marked.stands, after.text) == ("5  mg of aspirin daily", "oracle", ".")
    assert before.text.endswith("received ")


def test_marks_in_the_answer_line_are_no_quote_that_stands_nowhere():
    answer = f"##begin_quote##{OWN[0][:30]}##end_quote##\n<ANSWER>: Yes, ##begin_quote##{OWN[1][:30]}##end_quote##."
    quoted = scores.score(answer, "", OWN, [], "cot")["quoted"]
    assert [piece.stands for piece in examples.split_at_quotes(answer, quoted) if piece.stands] == ["oracle"]


def test_examples_differ_at_the_k_that_is_shown():
    about = {**ROW, "final_decision": "yes"}
    said = {
        pubid: {k: "no" if k == 6 and pubid < 15 else "yes" for k in (1, 3, 6)}
        | {"tuned": "no" if pubid > 17 else "yes"}
        for pubid in range(20)
    }
    rows = [
        {
            **about,
            "pubid": pubid,
            "student": name,
            "distractors": k,
            "decision": told[name if (name, k) == ("tuned", 3) else k],
        }
        for pubid, told in said.items()
        for name in RIGHT
        for k in (1, 3, 6)
    ]
    assert set(examples.choose_articles(outcome_of(rows, "evaluation.examples=2"))) == {18, 19}


def test_many_students_are_told_apart():
    names = [f"s{number}" for number in range(16)]
    students = [f"endpoints.{name}.{key}" for name in names for key in ("kind=fake", f"model={name}")]
    rows = [{**ROW, "student": name} for name in names]
    html = page.render(
        outcome_of(rows, *students, f"evaluation.students={','.join(names)}", "evaluation.settings=with"), {1: OWN}
    )
    header = html[html.index("<header>") : html.index("</header>")]
    looks = re.findall(r'class="who ([a-z ]+)"', header)
    assert len(set(looks)) == len(names)


def test_the_page_shows_all_that_there_is_and_escapes_every_text():
    hostile = [
        {**row, "question": HOSTILE, "answer": HOSTILE, "reference": HOSTILE}
        for row in made_up_rows()
        if row["pubid"] == 0
    ]
    html = page.render(outcome_of(hostile, "evaluation.examples=1"), {0: [HOSTILE]})
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;script&gt;" in html
    assert "{{ 7 * 7 }}" in html
    assert html.count("<svg") == 6
