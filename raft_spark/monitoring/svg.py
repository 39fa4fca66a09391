"""Draw charts with matplotlib as SVG text in the colours of the surrounding page, light or dark.

A chart is drawn with placeholder colours, and each placeholder becomes a CSS variable of the page. The same numbers
give the same text. matplotlib is imported when a chart is drawn, because EMR does not have it.
"""

import io
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Placeholder colours, which no chart uses as real ones, and the CSS variable of each.
INK, MUTED, GRID = "#010203", "#020304", "#030405"
FIRST, SECOND, ALARM, GOOD = "#040506", "#050607", "#060708", "#070809"
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", FIRST: "first", SECOND: "second", ALARM: "alarm", GOOD: "good"}
STYLE: Mapping[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": MUTED,
    "axes.labelsize": 11,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11.5,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "font.sans-serif": ["DejaVu Sans"],
    "grid.color": GRID,
    "legend.frameon": False,
    "legend.labelcolor": MUTED,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": GRID,
    "xtick.labelcolor": MUTED,
    "xtick.labelsize": 11,
    "ytick.color": GRID,
    "ytick.labelcolor": MUTED,
    "ytick.labelsize": 11,
    "ytick.left": False,
}
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def render(name: str, size: tuple[float, float], draw: Callable[["Figure"], None]) -> str:
    """Draw a chart and return its <svg>, without metadata and with ids that no other chart of the page has."""
    from matplotlib import rc_context  # noqa: PLC0415 - EMR does not have it
    from matplotlib.figure import Figure  # noqa: PLC0415 - the same

    file = io.StringIO()
    with rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=size)
        draw(figure)
        figure.savefig(file, format="svg", metadata=NO_METADATA)
    return _adapt_to_page(file.getvalue())


def _adapt_to_page(text: str) -> str:
    """Remove the XML header and the ids of groups, which nothing refers to; use the page's colours and font."""
    inner = text[text.index("<svg") :]
    for color, variable in VARIABLES.items():
        inner = inner.replace(color, f"var(--{variable})")
    return re.sub(r'<g id="[^"]*"', "<g", inner).replace("'DejaVu Sans'", "system-ui")
