"""Draw the charts of an evaluation's page: lines over k, settings, differences, quotes, positions of the oracle."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from raft_spark.monitoring import svg
from raft_spark.monitoring.svg import ALARM, FIRST, GOOD, INK, MUTED, SECOND
from raft_spark.scoring import scores
from raft_spark.scoring.conditions import Condition
from raft_spark.scoring.metrics import BASELINE, POSITIONS
from raft_spark.scoring.summary import METRIC_TITLES, SETTING_TITLES, EvaluationSummary, Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = (SECOND, FIRST, GOOD, ALARM)
MARKERS = {"disc": "o", "square": "s", "diamond": "D", "triangle": "^"}  # another each time colours begin anew
HATCHES = ("", "///", "...", "xxx")
BASELINES = {"accuracy": scores.MAJORITY}  # baseline by figure; else FLOOR
DEFAULT_BASELINE = scores.QUESTION
FULL, HALF = (10.6, 4.1), (5.4, 3.6)  # inches
HEADROOM = 1.12  # above the highest value, for the name of a baseline
SPACING, GROUP_WIDTH = 0.11, 0.8  # between students, and of all of them, in settings
MetricPoints = Sequence[tuple[float, Metric]]  # where on the axis, and what


def draw_charts(told: EvaluationSummary) -> dict[str, str]:
    """Return the figures that have something to show, by name."""
    figures: Mapping[str, tuple[bool, tuple[float, float], Callable[[Figure], None]]] = {
        "sweep": (
            bool(_panel_metrics(told)) and bool({"with", "without"} & {*told.conf.evaluation.settings}),
            FULL,
            partial(_sweep, told=told),
        ),
        "settings": (bool(_panel_metrics(told)), FULL, partial(_settings, told=told)),
        "differences": (len(told.students) > 1, HALF, partial(_differences, told=told)),
        "abstained": (True, HALF, partial(_abstained, told=told)),
        "quotes": (_has_quotes(told), HALF, partial(_quotes, told=told)),
        "places": (
            any(told.placed(name, place, position_metric(told)) for name in told.students for place in POSITIONS),
            HALF,
            partial(_positions, told=told),
        ),
    }
    return {name: svg.render(name, size, draw) for name, (shows, size, draw) in figures.items() if shows}


def position_metric(told: EvaluationSummary) -> str:
    """Return the figure that is drawn over the position of the oracle."""
    return "accuracy" if "accuracy" in told.main_figures else "rouge_l"


def _panel_metrics(told: EvaluationSummary) -> list[str]:
    """Return the two figures that are drawn over k and by setting."""
    return [name for name in told.main_figures if name != "macro_f1"][:2]


def color_of(told: EvaluationSummary, student: str) -> str:
    """Return the stand-in for a student's colour; there are four, taken in turns."""
    return COLORS[told.students.index(student) % len(COLORS)]


def marker_of(told: EvaluationSummary, student: str) -> str:
    """Return the name of a student's marker in MARKERS: with the colour it tells sixteen students apart."""
    return [*MARKERS][_cycle(told, student)]


def _cycle(told: EvaluationSummary, student: str) -> int:
    return told.students.index(student) // len(COLORS) % len(MARKERS)


def _axes(figure: "Figure", told: EvaluationSummary) -> Iterator[tuple["Axes", str]]:
    names = _panel_metrics(told)
    return zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True)


def _sweep(figure: "Figure", told: EvaluationSummary) -> None:
    for axes, name in _axes(figure, told):
        for student in told.students:
            for setting, label in (("with", "with oracle"), ("without", "without")):
                _line(axes, told, student, setting, name, f"{student}, {label}")
        _draw_baseline(axes, told, name)
        axes.set_title(METRIC_TITLES[name])
        axes.set_xlabel("distractors (k)")
        axes.set_xticks(sorted({case.distractors for case in told.asked if case.setting != "closed"}))
        axes.set_ylim(0, HEADROOM * axes.dataLim.ymax or 1)
    _draw_legend(figure)


def _over_k(told: EvaluationSummary, student: str, setting: str, name: str) -> Iterator[tuple[float, Metric]]:
    """Yield a figure over k; the oracle alone is k = 0 with it."""
    for case in told.asked:
        metric = told.metric(student, case, name)
        if metric and (case.setting == setting or (setting, case.setting) == ("with", "alone")):
            yield case.distractors, metric


def _line(axes: "Axes", told: EvaluationSummary, student: str, setting: str, name: str, label: str) -> None:
    found = sorted(_over_k(told, student, setting, name), key=lambda pair: pair[0])
    if not found:
        return
    at, values, low, high = _columns(found)
    paint = color_of(told, student)
    axes.fill_between(at, low, high, color=paint, alpha=0.1, linewidth=0)
    line, face = ("-", paint) if setting == "with" else ("--", "none")
    marker = MARKERS[marker_of(told, student)]
    axes.plot(at, values, marker + line, color=paint, linewidth=2, markerfacecolor=face, label=label)


def _columns(found: MetricPoints) -> tuple[list[float], list[float], list[float], list[float]]:
    """Return where, and the values with the ends of their intervals, as matplotlib wants them."""
    value, low, high = ([metric[name] for _, metric in found] for name in ("value", "low", "high"))
    return [at for at, _ in found], value, low, high


def _draw_baseline(axes: "Axes", told: EvaluationSummary, name: str) -> None:
    """Draw the baseline, which needs no model, as a line across."""
    label = BASELINES.get(name, DEFAULT_BASELINE)
    floor = told.metric(label, Condition(BASELINE, 0), name)
    if floor:
        axes.axhline(floor["value"], color=MUTED, linewidth=1.3, linestyle=(0, (1, 2)))
        axes.annotate(
            label, (0.01, floor["value"]), xycoords=("axes fraction", "data"), xytext=(0, 3), textcoords="offset points",
            fontsize=9.5, color=MUTED,
        )  # fmt: skip


def _draw_legend(figure: "Figure") -> None:
    """Say below all axes, once, what their lines are."""
    pairs = [axes.get_legend_handles_labels() for axes in figure.axes]
    found = {label: handle for handles, labels in pairs for handle, label in zip(handles, labels, strict=True)}
    figure.legend([*found.values()], [*found], loc="outside lower center", ncols=4, fontsize=10.5)


def _settings(figure: "Figure", told: EvaluationSummary) -> None:
    for axes, name in _axes(figure, told):
        for student in told.students:
            _points(axes, told, student, [told.metric(student, case, name) for case in told.compared])
        _draw_baseline(axes, told, name)
        axes.set_title(METRIC_TITLES[name])
        axes.set_xticks(range(len(told.compared)), [SETTING_TITLES[case.setting] for case in told.compared])
        axes.set_xlim(-0.5, len(told.compared) - 0.5)
        axes.set_ylim(0, HEADROOM * axes.dataLim.ymax or 1)
    _draw_legend(figure)


def _offset(told: EvaluationSummary, student: str) -> float:
    apart = min(SPACING, GROUP_WIDTH / len(told.students))
    return apart * (told.students.index(student) - (len(told.students) - 1) / 2)


def _present(metrics: Iterable[Metric | None], shift: float) -> MetricPoints:
    """Return those that there are, each at its number and so far beside it."""
    return [(at + shift, metric) for at, metric in enumerate(metrics) if metric]


def _points(axes: "Axes", told: EvaluationSummary, student: str, metrics: Iterable[Metric | None]) -> None:
    at, values, low, high = _columns(_present(metrics, _offset(told, student)))
    paint = color_of(told, student)
    axes.vlines(at, low, high, color=paint, linewidth=2.4)
    axes.plot(at, values, MARKERS[marker_of(told, student)], color=paint, markersize=8, label=student)


def _differences(figure: "Figure", told: EvaluationSummary) -> None:
    axes = figure.subplots()
    first, *others = told.students
    names = [name for name in ("accuracy", "token_f1", "rouge_l") if name in told.main_figures]
    rows = [(case, name) for case in told.compared for name in names]
    for student in others:
        metrics = (told.metric(student, case, name, first) for case, name in rows)
        at, values, low, high = _columns(_present(metrics, _offset(told, student)))
        paint = color_of(told, student)
        axes.hlines(at, low, high, color=paint, linewidth=2.2)
        axes.plot(values, at, MARKERS[marker_of(told, student)], color=paint, markersize=6, label=student)
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks(
        range(len(rows)), [f"{METRIC_TITLES[name]}, {SETTING_TITLES[case.setting]}" for case, name in rows], fontsize=9
    )
    axes.invert_yaxis()
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"difference to {first}")
    if len(others) > 1:
        axes.legend(fontsize=9.5)


def _abstained(figure: "Figure", told: EvaluationSummary) -> None:
    _bars(figure.subplots(), told, [(SETTING_TITLES[case.setting], case) for case in told.compared], "abstained")


def _bars(axes: "Axes", told: EvaluationSummary, groups: Sequence[tuple[str, Condition]], name: str) -> None:
    width = GROUP_WIDTH / len(told.students)
    for number, student in enumerate(told.students):
        shift = width * (number + 0.5) - GROUP_WIDTH / 2
        metrics = (told.metric(student, case, name) for _, case in groups)
        at, values, low, high = _columns(_present(metrics, shift))
        axes.bar(
            at, values, width * 0.9, color=color_of(told, student), alpha=0.75, label=student,
            hatch=HATCHES[_cycle(told, student)], edgecolor=INK, linewidth=0,
        )  # fmt: skip
        axes.vlines(at, low, high, color=INK, linewidth=1.2)
    axes.set_xticks(range(len(groups)), [title for title, _ in groups], fontsize=9.5)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0, fontsize=10)


def _has_quotes(told: EvaluationSummary) -> bool:
    return any(told.metric(name, case, "quotes_of_oracle") for name in told.students for case in told.compared)


def _quotes(figure: "Figure", told: EvaluationSummary) -> None:
    """Draw where quotes come from, as shares of all quotes: the oracle, a distractor, or no passage."""
    axes = figure.subplots()
    bars = [
        (name, case) for case in told.compared for name in told.students if told.metric(name, case, "quotes_of_oracle")
    ]
    for at, (name, case) in enumerate(bars):
        oracle, other = (told.metric(name, case, f"quotes_of_{which}") for which in ("oracle", "distractors"))
        values = [oracle["value"] if oracle else 0, other["value"] if other else 0]
        left = 0.0
        parts = zip(
            [*values, 1 - sum(values)],
            (GOOD, SECOND, ALARM),
            ("in the oracle", "in a distractor", "in no passage"),
            strict=True,
        )
        for value, paint, label in parts:
            axes.barh(at, value, left=left, height=0.7, color=paint, alpha=0.75, label=label if at == 0 else None)
            left += value
    axes.set_yticks(range(len(bars)), [f"{name}, {SETTING_TITLES[case.setting]}" for name, case in bars], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.grid(visible=False)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0, fontsize=9.5)


def _positions(figure: "Figure", told: EvaluationSummary) -> None:
    axes = figure.subplots()
    for student in told.students:
        _points(axes, told, student, [told.placed(student, place, position_metric(told)) for place in POSITIONS])
    axes.set_xticks(range(len(POSITIONS)), POSITIONS)
    axes.set_xlim(-0.5, len(POSITIONS) - 0.5)
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0, fontsize=10)
