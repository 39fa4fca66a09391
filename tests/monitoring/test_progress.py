"""What a terminal shows of a run."""

import io

import pytest
from rich.console import Console

from raft_spark.monitoring import progress
from raft_spark.monitoring.run_state import Run

pytestmark = pytest.mark.row


@pytest.mark.parametrize("width", [80, 200])
def test_a_terminal_shows_the_status_of_a_run_with_its_bar(width: int):
    run = Run("r", "teacher", "m", "2026-11-22T17:35:00Z", "2026-11-22T17:36:00Z", total=90, answered=30)
    sink = io.StringIO()
    progress.follow(lambda: run, lambda _: True, Console(file=sink, width=width, force_terminal=True))
    assert "30 of 90 asked" in sink.getvalue()
    assert "━" in sink.getvalue()
