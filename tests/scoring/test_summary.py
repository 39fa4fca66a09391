"""The summary of an evaluation and its page: metrics next to baselines, failures counted, quotes marked."""

import re
from typing import Any

import pytest

from raft_spark.lake import schemas
from raft_spark.scoring import examples, page, scores, summary
from raft_spark.scoring.summary import EvaluationSummary
from support.scored_rows import ACCURACIES, CONDITIONS, PASSAGES, ROW, scored_rows, summary_of

pytestmark = pytest.mark.row

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }} | a | b |"


@pytest.fixture(scope="module")
def evaluation() -> EvaluationSummary:
    return summary_of(list(scored_rows()))


def test_metrics_have_their_schema(evaluation: EvaluationSummary):
    assert evaluation.metrics.schema == schemas.METRICS


def test_markdown_has_a_row_for_each_student_and_case_and_the_baselines(evaluation: EvaluationSummary):
    text = summary.markdown(evaluation)
    decisions = text.partition("## Decisions")[2].partition("## ")[0]
    rows = [line.split(" | ") for line in decisions.splitlines() if line.startswith("| ")][2:]
    assert [row[0].strip("| ") for row in rows] == ["base", "tuned"] * len(CONDITIONS) + ["the majority's decision"]
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


def test_a_metric_has_its_interval_and_a_missing_one_is_a_dash(evaluation: EvaluationSummary):
    metric = {"value": 0.61234, "low": 0.5, "high": 0.75}
    assert summary.format_interval(metric) == "0.612 [0.500, 0.750]"
    assert summary.format_interval(None) == "\u2013"
    assert summary.format_interval({"value": -1e-9, "low": -0.1, "high": 0.1}, 2) == "0.00 [-0.10, 0.10]"


def test_a_difference_that_holds_after_the_correction_has_a_star():
    metric = {"value": 0.1, "low": 0.02, "high": 0.18, "p": 0.01}
    assert summary.format_interval({**metric, "p_holm": 0.0}) == "0.100 [0.020, 0.180] *"
    assert summary.format_interval({**metric, "p_holm": 0.06}) == "0.100 [0.020, 0.180]"
    rows = [
        {**ROW, "pubid": at, "student": name, "decision": {"base": "no", "tuned": "yes"}[name]}
        for name in ACCURACIES
        for at in range(40)
    ]
    text = summary.markdown(summary_of(rows))
    assert "Holm's correction" in text
    row = next(line for line in text.partition("## Against base")[2].splitlines() if line.startswith("| tuned"))
    assert row.startswith(
        "| tuned | with oracle, k = 3 | 1.000 [0.860, 1.000] * | 1.000 [1.000, 1.000] * | 0.000 [0.000, 0.000] |"
    )


def test_what_is_lost_to_distractors_has_a_table_and_a_chart(evaluation: EvaluationSummary):
    lost = summary.markdown(evaluation).partition("## Lost to distractors")[2].partition("## ")[0]
    rows = [line.split(" | ")[:2] for line in lost.splitlines() if line.startswith(("| base", "| tuned"))]
    assert rows == [[f"| {name}", f"with oracle, k = {k}"] for k in (1, 3, 6) for name in ("base", "tuned")]
    assert "| student | setting | accuracy lost | ROUGE-L lost | token F1 lost |" in lost
    assert "Lost to distractors, chart" in page_of(evaluation)
    unasked = summary.markdown(summary_of(list(scored_rows()), "completions.decision=false"))
    assert "| student | setting | ROUGE-L lost | token F1 lost |" in unasked
    without = [row for row in scored_rows() if row["setting"] != "alone"]
    some = summary_of(without, "evaluation.settings=with,without,closed")
    assert "lost" not in summary.markdown(some).lower()
    assert "Lost to distractors" not in page_of(some)


def retrieved_rows() -> list[dict[str, Any]]:
    """Return the rows of `with` again, as if their passages had been retrieved; the oracle of every fourth was not found."""
    return [
        {**row, "setting": "retrieved", "position": row["position"] if row["pubid"] % 4 else None}
        for row in scored_rows()
        if row["setting"] == "with"
    ]


def test_what_was_retrieved_has_tables_of_the_retriever_and_of_whether_the_oracle_was_found(
    evaluation: EvaluationSummary,
):
    asked = "evaluation.settings=with,without,retrieved,alone,closed"
    told = summary_of([*scored_rows(), *retrieved_rows()], asked)
    text = summary.markdown(told)
    retriever = text.partition("## Retriever")[2].partition("## ")[0]
    assert "| k | recall@k | MRR@k |" in retriever
    assert [line[:14] for line in retriever.splitlines() if line.startswith("| ")][2:] == [
        f"| {k} | 0.750 [0" for k in (1, 3, 6)
    ]
    found = text.partition("## Oracle found or not")[2].partition("## ")[0]
    rows = [line.split(" | ")[:3] for line in found.splitlines() if line.startswith(("| base", "| tuned"))]
    assert rows == [
        [f"| {name}", f"retrieved, k = {k}", place]
        for k in (1, 3, 6)
        for name in ("base", "tuned")
        for place in ("found", "not found")
    ]
    assert "| base | retrieved, k = 3 | timeout | " in text
    html = page_of(told)
    assert "tuned, retrieved" in html
    assert "recall@k" in html
    unasked = summary.markdown(evaluation)
    assert "etrieve" not in unasked
    assert "found or not" not in unasked


def test_an_evaluation_of_what_was_retrieved_alone_has_a_page():
    rows = [*retrieved_rows(), *(row for row in scored_rows() if row["setting"] == "baseline")]
    told = summary_of(rows, "evaluation.settings=retrieved")
    assert next(page.headline_metrics(told)).label == "accuracy, retrieved"
    assert "Robustness over k, chart" in page_of(told)


def test_recipes_are_told_of_with_their_number_of_seeds():
    three = {"base": "plain", "tuned": "raft", "again": "raft"}
    rows = [{**row, "student": "again"} for row in scored_rows() if row["student"] == "tuned"]
    told = summary_of(
        [*scored_rows(), *rows],
        "endpoints.again.kind=fake",
        "endpoints.again.model=again",
        f"evaluation.students={[*three]}",
        *(
            f"evaluation.recipes.{recipe}={[name for name in three if three[name] == recipe]}"
            for recipe in ("plain", "raft")
        ),
    )
    text = summary.markdown(told)
    assert "(plain: 1, raft: 2)" in text.partition("## Recipes")[2]
    assert "| raft | with oracle, k = 3 | " in text.partition("## Against plain")[2].partition("## ")[0]
    assert "Recipes, over their seeds, chart" in page_of(told)
    assert "## Recipes" not in summary.markdown(summary_of(list(scored_rows())))


def test_one_student_is_compared_with_nobody():
    alone = summary_of([row for row in scored_rows() if row["student"] != "tuned"], "evaluation.students=base")
    assert "Against" not in summary.markdown(alone)


def test_the_summary_says_that_no_decision_was_asked_for():
    assert "completions.decision is false" in summary.markdown(
        summary_of([ROW | {"student": "base"}], "completions.decision=false")
    )


def page_of(evaluation: EvaluationSummary) -> str:
    return page.render(evaluation, dict.fromkeys(examples.choose_articles(evaluation), PASSAGES))


def test_citations_have_a_column_if_students_may_cite():
    rows = [{**ROW, "student": name, "citations": 2, "citations_of_oracle": 1} for name in ACCURACIES]
    title = "citations that name the oracle"
    assert title not in summary.markdown(summary_of(rows))
    text = summary.markdown(summary_of(rows, "completions.passage_marks=numbers"))
    header, _, *lines = [
        line.split(" | ") for line in text.partition("## Oracle and quotes")[2].splitlines() if "|" in line
    ]
    assert lines[0][header.index(title)].startswith("0.500 [")


def test_the_page_opens_with_metrics_that_have_a_value(evaluation: EvaluationSummary):
    labels = [headline.label for headline in page.headline_metrics(evaluation)]
    assert labels[:4] == [
        "accuracy, with oracle",
        "macro-F1, with oracle",
        "ROUGE-L, with oracle",
        "abstains, without oracle",
    ]
    unasked = summary_of(list(scored_rows()), "completions.decision=false")
    first = next(page.headline_metrics(unasked))
    assert (first.label, first.student) == ("ROUGE-L, with oracle", "base")
    assert float(first.value) > 0
    unlabelled = summary_of([{**row, "final_decision": None} for row in scored_rows()])
    assert next(page.headline_metrics(unlabelled)).label == "ROUGE-L, with oracle"


def test_where_no_decision_was_asked_for_no_metric_judges_one():
    unasked = summary_of(list(scored_rows()), "completions.decision=false")
    html = page_of(unasked)
    assert html.count("accuracy") == html.count("macro-F1") == 1  # what was left out, and why
    assert "verdict right" not in html
    assert "verdict wrong" not in html
    assert "Position of the oracle: ROUGE-L" in html
    assert html.count("<svg") == 7
    assert not [
        row
        for row in examples.build_examples(unasked, {0: PASSAGES})
        for answer in row.answers["base"]
        if answer.verdict
    ]


def test_an_evaluation_without_the_oracle_opens_with_the_setting_that_it_has():
    rows = [row for row in scored_rows() if row["setting"] in {"closed", "baseline"}]
    headlines = list(page.headline_metrics(summary_of(rows, "evaluation.settings=closed")))
    assert [headline.label for headline in headlines[:4]] == [
        "accuracy, no passage",
        "macro-F1, no passage",
        "ROUGE-L, no passage",
        "abstains, no passage",
    ]
    assert all(headline.value != "\N{EN DASH}" for headline in headlines)


def test_every_table_of_the_page_has_a_caption_and_its_headers_say_what_they_head(evaluation: EvaluationSummary):
    html = page_of(evaluation)
    assert html.count("<table") == html.count("<caption>") == len(summary.summary_tables(evaluation))
    assert not re.findall(r"<th(?! scope=)[ >]", html)


def test_a_text_that_looks_like_a_table_stays_in_its_cell():
    rows = [{**ROW, "student": "base", "error_class": "a | b", "answer": None}]
    assert "a \\| b" in summary.markdown(summary_of(rows))


def test_examples_are_first_those_that_students_answer_differently(evaluation: EvaluationSummary):
    chosen = examples.choose_articles(evaluation)
    assert len(chosen) == 6
    for pubid in chosen:
        rows = [row for row in evaluation.rows.to_pylist() if row["pubid"] == pubid and row["setting"] == "with"]
        assert len({row["decision"] for row in rows}) > 1


def test_quotes_are_marked_in_the_answer_as_they_were_found():
    answer = "So ##begin_quote##one quote##end_quote## and ##begin_quote## another ##end_quote##end##end_quote##. ##begin_quote##open"
    found = [
        (span.text, span.source)
        for span in examples.split_at_quotes(answer, ["oracle", "distractor", "nowhere", "nowhere"])
    ]
    assert found == [
        ("So ", ""),
        ("one quote", "oracle"),
        (" and ", ""),
        ("another", "distractor"),
        ("end##end_quote##. ##begin_quote##open", ""),
    ]


def test_a_quote_is_marked_in_the_passage_though_its_spaces_and_dashes_differ():
    spans = list(examples.highlight(PASSAGES[0], ["40 patients - 12 of them  women", "not there at all"]))
    assert [span.text for span in spans if span.source] == ["40 patients \u2014 12 of them women"]
    assert "".join(span.text for span in spans) == PASSAGES[0]


def test_a_quote_is_marked_where_it_occurs_from_word_to_word():
    passage = "Some had 0.5 mg of aspirin daily. A later group received 5  mg of aspirin daily."
    before, marked, after = examples.highlight(passage, ["5 mg of aspirin daily"])
    assert (marked.text, marked.source, after.text) == ("5  mg of aspirin daily", "oracle", ".")
    assert before.text.endswith("received ")


def test_marks_in_the_answer_line_are_no_quote_that_is_found_nowhere():
    answer = f"##begin_quote##{PASSAGES[0][:30]}##end_quote##\n<ANSWER>: Yes, ##begin_quote##{PASSAGES[1][:30]}##end_quote##."
    quoted = scores.score(answer, "", PASSAGES, [], "cot")["quoted"]
    assert [span.source for span in examples.split_at_quotes(answer, quoted) if span.source] == ["oracle"]


def test_examples_differ_at_the_k_that_is_shown():
    about = {**ROW, "final_decision": "yes"}
    decisions = {
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
            "decision": by_prompt[name if (name, k) == ("tuned", 3) else k],
        }
        for pubid, by_prompt in decisions.items()
        for name in ACCURACIES
        for k in (1, 3, 6)
    ]
    assert set(examples.choose_articles(summary_of(rows, "evaluation.examples=2"))) == {18, 19}


def test_many_students_are_told_apart():
    names = [f"s{number}" for number in range(16)]
    students = [f"endpoints.{name}.{key}" for name in names for key in ("kind=fake", f"model={name}")]
    rows = [{**ROW, "student": name} for name in names]
    html = page.render(
        summary_of(rows, *students, f"evaluation.students={','.join(names)}", "evaluation.settings=with"), {1: PASSAGES}
    )
    header = html[html.index("<header>") : html.index("</header>")]
    looks = re.findall(r'class="who ([a-z ]+)"', header)
    assert len(set(looks)) == len(names)


def test_the_page_shows_all_that_there_is_and_escapes_every_text():
    hostile = [
        {**row, "question": HOSTILE, "answer": HOSTILE, "reference": HOSTILE}
        for row in scored_rows()
        if row["pubid"] == 0
    ]
    html = page.render(summary_of(hostile, "evaluation.examples=1"), {0: [HOSTILE]})
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;script&gt;" in html
    assert "{{ 7 * 7 }}" in html
    assert html.count("<svg") == 7
