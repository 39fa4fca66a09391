"""Measure what a row costs in each stage as the number of articles grows, beside the least that anything could cost.

    python tests/benchmarks/stages.py [--articles 20000 211269 1000000] [--check]

For each size a fresh process writes built-in articles as one Parquet file and runs the stages on local[2] in one session: own
answers, no teacher, the two default formats. Reading the articles and writing the base rows once with pyarrow, in the same
process, is the floor (the least of FLOORS times). Prints one table and keeps it, with all figures, in build/bench/stages.md and stages.json.

The command fails when the memory of a worker grows with the texts, from STEADY articles on. With --check, only the smallest size runs, and it fails when
a stage's CPU seconds, as a multiple of the floor's, are more than MOST_GROWN times those of tests/benchmarks/stages.toml.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyspark

os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")

from base import read, read_and_write_once, written_source
from watch import watched

from raft_spark import config
from raft_spark.lake import schemas, session, tables
from raft_spark.monitoring import spark_stats
from raft_spark.recipe import corpus
from raft_spark.stages import articles, base, completions, dataset

STAGES: Mapping[str, Callable[[config.Config], tables.Version]] = {
    schemas.ARTICLES: articles.run,
    schemas.BASE: base.run,
    schemas.COMPLETIONS: completions.run,
    schemas.DATASET: dataset.run,
}
MOST_GROWN = 1.5
STEADY = 200_000  # articles from which on a worker's buffers are full
FLOORS = 5  # times that the floor is measured; the least counts
Figures = dict[str, Any]


def main() -> None:
    """Measure, print, keep, check."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--articles", type=int, nargs="+", default=[20_000, 211_269, 1_000_000])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        sys.stdout.write(json.dumps(measured(options.one)) + "\n")
        return
    counts = sorted(options.articles)[: 1 if options.check else None]
    found = [measured_alone(count) for count in counts]
    kept = Path("build/bench")
    kept.mkdir(parents=True, exist_ok=True)
    (kept / "stages.json").write_text(json.dumps({"machine": machine(), "sizes": found}, indent=1))
    text = f"{machine_line()}\n\n{table(found)}\n"
    (kept / "stages.md").write_text(text)
    sys.stdout.write(text)
    if broken := [*holding_texts(found), *(slower(found[0]) if options.check else [])]:
        sys.exit("not as promised: " + "; ".join(broken))


def measured_alone(count: int) -> Figures:
    """Measure one size in a process of its own."""
    command = [sys.executable, __file__, "--one", str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measured(count: int) -> Figures:
    """Run all stages on `count` built-in articles, and the floor."""
    with tempfile.TemporaryDirectory(prefix="raft-bench-") as folder:
        source = written_source(Path(folder), count)
        words = [f"lake.root={folder}/lake", f"articles.source={source}", "dataset.answer=original"]
        conf = config.load(assignments=[*words, 'spark."spark.master"="local[2]"'])
        found: Figures = {"articles": count, "start": asdict(watched(lambda: session.start(conf)))}
        found["stages"] = {name: one_stage(name, conf) for name in STAGES}
        session.stop()
        base_tables = list(read(conf, schemas.BASE))
        row_groups = tables.row_groups(conf.lake, tables.require(conf.lake, schemas.ARTICLES))
        found["texts_mb"] = round(corpus.text_bytes(row_groups) / 1e6)
        floors = [watched(lambda: read_and_write_once(conf, base_tables, Path(folder))) for _ in range(FLOORS)]
        found["floor"] = asdict(min(floors, key=lambda usage: sum(usage.cpu.values())))
    return found


def one_stage(name: str, conf: config.Config) -> Figures:
    """Run a stage; return what it took, what Spark shuffled and spilled for it, and what it wrote."""
    spark = session.start(conf)
    last = spark_stats.last_stage(spark)
    usage = asdict(watched(lambda: STAGES[name](conf)))
    books = spark_stats.measure(spark, last)
    files = tables.require(conf.lake, name).files
    return {
        **usage,
        "shuffled_mb": round(books["shuffle_written_bytes"] / 1e6, 1),
        "spilled_mb": round(books["spilled_bytes"] / 1e6, 1),
        "files": len(files),
        "written_mb": round(sum(file.bytes for file in files) / 1e6, 1),
    }


def cpu_a_row(size: Figures, stage: Figures) -> float:
    """Return the CPU microseconds a row of all processes."""
    return sum(stage["cpu"].values()) / size["articles"] * 1e6


def table(sizes: Sequence[Figures]) -> str:
    """Return the figures as a Markdown table; the exponent is that of CPU seconds by articles, from the size before."""
    names = ("articles", "stage", "CPU us a row", "driver", "JVM", "workers", "times the floor", "exponent", "seconds")
    sizes_mb = ("peak MB: driver", "JVM", "worker", "shuffled MB", "spilled MB", "written MB", "files")
    lines = ["| " + " | ".join((*names, *sizes_mb)) + " |", "|---" * (len(names) + len(sizes_mb)) + "|"]
    for before, size in zip([None, *sizes[:-1]], sizes, strict=True):
        for name, stage in size["stages"].items():
            parts = [f"{seconds / size['articles'] * 1e6:.0f}" for seconds in stage["cpu"].values()]
            cells = [
                f"{size['articles']:,}",
                name,
                f"{cpu_a_row(size, stage):.0f}",
                *parts,
                f"{times_the_floor(size, name):.1f}",
            ]
            cells += [exponent(before, size, name) if before else "", f"{stage['seconds']:.1f}"]
            cells += [str(peak) for peak in stage["peak_mb"].values()]
            cells += [str(stage[key]) for key in ("shuffled_mb", "spilled_mb", "written_mb", "files")]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def exponent(before: Figures, size: Figures, name: str) -> str:
    """Return the power of the number of articles with which a stage's CPU seconds grow."""
    seconds = [sum(each["stages"][name]["cpu"].values()) for each in (before, size)]
    return f"{math.log(seconds[1] / seconds[0]) / math.log(size['articles'] / before['articles']):.2f}"


def times_the_floor(size: Figures, name: str) -> float:
    """Return a stage's CPU seconds as a multiple of the floor's."""
    return sum(size["stages"][name]["cpu"].values()) / sum(size["floor"]["cpu"].values())


def slower(size: Figures) -> list[str]:
    """Return the stages that cost more than MOST_GROWN times what is recorded, in words."""
    recorded = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())["times_the_floor"]
    now = {name: times_the_floor(size, name) for name in STAGES}
    return [
        f"{name} takes {times:.1f} times the floor's CPU seconds, {recorded[name]} is recorded"
        for name, times in now.items()
        if times > MOST_GROWN * recorded[name]
    ]


def holding_texts(sizes: Sequence[Figures]) -> list[str]:
    """Return the stages whose largest worker grew by more than a tenth of the texts, in words."""
    large = [size for size in sizes if size["articles"] >= STEADY]
    if len(large) < 2:
        return []
    first, last = large[0], large[-1]
    texts = last["texts_mb"] - first["texts_mb"]
    grown = {
        name: last["stages"][name]["peak_mb"]["worker"] - first["stages"][name]["peak_mb"]["worker"] for name in STAGES
    }
    return [
        f"a worker of {name} grew by {more} MB beside {texts} MB of texts"
        for name, more in grown.items()
        if more > texts / 10 > 0
    ]


def machine() -> Figures:
    """Return what the figures depend on."""
    load = os.getloadavg()[0]
    return {
        "cores": os.cpu_count(),
        "load": round(load, 2),
        "spark": pyspark.__version__,
        "pyarrow": pa.__version__,
        "python": sys.version.split()[0],
    }


def machine_line() -> str:
    """Return the machine in words."""
    return ", ".join(f"{name} {value}" for name, value in machine().items())


if __name__ == "__main__":
    main()
