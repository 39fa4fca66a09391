"""What a run of completions says about itself while it asks: one small JSON object in the lake, replaced every few seconds.

    ROOT/completions/runs/RUN_ID.json

The driver writes it; a terminal, `raft-spark progress` in another process and the run's report read it.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from raft_spark import schemas
from raft_spark.config import Lake
from raft_spark.files import Place

State = Literal["asking", "finished", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class Point:
    """The run at one time: `seconds` since its start, sums since then, and `open` calls and `window` at that time."""

    seconds: float
    answered: int
    failed: int
    calls: int
    throttled: int
    tokens: int
    open: int
    window: int


@dataclass(frozen=True, slots=True)
class Run:
    """A run as last told. `total` requests were to be asked, `known` more had answers before; `answered` and `failed` (by
    error class) are stored; `calls` and `throttled` count every attempt. Times are ISO 8601, UTC. `reason` says why a run
    stopped or failed. `series` has at most some hundred points, in order.
    """

    id: str
    endpoint: str
    model: str
    started_at: str
    updated_at: str
    total: int
    known: int = 0
    state: State = "asking"
    reason: str = ""
    tasks: int = 0
    answered: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)
    calls: int = 0
    throttled: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    dollars: float = 0.0
    open: int = 0
    window: int = 0
    series: tuple[Point, ...] = ()


def write(lake: Lake, run: Run) -> None:
    """Store what a run says of itself, over what it said before."""
    _folder(lake).write(f"{run.id}.json", json.dumps(dataclasses.asdict(run)).encode())


def read(lake: Lake, run_id: str = "") -> Run | None:
    """Return a run, by default the last that began; None when there is none."""
    folder = _folder(lake)
    name = f"{run_id}.json" if run_id else max((file.path for file in folder.list()), default="")
    stored = folder.read(name) if name else None
    if stored is None:
        return None
    told = json.loads(stored)
    return Run(**{**told, "series": tuple(Point(**point) for point in told["series"])})


def _folder(lake: Lake) -> Place:
    return Place.of(lake).at(schemas.COMPLETIONS, "runs")
