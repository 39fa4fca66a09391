"""metrics of students -> a chart of one metric by what was shown to them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from raft_spark.monitoring import svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = (8.4, 4.2)  # inches
COLORS = (svg.MUTED, svg.FIRST, svg.SECOND, svg.GOOD, svg.ALARM)
WIDTH = 0.6  # of all points of a setting, beside a distance of 1 between two settings
Points = Mapping[str, Sequence[Mapping[str, float]]]


def chart(title: str, settings: Sequence[str], points: Points) -> str:
    """Draw the points of each student, one for each of `settings`: its `value`, and an interval from `low` to `high`."""
    return svg.render("experiment", SIZE, lambda figure: _draw(figure, title, settings, points))


def _draw(figure: "Figure", title: str, settings: Sequence[str], points: Points) -> None:
    axes = figure.subplots()
    for number, (color, (student, of_student)) in enumerate(zip(COLORS, points.items(), strict=False)):
        places = [setting + WIDTH * (number / max(1, len(points) - 1) - 0.5) for setting in range(len(settings))]
        values = [point["value"] for point in of_student]
        below = [point["value"] - point["low"] for point in of_student]
        above = [point["high"] - point["value"] for point in of_student]
        style = {"fmt": "o", "color": color, "linewidth": 2, "markersize": 5}
        axes.errorbar(places, values, yerr=[below, above], label=student, **style)
    axes.set_xticks(range(len(settings)), settings)
    axes.set_ylim(bottom=0)
    axes.set_title(title)
    figure.legend(loc="outside lower center", ncols=len(points))
