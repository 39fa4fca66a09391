"""A made-up run of completions, its stored rows, and a lake that holds both."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raft_spark import config
from raft_spark.lake import schemas
from raft_spark.monitoring import run_state, run_stats
from raft_spark.monitoring.run_state import Point, Run
from raft_spark.monitoring.run_stats import RunStats

SCHEMA = schemas.SCHEMAS[schemas.COMPLETIONS]
RUN_ID = "20261122T101500Z-1a2b3c4d-5e6f"
HOSTILE = "</td></table><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}"
ROW = {
    "key": "k",
    "pubid": 1,
    "completion": "Yes.",
    "attempts": 1,
    "model": "m",
    "finish_reason": "stop",
    "prompt_tokens": 400,
    "completion_tokens": 60,
    "latency_ms": 1200,
    "created_at": datetime(2026, 11, 22, tzinfo=UTC),
    "run_id": RUN_ID,
}
FAILED_ROW = {**ROW, "completion": None, "finish_reason": None, "prompt_tokens": None, "completion_tokens": None}


def batch(*rows: dict[str, object]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(list(rows), SCHEMA).select([*run_stats.COLUMNS])


def stats_of(*rows: dict[str, object]) -> RunStats:
    return run_stats.add_batch(RunStats(), batch(*rows))


def run_points() -> Iterator[Point]:
    """Yield the points of a run of 25 minutes, one every 10 seconds; the endpoint throttles now and then."""
    chance = random.Random(7)
    window, answered, calls, throttled = 4, 0, 0, 0
    for step in range(1, 151):
        hit = window >= 32 and chance.random() < 0.25
        window = window // 2 if hit else min(64, window + 1)
        throttled += 3 if hit else 0
        answered += int(window * chance.uniform(5, 7))
        calls = answered + throttled + step // 3
        yield Point(10.0 * step, answered, answered // 100, calls, throttled, answered * 480, window - step % 3, window)


SPARK = {
    "tasks": 1_208,
    "failed_tasks": 3,
    "task_seconds": 11_820.5,
    "gc_seconds": 23.64,
    "shuffle_read_bytes": 92_400_000,
    "shuffle_written_bytes": 92_400_000,
    "spilled_bytes": 0,
    "executors": 9,
    "executors_lost": 1,
    "peak_memory_bytes": 1_340_000_000,
}


def made_up_run() -> Run:
    series = tuple(run_points())
    last = series[-1]
    return Run(
        id=RUN_ID,
        endpoint="bedrock",
        model="us.meta.llama3-3-70b-instruct-v1:0",
        started_at="2026-11-22T10:15:00+00:00",
        updated_at="2026-11-22T10:40:00+00:00",
        total=60_000,
        known=1_234,
        state="stopped",
        reason="completions.max_spend = 12.0 dollars is reached; a rerun asks only what is missing",
        tasks=8,
        answered=last.answered,
        failed={"model_error": 31, "filtered": 12, "bad_request": 3},
        calls=last.calls,
        throttled=last.throttled,
        prompt_tokens=last.answered * 410,
        completion_tokens=last.answered * 70,
        dollars=12.01,
        open=0,
        window=last.window,
        series=series,
        spark=SPARK,
    )


def stored_rows(count: int = 4000) -> list[dict[str, object]]:
    chance = random.Random(8)
    classes = ("model_error",) * 6 + ("filtered", "filtered", "bad_request")
    errors = {
        "model_error": "status 500: the worker died while it decoded",
        "filtered": "the server's content filter stopped the answer",
        "bad_request": "status 400: the prompt has 9,114 tokens, the model takes 8,192",
    }
    rows: list[dict[str, object]] = []
    for number in range(count):
        attempts = min(8, 1 + int(chance.expovariate(1.8)))
        shared = {"pubid": 10_000_000 + 37 * number, "attempts": attempts}
        shared["latency_ms"] = int(chance.lognormvariate(7.6, 0.45))
        if number % 90 == 0:
            name = chance.choice(classes)
            rows.append({**FAILED_ROW, **shared, "error_class": name, "error": errors[name]})
            continue
        size = int(chance.lognormvariate(4.2, 0.5))
        text = (
            "The data suggest that early treatment reduces the mean hospital stay, although the effect is small. " * 2
        )
        tokens = {"prompt_tokens": int(chance.gauss(410, 60)), "completion_tokens": size}
        rows.append(
            {**ROW, **shared, **tokens, "completion": text, "finish_reason": "length" if size > 250 else "stop"}
        )
    return rows


def lake_with(tmp_path: Path, run: Run | None, *files: list[dict[str, object]]) -> config.Lake:
    lake = config.load(assignments=[f"lake.root={tmp_path / 'lake'}"]).lake
    if run:
        run_state.write(lake, run)
    for number, rows in enumerate(files):
        path = tmp_path / f"lake/completions/data/day=2026-11-22/{number}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path)
    return lake
