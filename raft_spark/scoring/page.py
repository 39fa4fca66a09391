"""Write evaluation.html, which loads no other file: main numbers, charts, tables, and answers side by side."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from raft_spark.monitoring import html, svg
from raft_spark.scoring import charts, examples, scores, summary
from raft_spark.scoring.conditions import Condition
from raft_spark.scoring.metrics import BASELINE, DECISIONS
from raft_spark.scoring.summary import DASH, SETTINGS, TITLES, EvaluationSummary, Metric

TEMPLATE = "evaluation.html"
MAIN = 3  # figures of a student at the top of the page


@dataclass(frozen=True, slots=True)
class KeyFigure:
    """A number as the page shows it: whose it is, its interval and its baseline."""

    label: str
    student: str
    value: str
    note: str


def page(told: EvaluationSummary, own: Mapping[int, Sequence[str]]) -> str:
    """Return the page; `own` has the passages of the articles that are shown."""
    looks = {name: f"{svg.VARIABLES[charts.color(told, name)]} {charts.shape(told, name)}" for name in told.students}
    shown = {
        "version": told.version,
        "students": {name: (told.conf.endpoints[name].model, looks[name]) for name in told.students},
        "about": list(summary.about(told)),
        "numbers": list(numbers(told)),
        "failed": told.failures().total(),
        "k": told.k,
        "by_position": TITLES[charts.by_position(told)],
        "figures": charts.drawn(told),
        "sheets": summary.sheets(told),
        "examples": list(examples.examples(told, own)),
    }
    return html.rendered(TEMPLATE, shown, {"count": "{:,}".format, "score": "{:.3f}".format})


def numbers(told: EvaluationSummary) -> Iterator[KeyFigure]:
    """Yield the main figures of each student, each with its baseline, and how often it abstains without the oracle."""
    without = Condition("without", told.k)
    for student in told.students:
        for figure in told.main_figures[:MAIN]:
            metric = told.metric(student, told.main, figure)
            floor = scores.MAJORITY if figure in DECISIONS else scores.QUESTION
            baseline = told.metric(floor, Condition(BASELINE, 0), figure)
            note = f"; {floor}: {baseline['value']:.3f}" if baseline else ""
            label = f"{TITLES[figure]}, {SETTINGS[told.main.setting]}"
            yield KeyFigure(label, student, _value(metric), f"{_range(metric)}{note}")
        metric = told.metric(student, without if without in told.asked else told.main, "abstained")
        setting = SETTINGS[(without if without in told.asked else told.main).setting]
        yield KeyFigure(f"abstains, {setting}", student, _value(metric), _range(metric))


def _value(metric: Metric | None) -> str:
    return f"{metric['value']:.3f}" if metric else DASH


def _range(metric: Metric | None) -> str:
    return f"{metric['low']:.3f} to {metric['high']:.3f}" if metric else ""
