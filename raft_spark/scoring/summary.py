"""Make the tables of an evaluation for people, as Markdown and for the page: each student, setting and k, and the baselines."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from raft_spark import config
from raft_spark.scoring import conditions, scores
from raft_spark.scoring.metrics import BASELINE, DECISION_METRICS, OVERLAP_METRICS, POSITION_METRICS, POSITIONS

DASH = "\N{EN DASH}"  # for a missing value
METRIC_TITLES = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "decided": "says yes, no or maybe",
    "token_f1": "token F1",
    "rouge_l": "ROUGE-L",
    "bleu": "BLEU",
    "chrf": "chrF",
    "abstained": "abstains",
    "quoting": "answers with a quote",
    "quotes_of_oracle": "quotes in the oracle",
    "quotes_of_distractors": "quotes in a distractor",
    "faithfulness": "faithfulness",
    "relevance": "relevance",
    "unjudged": "not judged",
    "cut": "cut",
    "failed": "failed",
}
SETTING_TITLES = {"closed": "no passage", "without": "without oracle", "with": "with oracle", "alone": "oracle alone"}
TABLES: Mapping[str, tuple[Sequence[str], str]] = {
    "Decisions": (
        (*DECISION_METRICS, "decided"),
        (
            "The yes, no or maybe at the start of the answer, compared with final_decision (PubMedQA's measures). A missing answer, "
            "or one that says none of the three, counts as wrong."
        ),
    ),
    "Words": (
        OVERLAP_METRICS,
        (
            "The answer compared with the article's own long_answer; articles without one are left out. The best sentence of the "
            "oracle is chosen by that comparison, so it is an upper bound for copying and no baseline."
        ),
    ),
    "Oracle and quotes": (
        ("abstained", "quoting", "quotes_of_oracle", "quotes_of_distractors", "cut", "failed"),
        (
            "Abstaining is right without the oracle and wrong with it. A quote is found if it occurs word for word; the shares are "
            "of all quotes. A quote that is neither in the oracle nor in a distractor is invented."
        ),
    ),
}
JUDGE_CAPTION = (
    "As in ragas. Faithfulness: the share of an answer's statements that follow from the passages shown. Relevance: how similar the "
    "question is, by chrF, to the questions that the answer would answer. The last column counts the answers for which the judge did "
    "not keep to the requested form; no other figure includes them."
)
COMPARED_METRICS = ("accuracy", "macro_f1", "token_f1", "rouge_l", "abstained", "quotes_of_oracle")
Metric = Mapping[str, Any]  # a row of schemas.METRICS


@dataclass(frozen=True)
class SummaryTable:
    """A table with a title and a text that explains how to read it."""

    title: str
    said: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class EvaluationSummary:
    """What an evaluation came to: the scored `rows` (schemas.EVALUATION) and the `metrics` made of them (schemas.METRICS)."""

    conf: config.Config
    version: str
    rows: pa.Table
    metrics: pa.Table

    @cached_property
    def found(self) -> Mapping[tuple[Any, ...], Metric]:
        """Return the metrics by student, against, setting, k, place and figure; None for what a row has not."""
        names = ("student", "against", "setting", "distractors", "place", "figure")
        return {tuple(row[name] for name in names): row for row in self.metrics.to_pylist()}

    def metric(
        self, student: str, case: conditions.Condition, figure: str, against: str | None = None
    ) -> Metric | None:
        """Return one figure with its interval, None where there is nothing it is made of."""
        row = self.found.get((student, against, case.setting, case.distractors, None, figure))
        return row if row and row["value"] is not None else None

    def placed(self, student: str, place: str, figure: str) -> Metric | None:
        """Return a figure of the answers for which the oracle stood there."""
        row = self.found.get((student, None, "with", self.k, place, figure))
        return row if row and row["value"] is not None else None

    @property
    def students(self) -> Sequence[str]:
        """Return the students, the first one first."""
        return self.conf.evaluation.students

    @property
    def k(self) -> int:
        """Return the k that settings are compared at."""
        return conditions.comparison_k(self.conf)

    @property
    def asked(self) -> list[conditions.Condition]:
        """Return what was asked with, from no passage to the oracle alone, k ascending."""
        order = list(SETTING_TITLES)
        return sorted(
            conditions.all_conditions(self.conf.evaluation),
            key=lambda case: (order.index(case.setting), case.distractors),
        )

    @property
    def compared(self) -> list[conditions.Condition]:
        """Return each setting once, at `k` where it has one."""
        return [case for case in self.asked if case.distractors in {0, self.k}]

    @property
    def main(self) -> conditions.Condition:
        """Return the setting that a reader sees first: the oracle among distractors, if it was asked with."""
        among = conditions.Condition("with", self.k)
        return among if among in self.compared else self.compared[-1]

    @property
    def main_figures(self) -> list[str]:
        """Return the figures that a reader sees first: those that were asked for and measured."""
        names = (*(DECISION_METRICS if self.conf.completions.decision else ()), "rouge_l", "token_f1", "bleu", "chrf")
        pairs = [(student, case) for student in self.students for case in self.asked]
        return [name for name in names if any(self.metric(*pair, name) for pair in pairs)]

    def without_unasked(self, names: Sequence[str]) -> list[str]:
        """Leave out the figures about decisions where no decision was asked for."""
        return [name for name in names if self.conf.completions.decision or name not in DECISION_METRICS]

    @property
    def articles(self) -> int:
        """Return how many articles were asked about."""
        return max(self.metrics["articles"].to_pylist(), default=0)

    def failures(self) -> Counter[tuple[str, str, int, str]]:
        """Count the answers that never came: by student, setting, k and class."""
        names = ("student", "setting", "distractors", "error_class")
        rows = self.rows.select(names).filter(self.rows["error_class"].is_valid()).to_pylist()
        return Counter(tuple(row[name] for name in names) for row in rows)


def label(case: conditions.Condition) -> str:
    """Say what a question was asked with."""
    return SETTING_TITLES[case.setting] + (f", k = {case.distractors}" if case.distractors else "")


def markdown(told: EvaluationSummary) -> str:
    """Return the outcome as one Markdown text."""
    lines = [f"# Evaluation {told.version}", "", *introduction(told), ""]
    for sheet in summary_tables(told):
        rows = [sheet.head, ["---"] * len(sheet.head), *sheet.rows]
        lines += [
            f"## {sheet.title}",
            "",
            sheet.said,
            "",
            *("| " + " | ".join(map(_escape_cell, row)) + " |" for row in rows),
            "",
        ]
    return "\n".join(lines)


def introduction(told: EvaluationSummary) -> Iterator[str]:
    """Yield what a reader has to know first."""
    teacher, models = told.conf.completions, {name: told.conf.endpoints[name].model for name in told.students}
    yield f"{told.articles} articles of the test split. Students: {', '.join(f'{name} ({model})' for name, model in models.items())}."
    yield (
        f"Brackets: 95 % intervals from {told.conf.evaluation.resamples} resamples of the articles, the same for every figure. A request "
        "that failed counts as a wrong answer with score 0."
    )
    if not teacher.decision:
        yield (
            "completions.decision is false: students were not asked to begin with yes, no or maybe, so accuracy and macro-F1 are "
            "left out here. The folder metrics/ has them."
        )


def summary_tables(told: EvaluationSummary) -> list[SummaryTable]:
    """Return all tables that have a row."""
    asked = {title: sheet for title, sheet in TABLES.items() if told.conf.completions.decision or title != "Decisions"}
    found = [_metrics_table(told, title, names, said) for title, (names, said) in asked.items()]
    if told.conf.evaluation.judge:
        found.append(
            _metrics_table(
                told, f"As judged by {told.conf.evaluation.judge}", (*scores.JUDGED, "unjudged"), JUDGE_CAPTION
            )
        )
    found += [_differences_table(told, other) for other in told.students]
    return [sheet for sheet in (*found, _positions_table(told), _failures_table(told)) if sheet.rows]


def _metrics_table(told: EvaluationSummary, title: str, names: Sequence[str], said: str) -> SummaryTable:
    rows = [
        [student, label(case), *_format_cells(told, student, case, names)]
        for case in told.asked
        for student in told.students
    ]
    for baseline in (scores.MAJORITY, scores.QUESTION, scores.LAST_SENTENCES, scores.BEST_SENTENCE):
        cells = _format_cells(told, baseline, conditions.Condition(BASELINE, 0), names)
        rows += [[baseline, "no model", *cells]] if set(cells) != {DASH} else []
    return SummaryTable(title, said, ["student", "setting", *(METRIC_TITLES[name] for name in names)], rows)


def _format_cells(
    told: EvaluationSummary, student: str, case: conditions.Condition, names: Sequence[str], against: str | None = None
) -> list[str]:
    return [format_interval(told.metric(student, case, name, against)) for name in names]


def _differences_table(told: EvaluationSummary, other: str) -> SummaryTable:
    names = told.without_unasked(COMPARED_METRICS)
    rows = [
        [student, label(case), *_format_cells(told, student, case, names, other)]
        for case in told.asked
        for student in told.students[told.students.index(other) + 1 :]
    ]
    said = f"Above 0: higher than {other}, on the same articles. If the interval contains 0, no difference was found."
    return SummaryTable(
        f"Against {other}", said, ["student", "setting", *(METRIC_TITLES[name] for name in names)], rows
    )


def _positions_table(told: EvaluationSummary) -> SummaryTable:
    names = told.without_unasked(POSITION_METRICS)
    rows = [
        [student, place, *(format_interval(told.placed(student, place, name)) for name in names)]
        for student in told.students
        for place in POSITIONS
        if told.placed(student, place, POSITION_METRICS[1])
    ]
    said = (
        f"With the oracle, k = {told.k}: the position of its first passage among all passages shown. The articles differ from "
        "position to position, so compare students at one position, and positions only where the figures are far apart."
    )
    return SummaryTable(
        "Position of the oracle", said, ["student", "position", *(METRIC_TITLES[name] for name in names)], rows
    )


def _failures_table(told: EvaluationSummary) -> SummaryTable:
    rows = [
        [student, label(conditions.Condition(setting, k)), error, f"{count:,}"]
        for (student, setting, k, error), count in sorted(told.failures().items())
    ]
    said = "Requests without an answer. Every figure above counts them as wrong. The next run asks those again that may succeed."
    return SummaryTable("Failed", said, ["student", "setting", "class", "requests"], rows)


def format_interval(metric: Metric | None) -> str:
    """Say a figure with its interval."""
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]" if metric else DASH


def _escape_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
