"""Stored rows of a run -> RunStats: the statistics that the run's page shows, added up batch by batch.

The size of RunStats does not depend on the number of rows: latencies and tokens become histograms with 100 bins per
power of ten (2.3 % wide), and only the slowest rows and the longest answers are kept.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from raft_spark.config import Lake
from raft_spark.errors import InputError
from raft_spark.lake import schemas, tables

COLUMNS = (
    "pubid",
    "completion",
    "error_class",
    "error",
    "attempts",
    "finish_reason",
    "prompt_tokens",
    "completion_tokens",
    "latency_ms",
)
PER_DECADE = 100
EDGES = 10 ** (np.arange(10 * PER_DECADE) / PER_DECADE)  # 1 .. 10^10: covers every int32
TOP_ROWS = 10
TEXT_LENGTH = 120
BATCH_ROWS = 16_384

Histogram = Counter[int]  # by bin; bin i holds EDGES[i] <= value < EDGES[i + 1], bin 0 also values below 1


@dataclass(frozen=True, slots=True)
class CompletionRow:
    """One stored row; `text` is the start of the answer, or of the error when `failed`. None is not known."""

    pubid: int
    latency_ms: int | None
    completion_tokens: int | None
    attempts: int
    finish_reason: str
    failed: bool
    text: str


@dataclass(frozen=True, slots=True)
class RunStats:
    """Statistics of rows. Latencies (ms) and tokens are those of answers; `cut` counts the answers that ended at the
    token limit.

    `attempts` counts rows by number of calls, `errors` rows by error class; `examples` has the first error of each
    class.
    """

    rows: int = 0
    answered: int = 0
    cut: int = 0
    latencies: Histogram = field(default_factory=Counter)
    prompt_tokens: Histogram = field(default_factory=Counter)
    completion_tokens: Histogram = field(default_factory=Counter)
    attempts: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    examples: Mapping[str, str] = field(default_factory=dict)
    slowest: tuple[CompletionRow, ...] = ()
    longest: tuple[CompletionRow, ...] = ()


def read_batches(lake: Lake, run_id: str) -> Iterator[pa.RecordBatch]:
    """Yield a run's rows from the files of the store, in batches; Parquet statistics skip row groups of other runs.

    Raises InputError when a file cannot be read.
    """
    store = tables.storage(lake, schemas.COMPLETIONS)
    paths = [store.path(path) for path in tables.answer_files(lake)]
    try:
        rows = ds.dataset(paths, schemas.SCHEMAS[schemas.COMPLETIONS], format="parquet", filesystem=store.filesystem)
        of_run = ds.field("run_id") == run_id
        yield from rows.to_batches(
            columns=[*COLUMNS], filter=of_run, batch_size=BATCH_ROWS, batch_readahead=4, fragment_readahead=8
        )
    except (OSError, pa.ArrowException) as error:
        msg = f"{store.root}/data cannot be read: {error}"
        raise InputError(msg) from error


def add_batch(stats: RunStats, batch: pa.RecordBatch) -> RunStats:
    """Return the statistics with a batch of rows added; its columns are COLUMNS."""
    answered = batch.filter(pc.is_valid(batch["completion"]))
    failed = batch.filter(pc.is_null(batch["completion"]))
    return RunStats(
        rows=stats.rows + batch.num_rows,
        answered=stats.answered + answered.num_rows,
        cut=stats.cut + (pc.sum(pc.equal(answered["finish_reason"], "length")).as_py() or 0),
        latencies=stats.latencies + _bin_counts(answered["latency_ms"]),
        prompt_tokens=stats.prompt_tokens + _bin_counts(answered["prompt_tokens"]),
        completion_tokens=stats.completion_tokens + _bin_counts(answered["completion_tokens"]),
        attempts=stats.attempts + _value_counts(batch["attempts"]),
        errors=stats.errors + _value_counts(failed["error_class"]),
        examples=_first_errors(failed) | dict(stats.examples),
        slowest=_merge_top([*stats.slowest, *_top_rows(batch, "latency_ms")], "latency_ms"),
        longest=_merge_top([*stats.longest, *_top_rows(answered, "completion_tokens")], "completion_tokens"),
    )


def percentile(histogram: Histogram, share: float) -> int:
    """Return the value that `share` of the rows do not exceed (nearest rank), with an error of at most 1.2 %, rounded
    to a whole number. The histogram must not be empty.
    """
    rank, count = share * histogram.total(), 0
    for number in sorted(histogram):
        count += histogram[number]
        if count >= rank:
            break
    return round(float(np.sqrt(EDGES[number] * EDGES[number + 1])))


def widen_bins(histogram: Histogram, times: int) -> tuple[list[float], list[int]]:
    """Return (edges, counts) of bins `times` as wide, from the first to the last that is not empty."""
    wide = Counter[int]()
    for number, count in histogram.items():
        wide[number // times] += count
    numbers = range(min(wide), max(wide) + 1)
    return [float(EDGES[number * times]) for number in (*numbers, numbers.stop)], [wide[number] for number in numbers]


def _bin_counts(values: pa.Array) -> Histogram:
    known = values.drop_null().to_numpy(zero_copy_only=False)
    return Counter(np.maximum(np.searchsorted(EDGES, known, side="right") - 1, 0).tolist())


def _value_counts(values: pa.Array) -> Counter[Any]:
    return Counter({row["values"]: row["counts"] for row in values.drop_null().value_counts().to_pylist()})


def _first_errors(failed: pa.RecordBatch) -> dict[str, str]:
    """Return the first error of each class."""
    first = failed.select(["error_class", "error"]).to_pylist()[::-1]
    return {row["error_class"]: row["error"] or "" for row in first if row["error_class"]}


def _top_rows(batch: pa.RecordBatch, column: str) -> Iterator[CompletionRow]:
    """Yield the TOP_ROWS rows with the highest values of a column; only their texts are converted to Python."""
    known = batch.filter(pc.is_valid(batch[column]))
    order = [(column, "descending"), ("pubid", "ascending")]
    for row in known.take(pc.select_k_unstable(known, TOP_ROWS, order)).to_pylist():
        failed = row["completion"] is None
        text = row["error"] if failed else row["completion"]
        yield CompletionRow(
            pubid=row["pubid"],
            latency_ms=row["latency_ms"],
            completion_tokens=row["completion_tokens"],
            attempts=row["attempts"],
            finish_reason=(row["error_class"] if failed else row["finish_reason"]) or "",
            failed=failed,
            text=_shorten(text or ""),
        )


def _merge_top(rows: list[CompletionRow], column: str) -> tuple[CompletionRow, ...]:
    return tuple(sorted(rows, key=lambda row: (-getattr(row, column), row.pubid))[:TOP_ROWS])


def _shorten(text: str) -> str:
    return text if len(text) <= TEXT_LENGTH else f"{text[:TEXT_LENGTH]} …"
