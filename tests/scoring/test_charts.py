"""Charts of an evaluation: names of any number and length leave room for what is drawn."""

import warnings

import pytest
from matplotlib.figure import Figure

from raft_spark.monitoring import svg
from raft_spark.scoring import charts

pytestmark = pytest.mark.row


@pytest.mark.parametrize("students", [1, 4, 12, 40])
def test_a_legend_of_many_long_names_leaves_the_axes_their_height(students: int):
    def draw(figure: Figure) -> None:
        for axes in figure.subplots(1, 2):
            for number in range(students):
                axes.plot([0, 1], [number, number], label=f"raft-70-singles-80-rows-seed-{number}, with oracle")
        charts._draw_legend(figure)
        figure.draw_without_rendering()
        heights.extend(axes.get_position().height * figure.get_figheight() for axes in figure.axes)

    heights: list[float] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg.render("legend", charts.FULL, draw)
    assert min(heights) > 2.5  # inches
