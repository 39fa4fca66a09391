"""Measure what a row costs in each stage as the number of articles grows, beside the least that anything could cost.

    python tests/benchmarks/stages.py [--articles 20000 211269 1000000] [--set SETTING ...] [--add] [--check]

For each size a fresh process writes built-in articles as one Parquet file and runs the stages on local[2] in one session: own
answers, no teacher, the two default formats. The source is deleted once the table articles holds it. Reading articles and
writing base rows once with pyarrow, in the same process, is the floor (the least of FLOORS times, over some files when there
are many). Prints one table and keeps it in build/bench/stages.md, all figures in stages.json, and a chart of them in stages.svg.

--set takes settings of raft-spark: `dataset.file=parquet 'dataset.formats=["messages"]'` takes the least room on the disk.
--add keeps the sizes that stages.json has from earlier runs.

The command fails when, from STEADY articles on, ten times the articles take more than 10 * MOST_CPU times the CPU seconds, or
a worker with MOST_MEMORY times the memory. With --check, only the smallest size runs, and it fails when a stage's CPU seconds,
as a multiple of the floor's, are more than MOST_GROWN times those of tests/benchmarks/stages.toml.
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
import pyarrow.compute as pc
import pyspark

os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")

import growth
from base import read, write, written_source
from watch import watched

from raft_spark import config
from raft_spark.lake import parquet, schemas, session, tables
from raft_spark.monitoring import spark_stats
from raft_spark.stages import articles, base, completions, dataset

STAGES: Mapping[str, Callable[[config.Config], tables.Version]] = {
    schemas.ARTICLES: articles.run,
    schemas.BASE: base.run,
    schemas.COMPLETIONS: completions.run,
    schemas.DATASET: dataset.run,
}
MOST_GROWN = 1.5
STEADY = 200_000  # articles from which on a worker's buffers are full
MOST_CPU, MOST_MEMORY = 1.05, 1.2  # CPU seconds a row, and the largest worker, beside those for a tenth of the articles
FLOORS = 5  # times that the floor is measured; the least counts
FLOOR_ROWS = 250_000
LOCAL = ('spark."spark.master"="local[2]"',)
Figures = dict[str, Any]


def main() -> None:
    """Measure, print, keep, check."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--articles", type=int, nargs="+", default=[20_000, 211_269, 1_000_000])
    parser.add_argument("--set", nargs="+", default=[], metavar="SETTING", dest="settings")
    parser.add_argument("--add", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        sys.stdout.write(json.dumps(measured(options.one, options.settings)) + "\n")
        return
    counts = sorted(options.articles)[: 1 if options.check else None]
    found = {count: measured_alone(count, options.settings) for count in counts}
    kept = Path("build/bench", "stages_check.json" if options.check else "stages.json")
    if options.add and kept.exists():
        found = {size["articles"]: size for size in json.loads(kept.read_text())["sizes"]} | found
    sizes = [found[count] for count in sorted(found)]
    keep(kept, sizes)
    broken = [*growing(sizes), *(slower(sizes) if options.check else [])]
    if broken and options.check:  # a machine that is busy for a moment is no reason
        broken = slower([sizes[0], measured_alone(counts[0], options.settings)])
    if broken:
        sys.exit("not as promised: " + "; ".join(broken))


def keep(kept: Path, sizes: Sequence[Figures]) -> None:
    """Write the figures, their table and their chart; print the table."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps({"machine": machine(), "sizes": sizes}, indent=1))
    text = f"{machine_line()}\n\n{table(sizes)}\n"
    kept.with_suffix(".md").write_text(text)
    kept.with_suffix(".svg").write_text(growth.chart(sizes))
    sys.stdout.write(text)


def measured_alone(count: int, settings: Sequence[str] = ()) -> Figures:
    """Measure one size in a process of its own."""
    command = [sys.executable, __file__, "--one", str(count), *(["--set", *settings] if settings else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measured(count: int, settings: Sequence[str]) -> Figures:
    """Run all stages on `count` built-in articles, and the floor."""
    with tempfile.TemporaryDirectory(prefix="raft-bench-") as folder:
        source = written_source(Path(folder), count)
        words = [f"lake.root={folder}/lake", f"articles.source={source}", "dataset.answer=original", *LOCAL, *settings]
        conf = config.load(assignments=words)
        found: Figures = {"articles": count, "settings": [*settings]}
        found["start"] = asdict(watched(lambda: session.start(conf)))
        found["stages"] = {}
        for name in STAGES:
            found["stages"][name] = one_stage(name, conf)
            source.unlink(missing_ok=True)  # the table articles has it now
        session.stop()
        parts = tables.index_row_groups(conf.lake, tables.require(conf.lake, schemas.ARTICLES))
        lengths = (parquet.read_row_group(part, ["lengths"])["lengths"] for part in parts)
        found["texts_mb"] = round(sum(pc.sum(pc.list_flatten(of)).as_py() for of in lengths) / 1e6)
        found["floor_us_a_row"] = floor(conf, Path(folder))
    return found


def floor(conf: config.Config, folder: Path) -> float:
    """Return the CPU microseconds a row of reading articles and of writing base rows, whole files up to FLOOR_ROWS."""
    base_tables = list(read(conf, schemas.BASE, FLOOR_ROWS))
    articles_read = sum(map(len, read(conf, schemas.ARTICLES, FLOOR_ROWS)))
    reading = least_cpu(lambda: sum(map(len, read(conf, schemas.ARTICLES, FLOOR_ROWS)))) / articles_read
    writing = least_cpu(lambda: write(base_tables, folder)) / sum(map(len, base_tables))
    return round((reading + writing) * 1e6, 2)


def least_cpu(work: Callable[[], object]) -> float:
    """Return the least CPU seconds that a call takes."""
    return min(sum(watched(work).cpu.values()) for _ in range(FLOORS))


def one_stage(name: str, conf: config.Config) -> Figures:
    """Run a stage; return what it took, what Spark shuffled and spilled for it, and what it wrote."""
    spark = session.start(conf)
    last = spark_stats.last_stage(spark)
    usage = asdict(watched(lambda: STAGES[name](conf)))
    books = spark_stats.measure(spark, last)
    files = tables.require(conf.lake, name).files
    return {
        **usage,
        "task_seconds": round(books["task_seconds"], 2),
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
    return cpu_a_row(size, size["stages"][name]) / size["floor_us_a_row"]


def slower(runs: Sequence[Figures]) -> list[str]:
    """Return the stages that in each run cost more than MOST_GROWN times what is recorded, in words."""
    recorded = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())["times_the_floor"]
    least = {name: min(times_the_floor(run, name) for run in runs) for name in STAGES}
    return [
        f"{name} takes {times:.1f} times the floor's CPU seconds, {recorded[name]} is recorded"
        for name, times in least.items()
        if times > MOST_GROWN * recorded[name]
    ]


def growing(sizes: Sequence[Figures]) -> list[str]:
    """Return the stages that cost more than promised as articles grow, with the same settings, in words."""
    large = [size for size in sizes if size["articles"] >= STEADY and size["settings"] == sizes[-1]["settings"]]
    if len(large) < 2:
        return []
    first, last = large[0], large[-1]
    tenfolds = math.log10(last["articles"] / first["articles"])
    found = []
    for name in STAGES:
        before, after = (size["stages"][name] for size in (first, last))
        figures = {
            "the CPU seconds a row": (cpu_a_row(last, after) / cpu_a_row(first, before), MOST_CPU),
            "the memory of a worker": (after["peak_mb"]["worker"] / before["peak_mb"]["worker"], MOST_MEMORY),
        }
        found += [
            f"{name} takes {times:.2f} times {what} for {last['articles']:,} articles beside {first['articles']:,}"
            for what, (times, most) in figures.items()
            if times > most**tenfolds
        ]
    return found


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
