"""An evaluation -> evaluation.html: what it came to, figures, tables, answers side by side. It needs nothing but itself."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from raft_spark import charts, examples, outcome, pages, scores, svg
from raft_spark.cases import Case
from raft_spark.figures import BASELINE
from raft_spark.outcome import DASH, SETTINGS, TITLES, Metric, Outcome

TEMPLATE = "evaluation.html"


@dataclass(frozen=True, slots=True)
class Number:
    """A number as the page shows it: of which student, with its interval and the floor beside it."""

    label: str
    student: str
    value: str
    note: str


def page(told: Outcome, own: Mapping[int, Sequence[str]]) -> str:
    """Return the page; `own` has the passages of the articles that are shown."""
    looks = {name: f"{svg.VARIABLES[charts.color(told, name)]} {charts.shape(told, name)}" for name in told.students}
    shown = {
        "version": told.version,
        "students": {name: (told.conf.endpoints[name].model, looks[name]) for name in told.students},
        "about": list(outcome.about(told)),
        "numbers": list(numbers(told)),
        "failed": told.failures().total(),
        "k": told.k,
        "figures": charts.drawn(told),
        "sheets": outcome.sheets(told),
        "examples": list(examples.examples(told, own)),
    }
    return pages.rendered(TEMPLATE, shown, {"count": "{:,}".format, "score": "{:.3f}".format})


def numbers(told: Outcome) -> Iterator[Number]:
    """Yield what a reader looks at first, for each student: with the oracle among distractors, and without it."""
    for student in told.students:
        for figure, floor in (
            ("accuracy", scores.MAJORITY),
            ("macro_f1", scores.MAJORITY),
            ("rouge_l", scores.QUESTION),
        ):
            metric = told.metric(student, Case("with", told.k), figure)
            beside = told.metric(floor, Case(BASELINE, 0), figure)
            note = f"; {floor}: {beside['value']:.3f}" if beside else ""
            yield Number(f"{TITLES[figure]}, {SETTINGS['with']}", student, _value(metric), f"{_range(metric)}{note}")
        metric = told.metric(student, Case("without", told.k), "abstained")
        yield Number(f"abstains {SETTINGS['without']}", student, _value(metric), _range(metric))


def _value(metric: Metric | None) -> str:
    return f"{metric['value']:.3f}" if metric else DASH


def _range(metric: Metric | None) -> str:
    return f"{metric['low']:.3f} to {metric['high']:.3f}" if metric else ""
