"""Store the state of a run that sends requests: one small JSON file in the lake, replaced every few seconds.

    ROOT/STAGE/runs/RUN_ID.json

The driver writes it. The driver's own progress line, `raft-spark progress` in another process and the run's HTML page
read it.
"""

import dataclasses
import datetime as dt
import json
import logging
import re
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

CHECK_EVERY, WRITE_EVERY, SILENT_SECONDS = 0.5, 5.0, 60.0  # seconds

NOT_COUNTED = ("prompts_not_counted", "completions_not_counted", "possibly_billed")  # fields of Run
State = Literal["asking", "finished", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class Point:
    """The state of a run `seconds` after its `started_at`: totals since the start, and the `open` calls and `window` at
    that time.

    Answers are counted when they arrive, failed rows when they are stored.
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
    """The last stored state of a run.

    `total` requests were to be sent; `known` others already had a stored answer. `answered` and `failed` (by error
    class) count stored rows; `calls` and `throttled` count every attempt. Times are ISO 8601, UTC. `reason` says why a
    run stopped or failed. `series` has at most a few hundred points, in order. `spark` has the measurements of
    spark_stats, empty until the stage has ended. `stage` is the stage that sends the requests and stores the answers.

    `dollars` are those of the tokens that the server counted, and of an endpoint's hours. Answers whose tokens it did
    not count (`prompts_not_counted`, `completions_not_counted`) and the `possibly_billed` calls, which failed, cost at
    most `possible_dollars` more.
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
    possible_dollars: float = 0.0
    prompts_not_counted: int = 0
    completions_not_counted: int = 0
    possibly_billed: int = 0

    @property
    def most_dollars(self) -> float:
        """Return the dollars that the run has cost at most, which count against max_spend."""
        return self.dollars + self.possible_dollars

    @property
    def failures(self) -> str:
        """Return the failed rows by class, such as `3 timeout, 1 filtered`."""
        return wording.counts(self.failed) if self.failed else ""

    @property
    def is_silent(self) -> bool:
        """Return whether an unfinished run has stored no state for SILENT_SECONDS: its driver has probably been lost."""
        updated = dt.datetime.fromisoformat(self.updated_at)
        return self.state == "asking" and (dt.datetime.now(dt.UTC) - updated).total_seconds() > SILENT_SECONDS

    @property
    def done(self) -> int:
        """Return the number of stored requests, answered or failed."""
        return self.answered + sum(self.failed.values())

    def rates(self, seconds: float = 30.0) -> tuple[float, float]:
        """Return answers and tokens per second over the last `seconds`; 0 while there are fewer than two points."""
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


def known_tokens(sums: Mapping[str, int], not_counted: Mapping[str, int]) -> dict[str, int | None]:
    """Return sums of tokens by name; None, not 0, for one of which the server counted nothing."""
    return {name: count or (None if not_counted[name] else 0) for name, count in sums.items()}


def start(run: Run, tasks: int) -> Run:
    """Return the run as its tasks start."""
    return replace(run, state="asking", tasks=tasks)


def finish(run: Run, failure: str, stop_reason: str) -> Run:
    """Return the run as it ended: failed when `failure` has the endpoint's error, else stopped when there is a
    `stop_reason`, else finished.
    """
    state: State = "failed" if failure else "stopped" if stop_reason else "finished"
    return replace(run, state=state, reason=failure or stop_reason)


def join(before: Run, now: Run) -> Run:
    """Return `now`, which continues the run `before` (calls after batch jobs), with the totals of both."""
    tokens = ("prompt_tokens", "completion_tokens", "dollars", "possible_dollars", *NOT_COUNTED)
    names = ("answered", "calls", "throttled", *tokens)
    sums = {name: getattr(before, name) + getattr(now, name) for name in names}
    last = before.series[-1] if before.series else Point(0, 0, 0, 0, 0, 0, 0, 0)
    series = (*before.series, *(_offset(last, point) for point in now.series))
    return replace(now, failed=dict(Counter(before.failed) + Counter(now.failed)), series=series, **sums)


def _offset(last: Point, point: Point) -> Point:
    names = ("answered", "failed", "calls", "throttled", "tokens")
    return replace(point, **{name: getattr(last, name) + getattr(point, name) for name in names})


@contextmanager
def store_periodically(lake: Lake, read_run: Callable[[], Run]) -> Iterator[None]:
    """Store the run every WRITE_EVERY seconds while the `with` block runs; a write that fails is logged."""

    def store(over: threading.Event) -> None:
        last = float("-inf")
        while not over.wait(CHECK_EVERY):
            run = read_run()
            if time.monotonic() - last >= WRITE_EVERY:
                try_write(lake, run)
                last = time.monotonic()

    with in_background(store):
        yield


def try_write(lake: Lake, run: Run) -> None:
    """Store the state of a run; log it if that is not possible."""
    try:
        write(lake, run)
    except (OSError, InputError) as error:
        logging.getLogger(__name__).warning("the run's progress could not be stored: %s", error)


def write(lake: Lake, run: Run) -> None:
    """Store the state of a run, in place of its previous state."""
    _folder(lake, run.stage).write(f"{run.id}.json", json.dumps(dataclasses.asdict(run)).encode())


def read(lake: Lake, run_id: str = "") -> Run | None:
    """Return a run of completions, by default the one that started last; None when there is none.

    Raises InputError when `run_id` is no id of a run.
    """
    if run_id and not re.fullmatch(r"\w[\w.-]*", run_id):
        msg = f"{run_id!r} is no id of a run; it must be like 20261122T202130.123456Z-1a2b3c4d-5e6f"
        raise InputError(msg)
    folder = _folder(lake, schemas.COMPLETIONS)
    name = (
        f"{run_id}.json"
        if run_id
        else max((file.path for file in folder.list() if file.path.endswith(".json")), default="")
    )
    stored = folder.read(name) if name else None
    if stored is None:
        return None
    fields = json.loads(stored)
    return Run(**{**fields, "series": tuple(Point(**point) for point in fields["series"])})


def _folder(lake: Lake, stage: str) -> Storage:
    return Storage.of(lake).at(stage, "runs")
