"""What the driver needs to number the articles: bytes of memory and microseconds of CPU an article, with made-up hashes.

    python tests/benchmarks/numbering.py [--articles 1000000 2000000 5000000 10000000]

Each size is measured in processes of their own, for a first version and for one that keeps the numbers of the version before.
Prints a table and keeps it in build/bench/numbering.json; fails above LIMIT. Five minutes and 0.5 GB below $TMPDIR.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

from raft_spark import config
from raft_spark.lake import parquet
from raft_spark.lake.filesystem import Storage
from raft_spark.sources import splits, text_hashes

LIMIT = 60  # bytes an article
TEXTS = 4.5  # of an article, on average: a question and its passages
FILE_ROWS = 8 * text_hashes.ROW_GROUP_ROWS


def main() -> None:
    """Measure each size, print, keep, compare with LIMIT."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--articles", type=int, nargs="+", default=[1_000_000, 2_000_000, 5_000_000, 10_000_000])
    parser.add_argument("--measure", nargs=3, metavar=("FOLDER", "ARTICLES", "KIND"), help=argparse.SUPPRESS)
    parser.add_argument("--held-out", type=float, default=0.2, help="share of the articles in validation and test")
    options = parser.parse_args()
    if options.measure:
        folder, count, kind = options.measure
        sys.stdout.write(json.dumps(measured(Path(folder), int(count), kind, options.held_out)))
        return
    with tempfile.TemporaryDirectory(prefix="raft-bench-") as folder:
        write(Path(folder), max(options.articles))
        found = [
            in_a_process(folder, count, kind, options.held_out)
            for count in options.articles
            for kind in ("first", "refresh")
        ]
    sys.stdout.write(table(found))
    kept = Path("build/bench/numbering.json")
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(found, indent=1))
    if above := [each for each in found if each["bytes"] > LIMIT]:
        sys.exit(f"more than {LIMIT} bytes an article: {above}")


def write(folder: Path, count: int) -> None:
    """Write what the first pass of articles would: all pubids different, 1 of 1000 texts shared with another article."""
    pubids = np.random.default_rng(0).permutation(count)
    for index, start in enumerate(range(0, count, FILE_ROWS)):
        own = pubids[start : start + FILE_ROWS]
        draw = np.random.default_rng(1 + index)
        lengths = draw.integers(2, round(2 * TEXTS - 2), len(own), endpoint=True)
        hashes = draw.integers(2**64, size=lengths.sum(), dtype=np.uint64)
        shared = draw.random(len(hashes)) < 0.001
        hashes[shared] = draw.integers(count // 100, size=shared.sum(), dtype=np.uint64)
        offsets = np.cumsum([0, *lengths], dtype=np.int32)
        rows = pa.table([pa.array(own), pa.ListArray.from_arrays(offsets, hashes)], schema=text_hashes.SCHEMA)
        with parquet.PartitionedWriter(Storage(str(folder)), rows.schema, index, text_hashes.ROW_GROUP_ROWS) as writer:
            writer.write("hashes", rows)


def in_a_process(folder: str, count: int, kind: str, held_out: float) -> dict[str, Any]:
    """Measure one size in a new process, whose peak is its own."""
    command = [sys.executable, __file__, "--held-out", str(held_out), "--measure", folder, str(count), kind]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {"articles": count, "kind": kind, **json.loads(done.stdout)}


def measured(folder: Path, count: int, kind: str, held_out: float) -> dict[str, float]:
    """Number the first `count` articles; return bytes and microseconds of CPU an article."""
    share = held_out / 2
    conf = config.load().articles.model_copy(update={"test_share": share, "validation_share": share})
    at = Storage(str(folder))
    files = [parquet.describe(path, f"hashes/{path.name}") for path in sorted((folder / "hashes").iterdir())]
    few = files[: -(-count // FILE_ROWS)]
    splits.assign(text_hashes.records(at, few[:1]), conf, splits.NO_ARTICLES)  # loads what is loaded once
    records = text_hashes.records(at, few)
    before = previous(records) if kind == "refresh" else splits.NO_ARTICLES
    resident, cpu = psutil.Process().memory_info().rss, seconds()
    assignment = splits.assign(records, conf, before)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "bytes": round((peak - resident) / records.count, 1),
        "microseconds": round((seconds() - cpu) / records.count * 1e6, 2),
        "leaks": assignment.count(splits.HELD_OUT),
    }


def previous(records: splits.Records) -> splits.NumberedArticles:
    """Return a version before that has all articles in each split, so that train keeps its numbers."""

    def parts(_: int) -> Iterator[tuple[Any, Any]]:
        start = 0
        for pubids in records.pubids():
            yield pubids, np.arange(start, start + len(pubids))
            start += len(pubids)

    return splits.NumberedArticles((records.count,) * 3, parts)


def seconds() -> float:
    """Return the CPU seconds of this process, with all its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def table(found: list[dict[str, Any]]) -> str:
    """Return the measurements as text."""
    lines = [f"{'articles':>10}  {'version':8}{'bytes':>6}{'CPU us':>8}"]
    lines += [f"{each['articles']:>10,}  {each['kind']:8}{each['bytes']:>6}{each['microseconds']:>8}" for each in found]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
