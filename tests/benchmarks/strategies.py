"""Compare the two strategies of base, in one run on one machine.

    python tests/benchmarks/strategies.py [--articles 1000000] [--rounds 2]

Both take turns; a first round is not counted. Fails unless they write the same files, and if the join takes more than
MOST_TIMES the seconds of the broadcast. Prints one table, and keeps it in build/bench/strategies.md.
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")

from base import written_source

from raft_spark import config
from raft_spark.lake import schemas, session, tables
from raft_spark.stages import articles
from stages import one_stage

MOST_TIMES = 4.0
STRATEGIES = ("broadcast", "join")
NAMES = ("articles", "strategy", "seconds", "CPU us a row", "driver", "JVM", "workers")
SIZES = ("peak MB: driver", "JVM", "worker", "shuffled MB", "spilled MB")


def main() -> None:
    """Measure, check, print, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--articles", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raft-bench-") as folder:
        words = [f"lake.root={folder}/lake", 'spark."spark.master"="local[2]"']
        conf = config.load(assignments=[*words, f"articles.source={written_source(Path(folder), options.articles)}"])
        session.start(conf)
        articles.run(conf)
        rounds = [one_round(conf) for _ in range(1 + options.rounds)][1:]
        session.stop()
    text = "| " + " | ".join((*NAMES, *SIZES)) + " |\n" + "|---" * len(NAMES + SIZES) + "|\n"
    text += "".join(line(options.articles, name, [one[name] for one in rounds]) for name in STRATEGIES)
    kept = Path("build/bench/strategies.md")
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(text)
    times = statistics.median(one["join"]["seconds"] / one["broadcast"]["seconds"] for one in rounds)
    sys.stdout.write(f"{text}\nthe join takes {times:.1f} times the seconds of the broadcast\n")
    if times > MOST_TIMES:
        sys.exit(f"more than {MOST_TIMES}")


def one_round(conf: config.Config) -> dict[str, dict[str, Any]]:
    """Let both strategies write base, and return what each took."""
    found, files = {}, set()
    for strategy in STRATEGIES:
        place = tables.storage(conf.lake, schemas.BASE)
        if place.list():
            place.delete("")
        chosen = conf.model_copy(update={"base": conf.base.model_copy(update={"strategy": strategy})})
        found[strategy] = one_stage(schemas.BASE, chosen)
        files.add(tables.require(conf.lake, schemas.BASE).files)
    assert len(files) == 1, "the strategies wrote different files"
    return found


def line(articles_read: int, strategy: str, rounds: list[dict[str, Any]]) -> str:
    """Return the medians of the rounds as a line of the table."""
    seconds = statistics.median(one["seconds"] for one in rounds)
    cpu = [statistics.median(one["cpu"][kind] for one in rounds) / articles_read * 1e6 for kind in rounds[0]["cpu"]]
    peaks = [max(one["peak_mb"][kind] for one in rounds) for kind in rounds[0]["peak_mb"]]
    shuffled = [statistics.median(one[name] for one in rounds) for name in ("shuffled_mb", "spilled_mb")]
    cells = [f"{articles_read:,}", strategy, f"{seconds:.1f}", *(f"{each:.0f}" for each in (sum(cpu), *cpu))]
    return "| " + " | ".join([*cells, *map(str, peaks), *(f"{each:,.0f}" for each in shuffled)]) + " |\n"


if __name__ == "__main__":
    main()
