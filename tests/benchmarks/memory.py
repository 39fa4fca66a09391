"""How much memory articles and base take as N grows: driver, Python workers and JVM, sampled while they run.

    python tests/benchmarks/memory.py [--articles 200000 2000000]

Prints one line of JSON and keeps it in build/bench/memory.json: for each N and stage the peak of anonymous memory (RssAnon, in MB:
what a process holds for itself; pages of mapped files are shared and can be dropped) of the driver, of the largest
Python worker and of the JVM, and the size of the texts. Fails when a worker's peak grows with the texts.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")

from raft_spark import config
from raft_spark.lake import schemas, session, tables
from raft_spark.recipe import corpus
from raft_spark.stages import articles, base

LOOK_EVERY = 0.2  # seconds
Peaks = dict[str, float]


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--articles", type=int, nargs="+", default=[200_000, 2_000_000])
    options = parser.parse_args()
    found = {str(count): measured(count) for count in options.articles}
    kept = Path("build/bench/memory.json")
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(found, indent=1))
    sys.stdout.write(json.dumps(found) + "\n")
    sizes = list(found.values())
    for stage in ("articles", "base"):
        grown = sizes[-1][stage]["worker"] - sizes[0][stage]["worker"]
        if grown > 0.1 * (sizes[-1]["texts"] - sizes[0]["texts"]):
            sys.exit(f"a worker of {stage} grew by {grown:.0f} MB: it holds texts")


def measured(count: int) -> dict[str, object]:
    """Run both stages on `count` built-in articles."""
    with tempfile.TemporaryDirectory(prefix="raft-bench-") as folder:
        conf = config.load(
            assignments=[
                f"lake.root={folder}",
                f"articles.source=sample:{count}",
                "base.strategy=broadcast",
                'spark."spark.master"="local[2]"',
                'spark."spark.driver.memory"="1g"',
            ]
        )
        session.start(conf)
        peaks = {"articles": watched(lambda: articles.run(conf)), "base": watched(lambda: base.run(conf))}
        session.stop()
        texts = corpus.text_bytes(tables.row_groups(conf.lake, tables.require(conf.lake, schemas.ARTICLES)))
    return {**peaks, "texts": round(texts / 1e6)}


def watched(work: Callable[[], object]) -> Peaks:
    """Run a stage and return the peaks, in MB, and its seconds."""
    peaks: Peaks = {"driver": 0, "worker": 0, "jvm": 0}
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_EVERY):
            for kind, megabytes in family():
                peaks[kind] = max(peaks[kind], megabytes)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    begin = time.monotonic()
    work()
    over.set()
    watcher.join()
    return {**{kind: round(value) for kind, value in peaks.items()}, "seconds": round(time.monotonic() - begin, 1)}


def family() -> list[tuple[str, float]]:
    """Return the anonymous memory of this process, and of the JVM and Python workers below it: (driver, worker or jvm; MB)."""
    parents, found = {os.getpid()}, [("driver", anonymous(os.getpid()))]
    processes = sorted(int(path.name) for path in Path("/proc").glob("[0-9]*"))
    for process in processes:
        try:
            parent = int(Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()[1])
            words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue
        if parent in parents:
            parents.add(process)
            is_java, is_worker = words[0].endswith(b"java"), b"pyspark.daemon" in words
            found += [("jvm" if is_java else "worker", anonymous(process))] if is_java or is_worker else []
    return found


def anonymous(process: int) -> float:
    """Return RssAnon in MB, 0 for a process that is gone."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    kilobytes = next((line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")), "0")
    return int(kilobytes) / 1000


if __name__ == "__main__":
    main()
