"""Render evaluation.html, which loads no other file: main metrics, charts, tables, and example answers side by side."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from raft_spark.monitoring import html, svg
from raft_spark.scoring import charts, examples, scores
from raft_spark.scoring.conditions import Condition
from raft_spark.scoring.metrics import BASELINE, DECISION_METRICS
from raft_spark.scoring.summary import (
    DASH,
    EvaluationSummary,
    Metric,
    introduction,
    summary_tables,
)
from raft_spark.scoring.titles import METRIC_TITLES, SETTING_TITLES

TEMPLATE = "evaluation.html"
HEADLINES = 3  # metrics of a student at the top of the page, besides how often it abstains


@dataclass(frozen=True, slots=True)
class HeadlineMetric:
    """A metric at the top of the page, as text; `note` has its interval and its baseline."""

    label: str
    student: str
    value: str
    note: str


def render(summary: EvaluationSummary, articles: Mapping[int, Sequence[str]]) -> str:
    """Return the page; `articles` maps the pubids of the examples to their passages."""
    classes = {
        name: f"{svg.VARIABLES[charts.color_of(summary, name)]} {charts.marker_of(summary, name)}"
        for name in summary.students
    }
    values = {
        "version": summary.version,
        "students": {name: (summary.conf.endpoints[name].model, classes[name]) for name in summary.students},
        "introduction": list(introduction(summary)),
        "headlines": list(headline_metrics(summary)),
        "failed": summary.failures().total(),
        "k": summary.k,
        "has_retrieved": bool(summary.retrieved),
        "position_metric": METRIC_TITLES[charts.position_metric(summary)],
        "charts": charts.draw_charts(summary),
        "tables": summary_tables(summary),
        "examples": list(examples.build_examples(summary, articles)),
    }
    return html.render(TEMPLATE, values, {"count": "{:,}".format, "score": "{:.3f}".format})


def headline_metrics(summary: EvaluationSummary) -> Iterator[HeadlineMetric]:
    """Yield the main metrics of each student, each with its baseline, and how often it abstains without the oracle."""
    main, without = summary.main_condition, Condition("without", summary.k)
    abstaining = without if without in summary.conditions else main
    for student in summary.students:
        for name in summary.main_metrics[:HEADLINES]:
            metric = summary.metric(student, main, name)
            baseline_name = scores.MAJORITY if name in DECISION_METRICS else scores.QUESTION
            baseline = summary.metric(baseline_name, Condition(BASELINE, 0), name)
            note = f"; {baseline_name}: {baseline['value']:.3f}" if baseline else ""
            label = f"{METRIC_TITLES[name]}, {SETTING_TITLES[main.setting]}"
            yield HeadlineMetric(label, student, _value(metric), f"{_range(metric)}{note}")
        metric = summary.metric(student, abstaining, "abstained")
        yield HeadlineMetric(f"abstains, {SETTING_TITLES[abstaining.setting]}", student, _value(metric), _range(metric))


def _value(metric: Metric | None) -> str:
    return f"{metric['value']:.3f}" if metric else DASH


def _range(metric: Metric | None) -> str:
    return f"{metric['low']:.3f} to {metric['high']:.3f}" if metric else ""
