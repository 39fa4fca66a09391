"""Draw the charts of a run's page from its numbers; no text of a row reaches them."""

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
BINS = 5  # of a tally's bins in one bar: 20 bars to a power of ten
PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
UNITS = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))


def rates(series: Sequence[Point]) -> tuple[list[float], list[float]]:
    """Return (edges in seconds, answers a second between them); points without time between them are one."""
    edges, answered, speeds = [0.0], 0, []
    for point in series:
        if point.seconds > edges[-1]:
            speeds.append((point.answered - answered) / (point.seconds - edges[-1]))
            edges.append(point.seconds)
            answered = point.answered
    return edges, speeds


def throughput(series: Sequence[Point]) -> str:
    """Draw answers a second over the calls that were open and allowed; throttled moments are marked."""
    return svg.render("throughput", WIDE, lambda figure: _throughput(figure, series))


def _throughput(figure: "Figure", series: Sequence[Point]) -> None:
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    edges, speeds = rates(series)
    per, unit = _unit(edges[-1])
    times = [edge / per for edge in edges]
    above.stairs(speeds, times, fill=True, color=FIRST, alpha=0.22)
    above.stairs(speeds, times, baseline=None, color=FIRST, linewidth=2)
    above.set_title("answers a second")
    at = [0.0, *(point.seconds / per for point in series)]  # a point tells of the time before it, the first too
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
    """Put a mark at the window wherever more calls were throttled than at the point before."""
    before = (0, *(point.throttled for point in series))
    told = [point for point, count in zip(series, before, strict=False) if point.throttled > count]
    at = [point.seconds / per for point in told]
    heights = [point.window for point in told]
    if told:
        axes.plot(at, heights, "v", color=ALARM, markersize=8, linestyle="none", clip_on=False, label="throttled")


def latencies(histogram: Histogram) -> str:
    """Draw how long answers took, in milliseconds on a logarithmic scale, with its percentiles."""
    return svg.render("latencies", NARROW, lambda figure: _latencies(figure, histogram))


def _latencies(figure: "Figure", histogram: Histogram) -> None:
    axes = figure.subplots()
    axes.set_xscale("log")
    _bars(axes, histogram, FIRST, "answers")
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * max(1.6, (high / low) ** 0.25))  # room for the names at the right
    axes.set_ylim(top=axes.get_ylim()[1] * 1.2)
    for place, (name, share) in enumerate(PERCENTILES.items()):
        _mark(axes, f"{name} {format_duration(percentile(histogram, share))}", percentile(histogram, share), place)
    _label_log_axis(axes, format_duration)


def _mark(axes: "Axes", text: str, value: float, place: int) -> None:
    """Draw a line at a value, with a name: the first at its left, the others at its right, each below the one before."""
    height, side = 0.99 - 0.11 * place, 1 if place else -1
    axes.axvline(value, ymax=height, color=INK, linewidth=1.2, linestyle=(0, (4, 2)))
    axes.annotate(
        text,
        (value, height),
        xycoords=("data", "axes fraction"),
        xytext=(5 * side, 0),
        textcoords="offset points",
        horizontalalignment="left" if place else "right",
        verticalalignment="top",
        fontsize=11,
        fontweight="bold",
    )


def tokens(prompt: Histogram, completion: Histogram) -> str:
    """Draw how many tokens prompts and answers had, on a logarithmic scale."""
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
    """Draw the dollars spent so far: `dollars` in all, laid over time as the tokens came."""
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
    """Say a duration in the unit that reads best, to three digits."""
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


def _label_log_axis(axes: "Axes", told: Callable[[float], str]) -> None:
    """Label powers of ten and some numbers between them, the more, the shorter the scale is."""
    from matplotlib.ticker import LogLocator, NullFormatter  # noqa: PLC0415 - EMR does not carry it

    low, high = axes.get_xlim()
    subs = (1, 2, 5) if high < 50 * low else (1, 3) if high < 3000 * low else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axes.xaxis.set_major_formatter(lambda value, _: told(value))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _unit(seconds: float) -> tuple[float, str]:
    """Return the unit in which so long a time has at least two, and its seconds."""
    return next((unit for unit in UNITS if seconds >= 2 * unit[0]), UNITS[-1])
