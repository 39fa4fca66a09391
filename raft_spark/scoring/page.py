"""Write evaluation.html, which loads no other file: main numbers, charts, tables, and answers side by side."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from raft_spark.monitoring import html, svg
from raft_spark.scoring import charts, examples, scores, summary
from raft_spark.scoring.conditions import Condition
from raft_spark.scoring.metrics import BASELINE, DECISION_METRICS
from raft_spark.scoring.summary import DASH, METRIC_TITLES, SETTING_TITLES, EvaluationSummary, Metric

TEMPLATE = "evaluation.html"
HEADLINES = 3  # figures of a student at the top of the page


@dataclass(frozen=True, slots=True)
class HeadlineMetric:
    """A number as the page shows it: whose it is, its interval and its baseline."""

    label: str
    student: str
    value: str
    note: str


def render(told: EvaluationSummary, own: Mapping[int, Sequence[str]]) -> str:
    """Return the page; `own` has the passages of the articles that are shown."""
    looks = {
        name: f"{svg.VARIABLES[charts.color_of(told, name)]} {charts.marker_of(told, name)}" for name in told.students
    }
    shown = {
        "version": told.version,
        "students": {name: (told.conf.endpoints[name].model, looks[name]) for name in told.students},
        "about": list(summary.introduction(told)),
        "numbers": list(headline_metrics(told)),
        "failed": told.failures().total(),
        "k": told.k,
        "by_position": METRIC_TITLES[charts.position_metric(told)],
        "figures": charts.draw_charts(told),
        "sheets": summary.summary_tables(told),
        "examples": list(examples.build_examples(told, own)),
    }
    return html.render(TEMPLATE, shown, {"count": "{:,}".format, "score": "{:.3f}".format})


def headline_metrics(told: EvaluationSummary) -> Iterator[HeadlineMetric]:
    """Yield the main figures of each student, each with its baseline, and how often it abstains without the oracle."""
    without = Condition("without", told.k)
    for student in told.students:
        for figure in told.main_figures[:HEADLINES]:
            metric = told.metric(student, told.main, figure)
            floor = scores.MAJORITY if figure in DECISION_METRICS else scores.QUESTION
            baseline = told.metric(floor, Condition(BASELINE, 0), figure)
            note = f"; {floor}: {baseline['value']:.3f}" if baseline else ""
            label = f"{METRIC_TITLES[figure]}, {SETTING_TITLES[told.main.setting]}"
            yield HeadlineMetric(label, student, _value(metric), f"{_range(metric)}{note}")
        metric = told.metric(student, without if without in told.asked else told.main, "abstained")
        setting = SETTING_TITLES[(without if without in told.asked else told.main).setting]
        yield HeadlineMetric(f"abstains, {setting}", student, _value(metric), _range(metric))


def _value(metric: Metric | None) -> str:
    return f"{metric['value']:.3f}" if metric else DASH


def _range(metric: Metric | None) -> str:
    return f"{metric['low']:.3f} to {metric['high']:.3f}" if metric else ""
