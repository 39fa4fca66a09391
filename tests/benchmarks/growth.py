"""figures of tests/benchmarks/stages.py -> a chart of CPU seconds by articles, as an SVG file in the colours of the reader's page."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raft_spark.monitoring import svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (8.4, 4.6)  # inches
COLORS = (svg.SECOND, svg.FIRST, svg.MUTED, svg.ALARM)
STYLE = """<style>
svg { --ink: #1d2327; --muted: #5a646b; --grid: #d9d6cd; --first: #0072b2; --second: #b45309; --alarm: #c2185b;
--good: #1b7f4b }
@media (prefers-color-scheme: dark) {
svg { --ink: #e9edf0; --muted: #a3aeb7; --grid: #37414b; --first: #56b4e9; --second: #f0a63a; --alarm: #ff7aa8;
--good: #4cc38a } }
</style>"""
Figures = Mapping[str, Any]


def chart(sizes: Sequence[Figures]) -> str:
    """Draw the CPU seconds of each stage over the articles, both on logarithmic scales, beside a line of equal cost a row."""
    return themed(svg.render("growth", SIZE, lambda figure: _draw(figure.subplots(), sizes)))


def themed(drawn: str) -> str:
    """Add the colours to a chart that stands in a file of its own."""
    head, rest = drawn.split(">", 1)
    return f"{head}>{STYLE}{rest}"


def points(sizes: Sequence[Figures], stage: str) -> tuple[list[int], list[float]]:
    """Return (articles, CPU seconds of all processes) of a stage."""
    return [size["articles"] for size in sizes], [sum(size["stages"][stage]["cpu"].values()) for size in sizes]


def _draw(axes: "Axes", sizes: Sequence[Figures]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    for color, stage in zip(COLORS, sizes[0]["stages"], strict=False):
        articles, seconds = points(sizes, stage)
        axes.plot(articles, seconds, "o-", color=color, linewidth=2, markersize=5)
        axes.annotate(stage, (articles[-1], seconds[-1]), (8, 0), textcoords="offset points", va="center", color=color)
    low, high = sizes[0]["articles"], sizes[-1]["articles"]
    axes.plot([low, high], [low / 1e4, high / 1e4], color=svg.GRID, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.set_xlim(low / 1.2, high * (high / low or 1) ** 0.22 * 1.5)
    axes.set_xticks([size["articles"] for size in sizes], [f"{size['articles']:,}" for size in sizes], minor=False)
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.set_title("CPU seconds of each stage by articles; dashed: 100 microseconds an article")
