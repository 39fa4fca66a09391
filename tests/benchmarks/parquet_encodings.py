"""Measure what the Parquet encodings cost for the rows of base: CPU to write and to read, and bytes.

    python tests/benchmarks/parquet_encodings.py [--articles 20000]

Built-in articles, and the real ones of the file that RAFT_SPARK_REAL_ARTICLES names. pyarrow writes and reads the rows of the
stage in row groups as large as the stage's, in turns with the other encodings; the least CPU of ROUNDS counts. Prints a table
and keeps it in build/bench/encodings.md. The first encoding is the one that the lake uses.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")

from base import read

from raft_spark import config
from raft_spark.lake import parquet, schemas, session
from raft_spark.stages import articles, base

ROUNDS = 7
LEAST_ROWS = 20_000  # fewer rows are written several times
ENCODINGS: Mapping[str, Mapping[str, Any]] = {
    "zstd 1": parquet.PARQUET,
    "zstd 3": {"compression": "zstd", "compression_level": 3, "use_dictionary": False},
    "lz4": {"compression": "lz4", "use_dictionary": False},
    "snappy": {"compression": "snappy", "use_dictionary": False},
    "none": {"compression": "none", "use_dictionary": False},
    "zstd 1, dictionary": {"compression": "zstd", "compression_level": 1, "use_dictionary": True},
    "lz4, dictionary": {"compression": "lz4", "use_dictionary": True},
    "snappy, dictionary": {"compression": "snappy", "use_dictionary": True},
    "zstd 1, dictionary of the decision": {
        "compression": "zstd",
        "compression_level": 1,
        "use_dictionary": ["final_decision"],
    },
}


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--articles", type=int, default=20_000)
    sources = {"built-in": f"sample:{parser.parse_args().articles}"}
    if real := os.environ.get("RAFT_SPARK_REAL_ARTICLES"):
        sources["real"] = real
    lines = ["| articles | encoding | CPU us a row: write | read | both | bytes a row |", "|---" * 6 + "|"]
    for name, source in sources.items():
        with tempfile.TemporaryDirectory(prefix="raft-bench-") as folder:
            conf = config.load(assignments=[f"lake.root={folder}", f"articles.source={source}"])
            session.start(conf)
            articles.run(conf)
            base.run(conf)
            rows = pa.concat_tables(read(conf, schemas.BASE))
            lines += measured(name, rows, Path(folder), conf.lake.row_group_rows)
    session.stop()
    kept = Path("build/bench/encodings.md")
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text("\n".join(lines) + "\n")
    sys.stdout.write(kept.read_text())


def measured(source: str, rows: pa.Table, folder: Path, row_group_rows: int) -> Iterator[str]:
    """Yield a line of the table for each encoding."""
    path, times = folder / "rows.parquet", -(-LEAST_ROWS // len(rows))
    writing: dict[str, list[float]] = {name: [] for name in ENCODINGS}
    reading: dict[str, list[float]] = {name: [] for name in ENCODINGS}
    size = {}
    for _ in range(ROUNDS):
        for name, options in ENCODINGS.items():
            write = partial(pq.write_table, rows, path, row_group_size=row_group_rows, **options)
            writing[name].append(cpu_us(write, times) / len(rows))
            reading[name].append(cpu_us(lambda: pq.read_table(path), times) / len(rows))
            size[name] = path.stat().st_size / len(rows)
    for name in ENCODINGS:
        write_us, read_us = min(writing[name]), min(reading[name])
        cells = [f"{len(rows):,} {source}", name, f"{write_us:.1f}", f"{read_us:.1f}", f"{write_us + read_us:.1f}"]
        yield "| " + " | ".join([*cells, f"{size[name]:,.0f}"]) + " |"


def cpu_us(work: Callable[[], object], times: int) -> float:
    """Return the CPU microseconds of all threads that a call takes, as the mean of some calls."""
    begin = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - begin) / times * 1e6


if __name__ == "__main__":
    main()
