"""Build the tables of an evaluation that people read, as Markdown and for the HTML page."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from raft_spark import config
from raft_spark.scoring import scores
from raft_spark.scoring.conditions import RETRIEVED, Condition, all_conditions, comparison_k
from raft_spark.scoring.metrics import (
    BASELINE,
    DECISION_METRICS,
    FOUND,
    FOUND_METRICS,
    LOSSES,
    POSITION_METRICS,
    POSITIONS,
    RETRIEVER,
    RETRIEVER_METRICS,
)
from raft_spark.scoring.titles import (
    COMPARED_METRICS,
    FOUND_CAPTION,
    JUDGE_CAPTION,
    METRIC_TITLES,
    RECIPES_CAPTION,
    RETRIEVER_CAPTION,
    SETTING_TITLES,
    TABLES,
)

DASH = "\N{EN DASH}"  # for a missing value
SIGNIFICANT = 0.05
Metric = Mapping[str, Any]  # a row of schemas.METRICS


@dataclass(frozen=True)
class SummaryTable:
    """A table with its title, and a caption that says how to read it."""

    title: str
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class EvaluationSummary:
    """The result of an evaluation: the scored `rows` (schemas.EVALUATION) and their `metrics` (schemas.METRICS)."""

    conf: config.Config
    version: str
    rows: pa.Table
    metrics: pa.Table

    @cached_property
    def _by_key(self) -> Mapping[tuple[Any, ...], Metric]:
        """Return the metrics by (student, against, setting, k, place, figure)."""
        names = ("student", "against", "setting", "distractors", "place", "figure")
        return {tuple(row[name] for name in names): row for row in self.metrics.to_pylist()}

    def metric(self, student: str, condition: Condition, name: str, against: str | None = None) -> Metric | None:
        """Return a metric with its interval, or its difference to student `against`; None when it has no value."""
        row = self._by_key.get((student, against, condition.setting, condition.distractors, None, name))
        return row if row and row["value"] is not None else None

    def metric_at(self, student: str, condition: Condition, place: str, name: str) -> Metric | None:
        """Return a metric over the answers whose prompt had the oracle at this place: one of metrics.POSITIONS, or of
        metrics.FOUND for `retrieved`.
        """
        row = self._by_key.get((student, None, condition.setting, condition.distractors, place, name))
        return row if row and row["value"] is not None else None

    @property
    def students(self) -> Sequence[str]:
        """Return the names of the students, in the order of evaluation.students."""
        return self.conf.evaluation.students

    @property
    def recipes(self) -> Sequence[str]:
        """Return the names of the recipes, in the order of evaluation.recipes."""
        return [*self.conf.evaluation.recipes]

    @property
    def k(self) -> int:
        """Return the k at which settings are compared."""
        return comparison_k(self.conf)

    @property
    def conditions(self) -> list[Condition]:
        """Return all conditions of the evaluation, from no passage to the oracle alone, k ascending."""
        order = list(SETTING_TITLES)
        return sorted(
            all_conditions(self.conf.evaluation),
            key=lambda condition: (order.index(condition.setting), condition.distractors),
        )

    @property
    def compared_conditions(self) -> list[Condition]:
        """Return one condition for each setting: at `k`, or without distractors."""
        return [condition for condition in self.conditions if condition.distractors in {0, self.k}]

    @property
    def retrieved(self) -> list[Condition]:
        """Return the conditions of the setting `retrieved`, k ascending."""
        return [condition for condition in self.conditions if condition.setting == RETRIEVED]

    @property
    def main_condition(self) -> Condition:
        """Return the condition that the page shows first: the oracle with `k` distractors, if the evaluation has it."""
        preferred = Condition("with", self.k)
        return preferred if preferred in self.compared_conditions else self.compared_conditions[-1]

    @property
    def main_metrics(self) -> list[str]:
        """Return the metrics that the page shows first, most important first; those without a value are left out."""
        names = (*(DECISION_METRICS if self.conf.completions.decision else ()), "rouge_l", "token_f1", "bleu", "chrf")
        pairs = [(student, condition) for student in self.students for condition in self.conditions]
        return [name for name in names if any(self.metric(*pair, name) for pair in pairs)]

    @property
    def has_losses(self) -> bool:
        """Say whether answers with distractors can be compared with those to the oracle alone."""
        return {"with", "alone"} <= {*self.conf.evaluation.settings}

    def applicable(self, names: Sequence[str]) -> list[str]:
        """Return the names without the metrics of decisions and citations if students were not asked for them, and without losses if there are none."""
        left_out = {*(() if self.conf.completions.decision else DECISION_METRICS), *(() if self.has_losses else LOSSES)}
        left_out |= set() if self.conf.completions.cites_passages else {"citations_of_oracle"}
        return [name for name in names if not {name, LOSSES.get(name)} & left_out]

    @property
    def articles(self) -> int:
        """Return the number of articles in the evaluation."""
        return max(self.metrics["articles"].to_pylist(), default=0)

    def failures(self) -> Counter[tuple[str, str, int, str]]:
        """Count the failed requests by (student, setting, k, error class)."""
        names = ("student", "setting", "distractors", "error_class")
        rows = self.rows.select(names).filter(self.rows["error_class"].is_valid()).to_pylist()
        return Counter(tuple(row[name] for name in names) for row in rows)


def label(condition: Condition) -> str:
    """Return a condition in words, such as `with oracle, k = 3`."""
    return SETTING_TITLES[condition.setting] + (f", k = {condition.distractors}" if condition.distractors else "")


def markdown(summary: EvaluationSummary) -> str:
    """Return the summary as one Markdown text."""
    lines = [f"# Evaluation {summary.version}", "", *introduction(summary), ""]
    for table in summary_tables(summary):
        rows = [table.header, ["---"] * len(table.header), *table.rows]
        lines += [
            f"## {table.title}",
            "",
            table.caption,
            "",
            *("| " + " | ".join(map(_escape_cell, row)) + " |" for row in rows),
            "",
        ]
    return "\n".join(lines)


def introduction(summary: EvaluationSummary) -> Iterator[str]:
    """Yield the sentences that introduce the tables: students, intervals, and what is left out."""
    teacher, models = summary.conf.completions, {name: summary.conf.endpoints[name].model for name in summary.students}
    students = ", ".join(f"{name} ({model})" for name, model in models.items())
    yield f"{summary.articles} articles of the test split. Students: {students}."
    yield (
        "Brackets: 95 % intervals, Wilson's for shares of answers, and for other metrics from "
        f"{summary.conf.evaluation.resamples} resamples of the articles. A request that failed counts as a wrong answer with score 0."
    )
    yield (
        "A star marks a difference that holds although many were looked at: after Holm's correction for all comparisons of "
        "its metric in this evaluation, a false one is among them with at most 5 %."
    )
    if not teacher.decision:
        yield (
            "completions.decision is false: students were not asked to begin with yes, no or maybe, so accuracy and "
            "macro-F1 are left out here. The folder metrics/ has them."
        )


def summary_tables(summary: EvaluationSummary) -> list[SummaryTable]:
    """Return all tables that have a row."""
    tables = [
        _metrics_table(summary, title, names, caption)
        for title, (names, caption) in TABLES.items()
        if summary.conf.completions.decision or title != "Decisions"
    ]
    if summary.conf.evaluation.judge:
        tables.append(
            _metrics_table(
                summary,
                f"As judged by {summary.conf.evaluation.judge}",
                (*scores.JUDGE_METRICS, "unjudged"),
                JUDGE_CAPTION,
            )
        )
    tables += [_differences_table(summary, summary.students[at:]) for at in range(len(summary.students) - 1)]
    tables.append(_recipes_table(summary))
    tables += [_differences_table(summary, summary.recipes[at:]) for at in range(len(summary.recipes) - 1)]
    tables += [_retriever_table(summary), _found_table(summary), _positions_table(summary), _failures_table(summary)]
    return [table for table in tables if table.rows]


def _metrics_table(summary: EvaluationSummary, title: str, names: Sequence[str], caption: str) -> SummaryTable:
    names = summary.applicable(names)
    rows = _rows(summary, summary.students, names)
    for baseline in (scores.MAJORITY, scores.QUESTION, scores.LAST_SENTENCES, scores.BEST_SENTENCE):
        cells = _format_cells(summary, baseline, Condition(BASELINE, 0), names)
        rows += [[baseline, "no model", *cells]] if {*cells} - {DASH} else []
    return SummaryTable(title, caption, ["student", "setting", *(METRIC_TITLES[name] for name in names)], rows)


def _recipes_table(summary: EvaluationSummary) -> SummaryTable:
    names, recipes = summary.applicable(COMPARED_METRICS), summary.conf.evaluation.recipes
    counts = ", ".join(f"{name}: {len(students)}" for name, students in recipes.items())
    header = ["recipe", "setting", *(METRIC_TITLES[name] for name in names)]
    return SummaryTable("Recipes", RECIPES_CAPTION.format(counts), header, _rows(summary, summary.recipes, names))


def _differences_table(summary: EvaluationSummary, compared: Sequence[str]) -> SummaryTable:
    """Return how each of `compared` differs from the first."""
    names, (other, *others) = summary.applicable(COMPARED_METRICS), compared
    caption = f"Above 0: higher than {other}, on the same articles. Without a star, no difference was shown."
    header = ["student", "setting", *(METRIC_TITLES[name] for name in names)]
    return SummaryTable(f"Against {other}", caption, header, _rows(summary, others, names, other))


def _rows(
    summary: EvaluationSummary, students: Sequence[str], names: Sequence[str], against: str | None = None
) -> list[list[str]]:
    """Return a row for each condition and student, without those that have no value."""
    rows = [
        [student, label(condition), *_format_cells(summary, student, condition, names, against)]
        for condition in summary.conditions
        for student in students
    ]
    return [row for row in rows if {*row[2:]} - {DASH}]


def _format_cells(
    summary: EvaluationSummary, student: str, condition: Condition, names: Sequence[str], against: str | None = None
) -> list[str]:
    return [format_interval(summary.metric(student, condition, name, against)) for name in names]


def _retriever_table(summary: EvaluationSummary) -> SummaryTable:
    rows = [
        [str(condition.distractors), *_format_cells(summary, RETRIEVER, condition, [*RETRIEVER_METRICS])]
        for condition in summary.retrieved
    ]
    header = ["k", *(METRIC_TITLES[name] for name in RETRIEVER_METRICS)]
    return SummaryTable("Retriever", RETRIEVER_CAPTION, header, rows)


def _found_table(summary: EvaluationSummary) -> SummaryTable:
    names = summary.applicable(FOUND_METRICS)
    rows = [
        [student, label(condition), place, *_cells_at(summary, student, condition, place, names)]
        for condition in summary.retrieved
        for student in summary.students
        for place in FOUND
        if summary.metric_at(student, condition, place, FOUND_METRICS[1])
    ]
    header = ["student", "setting", "oracle", *(METRIC_TITLES[name] for name in names)]
    return SummaryTable("Oracle found or not", FOUND_CAPTION, header, rows)


def _cells_at(
    summary: EvaluationSummary, student: str, condition: Condition, place: str, names: Sequence[str]
) -> list[str]:
    return [format_interval(summary.metric_at(student, condition, place, name)) for name in names]


def _positions_table(summary: EvaluationSummary) -> SummaryTable:
    names, condition = summary.applicable(POSITION_METRICS), Condition("with", summary.k)
    rows = [
        [student, position, *_cells_at(summary, student, condition, position, names)]
        for student in summary.students
        for position in POSITIONS
        if summary.metric_at(student, condition, position, POSITION_METRICS[1])
    ]
    caption = (
        f"With the oracle, k = {summary.k}: the position of its first passage among all passages shown. The articles "
        "differ from position to position, so compare students at one position, and positions only where the "
        "metrics are far apart."
    )
    return SummaryTable(
        "Position of the oracle", caption, ["student", "position", *(METRIC_TITLES[name] for name in names)], rows
    )


def _failures_table(summary: EvaluationSummary) -> SummaryTable:
    rows = [
        [student, label(Condition(setting, k)), error, f"{count:,}"]
        for (student, setting, k, error), count in sorted(summary.failures().items())
    ]
    caption = (
        "Requests without an answer. All metrics count them as wrong. The next run retries those that may succeed."
    )
    return SummaryTable("Failed", caption, ["student", "setting", "class", "requests"], rows)


def format_interval(metric: Metric | None, digits: int = 3) -> str:
    """Return a metric with its interval, such as `0.612 [0.500, 0.750]`, a star if it differs from 0, or a dash for None."""
    if not metric:
        return DASH
    p = metric.get("p_holm")
    star = " *" if p is not None and p < SIGNIFICANT else ""
    value, low, high = (f"{round(metric[name], digits) + 0.0:.{digits}f}" for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]{star}"


def _escape_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
