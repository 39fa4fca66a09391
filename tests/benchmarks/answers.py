"""Measure completions where (nearly) all answers are stored: what it costs to find out that there is nothing to ask.

    PYTHONPATH=tests:. python tests/benchmarks/answers.py [--articles 20000 211269] [--stored 1000000] [--file-answers 5000]

For each number of articles a fresh process writes the answers to all but the last 1 % as a run of the stage would store them,
--file-answers in a file, and as many answers to other requests as make --stored. Then the stage runs on local[2]: `first` (it
merges the small files and publishes), `same` (with identical settings), `again` (with another setting that asks nothing), and
`grown`, after the last 1 % of the articles has come, with the fake endpoint. Prints one line of JSON and keeps it in
build/bench/answers.json: CPU seconds and peak memory by kind of process, where Spark had started before.

The command fails when a run with nothing to ask takes more than MOST_CPU seconds at up to PUBMEDQA answers, or when one more
request was sent than there were new articles.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")

from watch import watched
from workload import requests

from raft_spark import config, endpoints
from raft_spark.endpoints.base import Reply
from raft_spark.inference import answer_store
from raft_spark.inference.admission import InFlightRequest
from raft_spark.lake import schemas, session, tables
from raft_spark.monitoring import spark_stats
from raft_spark.stages import articles, base, completions
from support.fake_server import calls

MOST_CPU, PUBMEDQA = 15.0, 211_269
GROWTH = 0.01
RUN = "20260101T000000-00000000"  # that stored the answers
RUNS = ("first", "same", "again", "grown")
Figures = dict[str, Any]


def main() -> None:
    """Measure, print, keep, check."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--articles", type=int, nargs="+", default=[20_000, PUBMEDQA])
    parser.add_argument("--stored", type=int, default=0, help="answers in the store, at least one for each old article")
    parser.add_argument("--file-answers", type=int, default=5_000)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        sys.stdout.write(json.dumps(measured(options.one, options)) + "\n")
        return
    found = [measured_alone(count) for count in sorted(options.articles)]
    kept = Path("build/bench/answers.json")
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(found, indent=1))
    sys.stdout.write(json.dumps(found) + "\n")
    if broken := [sentence for size in found for sentence in not_as_promised(size)]:
        sys.exit("not as promised: " + "; ".join(broken))


def measured_alone(count: int) -> Figures:
    """Measure one size in a process of its own."""
    command = [sys.executable, *sys.argv, "--one", str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measured(count: int, options: argparse.Namespace) -> Figures:
    """Fill a store, and run the stage four times."""
    old = count - int(count * GROWTH)
    with (
        tempfile.TemporaryDirectory(prefix="raft-bench-") as folder,
        endpoints.serving(config.load().endpoints["fake"]) as fake,
    ):
        conf = settled(Path(folder), fake.url, count, old)
        files = fill(conf, max(0, options.stored - old), options.file_answers)
        figures = {
            "articles": count,
            "stored": max(options.stored, old),
            "files": files,
            "load": round(os.getloadavg()[0], 1),
            "first": one_run(conf),
            "same": one_run(conf),
            "again": one_run(settled(Path(folder), fake.url, count, old, "completions.reuse_truncated=false")),
            "grown": one_run(settled(Path(folder), fake.url, count, count)),
            "calls": calls(fake.url)["calls"],
        }
        session.stop()
    return figures


def settled(folder: Path, url: str, count: int, limit: int, *assignments: str) -> config.Config:
    """Settle a lake of the first `limit` of the articles, by hash, whose teacher is the fake; make its base."""
    lake = [f"lake.root={folder}/lake", f"articles.source=sample:{count}", f"articles.limit={limit}"]
    teacher = ["completions.endpoint=fake", f"endpoints.fake.url={url}", "completions.in_flight=64"]
    conf = config.load(assignments=[*lake, *teacher, 'spark."spark.master"="local[2]"', *assignments])
    articles.run(conf)
    base.run(conf)
    return conf


def fill(conf: config.Config, others: int, file_answers: int) -> int:
    """Store an answer to each request, and to so many others; return the number of files."""
    storage, rows = (
        tables.storage(conf.lake, schemas.COMPLETIONS),
        itertools.chain(answers(conf), unasked(conf, others)),
    )
    for number in itertools.count():
        if not (batch := list(itertools.islice(rows, file_answers))):
            return number
        name = f"{answer_store.file_prefix(RUN, number % 2)}-{number:032x}"
        answer_store.write_answers(storage, "2026-01-01", name, batch)
    raise AssertionError("counting ends")


def answers(conf: config.Config) -> Iterator[dict[str, Any]]:
    """Yield a stored answer to each request of the base."""
    for number, (pubid, request) in enumerate(requests(conf)):
        words = f"It does, as {number} of {pubid} patients show. " * (2 + number % 8)
        reply = Reply(words, "stop", request.characters // 4, len(words) // 4)
        yield answer_store.answer_row(
            InFlightRequest(pubid, request, attempts=1, latency=1.5, reply=reply), conf.teacher.model, RUN
        )


def unasked(conf: config.Config, count: int) -> Iterator[dict[str, Any]]:
    """Yield answers to requests that nobody asks any more, as those of another model."""
    rows = itertools.cycle(list(itertools.islice(answers(conf), 1_000)))
    for number, row in enumerate(itertools.islice(rows, count)):
        yield {**row, "key": f"a{number:031x}", "key_of_any_length": f"b{number:031x}"}


def one_run(conf: config.Config) -> Figures:
    """Run the stage; return what it took and asked."""
    spark = session.start(conf)
    last = spark_stats.last_stage(spark)
    usage = asdict(watched(lambda: completions.run(conf)))
    books, counts = spark_stats.measure(spark, last), tables.require(conf.lake, schemas.COMPLETIONS).counts
    shuffled = {
        name: round(books[f"{key}_bytes"] / 1e6, 1)
        for name, key in (("shuffled_mb", "shuffle_written"), ("spilled_mb", "spilled"))
    }
    return {**usage, **shuffled, "cpu_all": round(sum(usage["cpu"].values()), 2), "asked": counts["asked"]}


def not_as_promised(size: Mapping[str, Any]) -> Sequence[str]:
    """Return what is slower than promised, and what was asked for nothing."""
    new = int(size["articles"] * GROWTH)
    wrong = {
        f"{name} takes {size[name]['cpu_all']} CPU s at {size['articles']} articles": size[name]["cpu_all"] > MOST_CPU
        for name in ("first", "same", "again")
        if size["stored"] <= PUBMEDQA
    }
    wrong[f"{size['calls']} calls were made for {new} new articles"] = size["calls"] != new
    wrong |= {
        f"the CPU seconds of {name} cannot be: {size[name]['cpu']}": min(size[name]["cpu"].values()) < 0
        for name in RUNS
    }
    wrong["answers that are stored were asked"] = any(size[name]["asked"] for name in ("first", "again"))
    return [sentence for sentence, is_wrong in wrong.items() if is_wrong]


if __name__ == "__main__":
    main()
