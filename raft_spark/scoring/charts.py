"""Draw the charts of an evaluation's page as SVG."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from raft_spark.monitoring import svg
from raft_spark.monitoring.svg import ALARM, FIRST, GOOD, INK, MUTED, SECOND
from raft_spark.scoring import scores
from raft_spark.scoring.conditions import RETRIEVED, Condition
from raft_spark.scoring.metrics import BASELINE, POSITIONS
from raft_spark.scoring.summary import EvaluationSummary, Metric
from raft_spark.scoring.titles import METRIC_TITLES, SETTING_TITLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = (SECOND, FIRST, GOOD, ALARM)
MARKERS = {"disc": "o", "square": "s", "diamond": "D", "triangle": "^"}  # the next one each time the colours start over
HATCHES = ("", "///", "...", "xxx")
BASELINES = {"accuracy": scores.MAJORITY}  # by metric; DEFAULT_BASELINE for all others
DEFAULT_BASELINE = scores.QUESTION
FULL, HALF = (10.6, 4.1), (5.4, 3.6)  # inches
LETTER, MARK, LEGEND_ROW = 0.085, 0.6, 0.22  # inches of a legend: a letter, a mark with its distances, a row
HEADROOM = 1.12  # height of an axis, as a multiple of its highest value: room for the name of a baseline
SPACING, GROUP_WIDTH = 0.11, 0.8  # between students, and of all students of a setting; settings are 1 apart
SWEPT = {  # settings that are drawn over k: name in the legend, line
    "with": ("with oracle", "-"),
    "without": ("without", "--"),
    RETRIEVED: ("retrieved", ":"),
}
MetricPoints = Sequence[tuple[float, Metric]]  # position on the axis, metric


def draw_charts(summary: EvaluationSummary) -> dict[str, str]:
    """Return the charts that have data, as SVG by name."""
    asked, has_metrics = {*summary.conf.evaluation.settings}, bool(_panel_metrics(summary))
    charts: Mapping[str, tuple[bool, tuple[float, float], Callable[..., None]]] = {
        "sweep": (has_metrics and bool({*SWEPT} & asked), FULL, _sweep),
        "settings": (has_metrics, FULL, partial(_settings, names=summary.students)),
        "losses": (has_metrics and summary.has_losses, FULL, _losses),
        "recipes": (has_metrics and bool(summary.recipes), FULL, partial(_settings, names=summary.recipes)),
        "differences": (len(summary.students) > 1, HALF, _differences),
        "abstained": (True, HALF, _abstained),
        "quotes": (_has_quotes(summary), HALF, _quotes),
        "places": (_has_positions(summary), HALF, _positions),
    }
    drawn = {name: (size, draw) for name, (has_data, size, draw) in charts.items() if has_data}
    return {name: svg.render(name, size, partial(draw, summary=summary)) for name, (size, draw) in drawn.items()}


def position_metric(summary: EvaluationSummary) -> str:
    """Return the metric that is drawn over the position of the oracle."""
    return "accuracy" if "accuracy" in summary.main_metrics else "rouge_l"


def _panel_metrics(summary: EvaluationSummary) -> list[str]:
    """Return the metrics, two at most, that are drawn over k and by setting."""
    return [name for name in summary.main_metrics if name != "macro_f1"][:2]


def color_of(summary: EvaluationSummary, student: str) -> str:
    """Return the placeholder of a student's or recipe's colour; four colours are used in turn."""
    return COLORS[_group(summary, student).index(student) % len(COLORS)]


def marker_of(summary: EvaluationSummary, student: str) -> str:
    """Return the name of a student's marker in MARKERS; colour and marker together distinguish sixteen students."""
    return [*MARKERS][_cycle(summary, student)]


def _cycle(summary: EvaluationSummary, student: str) -> int:
    return _group(summary, student).index(student) // len(COLORS) % len(MARKERS)


def _group(summary: EvaluationSummary, name: str) -> Sequence[str]:
    """Return the names among which a student or a recipe is drawn."""
    return summary.recipes if name in summary.recipes else summary.students


def _axes(figure: "Figure", summary: EvaluationSummary) -> Iterator[tuple["Axes", str]]:
    names = _panel_metrics(summary)
    return zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True)


def _sweep(figure: "Figure", summary: EvaluationSummary) -> None:
    for axes, name in _axes(figure, summary):
        for student in summary.students:
            for setting in SWEPT:
                _line(axes, summary, student, setting, name)
        _draw_baseline(axes, summary, name)
        axes.set_title(METRIC_TITLES[name])
        axes.set_xlabel("k, passages retrieved or distractors" if summary.retrieved else "distractors (k)")
        axes.set_xticks(
            sorted({condition.distractors for condition in summary.conditions if condition.setting != "closed"})
        )
        axes.set_ylim(0, HEADROOM * axes.dataLim.ymax or 1)
    _draw_legend(figure)


def _over_k(summary: EvaluationSummary, student: str, setting: str, name: str) -> Iterator[tuple[float, Metric]]:
    """Yield (k, metric); the setting `alone` is the point k = 0 of the setting `with`."""
    for condition in summary.conditions:
        metric = summary.metric(student, condition, name)
        if metric and (condition.setting == setting or (setting, condition.setting) == ("with", "alone")):
            yield condition.distractors, metric


def _line(axes: "Axes", summary: EvaluationSummary, student: str, setting: str, name: str) -> None:
    points = sorted(_over_k(summary, student, setting, name), key=lambda pair: pair[0])
    if not points:
        return
    at, values, low, high = _columns(points)
    color, (label, line) = color_of(summary, student), SWEPT[setting]
    axes.fill_between(at, low, high, color=color, alpha=0.1, linewidth=0)
    face = color if setting == "with" else "none"
    drawn = MARKERS[marker_of(summary, student)] + line
    axes.plot(at, values, drawn, color=color, linewidth=2, markerfacecolor=face, label=f"{student}, {label}")


def _columns(points: MetricPoints) -> tuple[list[float], list[float], list[float], list[float]]:
    """Return positions, values, lower and upper ends of the intervals, as four lists."""
    value, low, high = ([metric[name] for _, metric in points] for name in ("value", "low", "high"))
    return [at for at, _ in points], value, low, high


def _draw_baseline(axes: "Axes", summary: EvaluationSummary, name: str) -> None:
    """Draw the metric's baseline, which needs no model, as a horizontal line."""
    label = BASELINES.get(name, DEFAULT_BASELINE)
    baseline = summary.metric(label, Condition(BASELINE, 0), name)
    if baseline:
        axes.axhline(baseline["value"], color=MUTED, linewidth=1.3, linestyle=(0, (1, 2)))
        axes.annotate(
            label,
            (0.01, baseline["value"]),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            fontsize=9.5,
            color=MUTED,
        )


def _draw_legend(figure: "Figure") -> None:
    """Draw one legend for all axes, below them; a figure with many names grows."""
    pairs = [axes.get_legend_handles_labels() for axes in figure.axes]
    unique = {label: handle for handles, labels in pairs for handle, label in zip(handles, labels, strict=True)}
    widest = max(map(len, unique), default=0) * LETTER + MARK
    columns = max(1, min(4, int(figure.get_figwidth() / widest)))
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW * max(0, -(-len(unique) // columns) - 2))
    figure.legend([*unique.values()], [*unique], loc="outside lower center", ncols=columns, fontsize=10.5)


def _losses(figure: "Figure", summary: EvaluationSummary) -> None:
    conditions = [condition for condition in summary.conditions if condition.setting == "with"]
    for axes, name in _axes(figure, summary):
        lost = f"{name}_lost"
        for student in summary.students:
            _points(axes, summary, student, [summary.metric(student, condition, lost) for condition in conditions])
        axes.axhline(0, color=INK, linewidth=1)
        axes.set_title(METRIC_TITLES[lost])
        axes.set_xticks(range(len(conditions)), [f"k = {condition.distractors}" for condition in conditions])
        axes.set_xlim(-0.5, len(conditions) - 0.5)
    _draw_legend(figure)


def _settings(figure: "Figure", summary: EvaluationSummary, names: Sequence[str]) -> None:
    for axes, name in _axes(figure, summary):
        for student in names:
            _points(
                axes,
                summary,
                student,
                [summary.metric(student, condition, name) for condition in summary.compared_conditions],
            )
        _draw_baseline(axes, summary, name)
        axes.set_title(METRIC_TITLES[name])
        axes.set_xticks(
            range(len(summary.compared_conditions)),
            [SETTING_TITLES[condition.setting] for condition in summary.compared_conditions],
        )
        axes.set_xlim(-0.5, len(summary.compared_conditions) - 0.5)
        axes.set_ylim(0, HEADROOM * axes.dataLim.ymax or 1)
    _draw_legend(figure)


def _offset(summary: EvaluationSummary, student: str) -> float:
    names = _group(summary, student)
    spacing = min(SPACING, GROUP_WIDTH / len(names))
    return spacing * (names.index(student) - (len(names) - 1) / 2)


def _present(metrics: Iterable[Metric | None], offset: float) -> MetricPoints:
    """Return the metrics that are not None, each at its number plus `offset`."""
    return [(at + offset, metric) for at, metric in enumerate(metrics) if metric]


def _points(axes: "Axes", summary: EvaluationSummary, student: str, metrics: Iterable[Metric | None]) -> None:
    at, values, low, high = _columns(_present(metrics, _offset(summary, student)))
    color = color_of(summary, student)
    axes.vlines(at, low, high, color=color, linewidth=2.4)
    axes.plot(at, values, MARKERS[marker_of(summary, student)], color=color, markersize=8, label=student)


def _differences(figure: "Figure", summary: EvaluationSummary) -> None:
    axes = figure.subplots()
    first, *others = summary.students
    names = [name for name in ("accuracy", "token_f1", "rouge_l") if name in summary.main_metrics]
    rows = [(condition, name) for condition in summary.compared_conditions for name in names]
    for student in others:
        metrics = (summary.metric(student, condition, name, first) for condition, name in rows)
        at, values, low, high = _columns(_present(metrics, _offset(summary, student)))
        color = color_of(summary, student)
        axes.hlines(at, low, high, color=color, linewidth=2.2)
        axes.plot(values, at, MARKERS[marker_of(summary, student)], color=color, markersize=6, label=student)
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks(
        range(len(rows)),
        [f"{METRIC_TITLES[name]}, {SETTING_TITLES[condition.setting]}" for condition, name in rows],
        fontsize=9,
    )
    axes.invert_yaxis()
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"difference to {first}")
    if len(others) > 1:
        axes.legend(fontsize=9.5)


def _abstained(figure: "Figure", summary: EvaluationSummary) -> None:
    axes, conditions = figure.subplots(), summary.compared_conditions
    width = GROUP_WIDTH / len(summary.students)
    for number, student in enumerate(summary.students):
        offset = width * (number + 0.5) - GROUP_WIDTH / 2
        metrics = (summary.metric(student, condition, "abstained") for condition in conditions)
        at, values, low, high = _columns(_present(metrics, offset))
        axes.bar(
            at, values, width * 0.9, color=color_of(summary, student), alpha=0.75, label=student,
            hatch=HATCHES[_cycle(summary, student)], edgecolor=INK, linewidth=0,
        )  # fmt: skip
        axes.vlines(at, low, high, color=INK, linewidth=1.2)
    axes.set_xticks(range(len(conditions)), [SETTING_TITLES[each.setting] for each in conditions], fontsize=9.5)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0, fontsize=10)


def _has_positions(summary: EvaluationSummary) -> bool:
    return any(any(_at_positions(summary, student)) for student in summary.students)


def _at_positions(summary: EvaluationSummary, student: str) -> list[Metric | None]:
    """Return the metric of a student at each position of the oracle."""
    name, condition = position_metric(summary), Condition("with", summary.k)
    return [summary.metric_at(student, condition, position, name) for position in POSITIONS]


def _has_quotes(summary: EvaluationSummary) -> bool:
    return any(
        summary.metric(name, condition, "quotes_of_oracle")
        for name in summary.students
        for condition in summary.compared_conditions
    )


def _quotes(figure: "Figure", summary: EvaluationSummary) -> None:
    """Draw the shares of quotes found in the oracle, in a distractor and in no passage."""
    axes = figure.subplots()
    bars = [
        (name, condition)
        for condition in summary.compared_conditions
        for name in summary.students
        if summary.metric(name, condition, "quotes_of_oracle")
    ]
    for at, (name, condition) in enumerate(bars):
        oracle, distractors = (
            summary.metric(name, condition, f"quotes_of_{which}") for which in ("oracle", "distractors")
        )
        values = [oracle["value"] if oracle else 0, distractors["value"] if distractors else 0]
        left = 0.0
        parts = zip(
            [*values, 1 - sum(values)],
            (GOOD, SECOND, ALARM),
            ("in the oracle", "in a distractor", "in no passage"),
            strict=True,
        )
        for value, color, label in parts:
            axes.barh(at, value, left=left, height=0.7, color=color, alpha=0.75, label=label if at == 0 else None)
            left += value
    axes.set_yticks(
        range(len(bars)), [f"{name}, {SETTING_TITLES[condition.setting]}" for name, condition in bars], fontsize=9
    )
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.grid(visible=False)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0, fontsize=9.5)


def _positions(figure: "Figure", summary: EvaluationSummary) -> None:
    axes = figure.subplots()
    for student in summary.students:
        _points(axes, summary, student, _at_positions(summary, student))
    axes.set_xticks(range(len(POSITIONS)), POSITIONS)
    axes.set_xlim(-0.5, len(POSITIONS) - 0.5)
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0, fontsize=10)
