"""Draw the charts of a run's page as SVG, from numbers only: no text of a row reaches them."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from raft_spark.monitoring import svg
from raft_spark.monitoring.run_state import Point
from raft_spark.monitoring.run_stats import Histogram, percentile, widen_bins
from raft_spark.monitoring.svg import ALARM, FIRST, INK, SECOND

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE, NARROW = (10.6, 5.0), (5.4, 3.3)  # inches; the page scales them to its width
BINS = 5  # of a Histogram in one bar: 20 bars per power of ten
PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
UNITS = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))


def rates(series: Sequence[Point]) -> tuple[list[float], list[float]]:
    """Return (edges in seconds, answers per second between them); points at the same time are merged."""
    edges, answered, speeds = [0.0], 0, []
    for point in series:
        if point.seconds > edges[-1]:
            speeds.append((point.answered - answered) / (point.seconds - edges[-1]))
            edges.append(point.seconds)
            answered = point.answered
    return edges, speeds


def throughput(series: Sequence[Point]) -> str:
    """Draw answers per second above a chart of open calls and window, with marks where calls were throttled."""
    return svg.render("throughput", WIDE, lambda figure: _throughput(figure, series))


def _throughput(figure: "Figure", series: Sequence[Point]) -> None:
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    edges, speeds = rates(series)
    per, unit = _unit(edges[-1])
    times = [edge / per for edge in edges]
    above.stairs(speeds, times, fill=True, color=FIRST, alpha=0.22)
    above.stairs(speeds, times, baseline=None, color=FIRST, linewidth=2)
    above.set_title("answers per second")
    at = [0.0, *(point.seconds / per for point in series)]  # a point describes the time before it, the first one too
    points = [series[0], *series]
    below.fill_between(
        at, [point.open for point in points], step="pre", color=SECOND, alpha=0.3, linewidth=0, label="open"
    )
    below.step(at, [point.window for point in points], color=INK, linewidth=1.8, label="window")
    below.set_title("open calls, and how many may be open (window)")
    _mark_throttled(below, series, per)
    below.set_xlabel(f"{unit} since the run began")
    below.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0, fontsize=10.5)
    for axes in (above, below):
        axes.set_ylim(0, 1.08 * axes.dataLim.ymax or 1)
        axes.set_xlim(0, times[-1])
    below.locator_params(axis="y", integer=True)


def _mark_throttled(axes: "Axes", series: Sequence[Point], per: float) -> None:
    """Mark the points since whose predecessor calls were throttled."""
    before = (0, *(point.throttled for point in series))
    marked = [point for point, count in zip(series, before, strict=False) if point.throttled > count]
    at = [point.seconds / per for point in marked]
    heights = [point.window for point in marked]
    if marked:
        axes.plot(at, heights, "v", color=ALARM, markersize=8, linestyle="none", clip_on=False, label="throttled")


def latencies(histogram: Histogram) -> str:
    """Draw the distribution of latencies in milliseconds, on a logarithmic scale, with percentiles."""
    return svg.render("latencies", NARROW, lambda figure: _latencies(figure, histogram))


def _latencies(figure: "Figure", histogram: Histogram) -> None:
    axes = figure.subplots()
    axes.set_xscale("log")
    _bars(axes, histogram, FIRST, "answers")
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * max(1.6, (high / low) ** 0.25))  # room for the labels at the right
    axes.set_ylim(top=axes.get_ylim()[1] * 1.2)
    for number, (name, share) in enumerate(PERCENTILES.items()):
        _mark(axes, f"{name} {format_duration(percentile(histogram, share))}", percentile(histogram, share), number)
    _label_log_axis(axes, format_duration)


def _mark(axes: "Axes", text: str, value: float, number: int) -> None:
    """Draw a labelled line at a value: label 0 at its left, the others at its right, each below the previous one."""
    height, side = 0.99 - 0.11 * number, 1 if number else -1
    axes.axvline(value, ymax=height, color=INK, linewidth=1.2, linestyle=(0, (4, 2)))
    axes.annotate(
        text,
        (value, height),
        xycoords=("data", "axes fraction"),
        xytext=(5 * side, 0),
        textcoords="offset points",
        horizontalalignment="left" if number else "right",
        verticalalignment="top",
        fontsize=11,
        fontweight="bold",
    )


def tokens(prompt: Histogram, completion: Histogram) -> str:
    """Draw the distributions of the tokens of prompts and answers, on a logarithmic scale."""
    return svg.render("tokens", NARROW, lambda figure: _tokens(figure, prompt, completion))


def _tokens(figure: "Figure", prompt: Histogram, completion: Histogram) -> None:
    axes = figure.subplots()
    axes.set_xscale("log")
    for histogram, color, label in ((prompt, SECOND, "prompt"), (completion, FIRST, "answer")):
        if histogram:
            _bars(axes, histogram, color, label)
    _label_log_axis(axes, "{:,.0f}".format)
    axes.set_xlabel("tokens")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0, fontsize=10.5)


def cost(series: Sequence[Point], dollars: float) -> str:
    """Draw the dollars spent over time: the total `dollars`, distributed by the tokens of each point."""
    return svg.render("cost", NARROW, lambda figure: _cost(figure, series, dollars))


def _cost(figure: "Figure", series: Sequence[Point], dollars: float) -> None:
    axes = figure.subplots()
    per, unit = _unit(series[-1].seconds)
    times = [0.0, *(point.seconds / per for point in series)]
    spent = [0.0, *(dollars * point.tokens / series[-1].tokens for point in series)]
    axes.fill_between(times, spent, color=SECOND, alpha=0.2, linewidth=0)
    axes.plot(times, spent, color=SECOND, linewidth=2.2)
    axes.yaxis.set_major_formatter(lambda value, _: f"${value:,.4g}")
    axes.set_xlabel(f"{unit} since the run began")
    axes.set_xlim(0, times[-1])
    axes.set_ylim(bottom=0)


def format_duration(milliseconds: float) -> str:
    """Return a duration with three digits, in ms, s or min."""
    if milliseconds < 1000:  # noqa: PLR2004 - a second
        return f"{milliseconds:.3g} ms"
    seconds = milliseconds / 1000
    return f"{seconds:.3g} s" if seconds < 120 else f"{seconds / 60:.3g} min"  # noqa: PLR2004 - two minutes


def _bars(axes: "Axes", histogram: Histogram, color: str, label: str) -> None:
    edges, counts = widen_bins(histogram, BINS)
    axes.stairs(counts, edges, fill=True, color=color, alpha=0.35)
    axes.stairs(counts, edges, color=color, linewidth=1.6, label=label)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylabel("answers")


def _label_log_axis(axes: "Axes", form: Callable[[float], str]) -> None:
    """Label powers of ten, and numbers between them if the axis spans few powers."""
    from matplotlib.ticker import LogLocator, NullFormatter  # noqa: PLC0415 - EMR does not have it

    low, high = axes.get_xlim()
    subs = (1, 2, 5) if high < 50 * low else (1, 3) if high < 3000 * low else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axes.xaxis.set_major_formatter(lambda value, _: form(value))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _unit(seconds: float) -> tuple[float, str]:
    """Return (its seconds, name) of the largest unit of which a time has at least two."""
    return next((unit for unit in UNITS if seconds >= 2 * unit[0]), UNITS[-1])
