"""What a run that asks says about itself meanwhile: one small JSON object in the lake, replaced every few seconds.

    ROOT/STAGE/runs/RUN_ID.json

The driver writes it; a terminal, `raft-spark progress` in another process and the run's report read it.
"""

import dataclasses
import datetime as dt
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

from raft_spark.common import wording
from raft_spark.common.background import in_background
from raft_spark.config import Lake
from raft_spark.errors import InputError
from raft_spark.lake import schemas
from raft_spark.lake.filesystem import Storage

CHECK_EVERY, WRITE_EVERY, SILENT_SECONDS = 0.5, 5.0, 60.0

State = Literal["asking", "finished", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class Point:
    """The run at one time: `seconds` since its `started_at` by the same clock, sums since then, and `open` calls and `window`
    at that time. Answers count as they come, failed rows as they are stored.
    """

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
    stopped or failed. `series` has at most some hundred points, in order. `spark` is what Spark did for the stage, by the names
    of cluster.py, empty until it has ended. `stage` is the one that asks, and whose store gets the answers.
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
    spark: Mapping[str, float] = field(default_factory=dict)
    stage: str = schemas.COMPLETIONS

    @property
    def failures(self) -> str:
        """Return the failed rows by class, as `3 timeout, 1 filtered`."""
        return wording.counts(self.failed) if self.failed else ""

    @property
    def is_silent(self) -> bool:
        """Say whether a run that should be asking has not told anything for a while: most likely its driver is gone."""
        then = dt.datetime.fromisoformat(self.updated_at)
        return self.state == "asking" and (dt.datetime.now(dt.UTC) - then).total_seconds() > SILENT_SECONDS

    @property
    def done(self) -> int:
        """Return how many requests are answered or failed, and stored."""
        return self.answered + sum(self.failed.values())

    def rates(self, seconds: float = 30.0) -> tuple[float, float]:
        """Return answers and tokens a second over the last `seconds`, 0 before anything can be said."""
        if not self.series:
            return 0.0, 0.0
        last = self.series[-1]
        first = next(point for point in self.series if point.seconds >= last.seconds - seconds)
        passed = last.seconds - first.seconds
        return (
            ((last.answered - first.answered) / passed, (last.tokens - first.tokens) / passed) if passed else (0.0, 0.0)
        )


def elapsed(run: Run, at: float) -> float:
    """Return the seconds from a run's start to the time `at`, which is in seconds since the epoch."""
    return at - dt.datetime.fromisoformat(run.started_at).timestamp()


def start(run: Run, tasks: int) -> Run:
    """Return a run whose tasks start now."""
    return replace(run, state="asking", tasks=tasks)


def finish(run: Run, trouble: str, stopped: str) -> Run:
    """Return a run as it ended: failed for `trouble` with the endpoint, `stopped` for another reason, or finished."""
    state: State = "failed" if trouble else "stopped" if stopped else "finished"
    return replace(run, state=state, reason=trouble or stopped)


def join(before: Run, now: Run) -> Run:
    """Return a run that goes on in another way: what it does `now` on top of what it had done `before`."""
    names = ("answered", "calls", "throttled", "prompt_tokens", "completion_tokens", "dollars")
    sums = {name: getattr(before, name) + getattr(now, name) for name in names}
    last = before.series[-1] if before.series else Point(0, 0, 0, 0, 0, 0, 0, 0)
    series = (*before.series, *(_offset(last, point) for point in now.series))
    return replace(now, failed=dict(Counter(before.failed) + Counter(now.failed)), series=series, **sums)


def _offset(last: Point, point: Point) -> Point:
    names = ("answered", "failed", "calls", "throttled", "tokens")
    return replace(point, **{name: getattr(last, name) + getattr(point, name) for name in names})


@contextmanager
def store_periodically(lake: Lake, told: Callable[[], Run]) -> Iterator[None]:
    """Store what `told` says every few seconds while the block runs; a write that fails is left to the next."""

    def keep(over: threading.Event) -> None:
        last = float("-inf")
        while not over.wait(CHECK_EVERY):
            run = told()
            if time.monotonic() - last >= WRITE_EVERY:
                _try_write(lake, run)
                last = time.monotonic()

    with in_background(keep):
        yield


def _try_write(lake: Lake, run: Run) -> None:
    try:
        write(lake, run)
    except (OSError, InputError) as error:
        logging.getLogger(__name__).warning("the run's progress could not be stored: %s", error)


def write(lake: Lake, run: Run) -> None:
    """Store what a run says of itself, over what it said before."""
    _folder(lake, run.stage).write(f"{run.id}.json", json.dumps(dataclasses.asdict(run)).encode())


def read(lake: Lake, run_id: str = "") -> Run | None:
    """Return a run of completions, by default the last that began; None when there is none."""
    folder = _folder(lake, schemas.COMPLETIONS)
    name = (
        f"{run_id}.json"
        if run_id
        else max((file.path for file in folder.list() if file.path.endswith(".json")), default="")
    )
    stored = folder.read(name) if name else None
    if stored is None:
        return None
    told = json.loads(stored)
    return Run(**{**told, "series": tuple(Point(**point) for point in told["series"])})


def _folder(lake: Lake, stage: str) -> Storage:
    return Storage.of(lake).at(stage, "runs")
