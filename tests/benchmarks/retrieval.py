"""Measure what hard distractors cost, beside random ones, in one run.

    python tests/benchmarks/retrieval.py [--articles 211269] [--postings 8192]

Builds base from the same built-in articles with random distractors, and then with all of them from bm25, with each limit of
base.retrieval.postings, and from mesh. The least CPU seconds of ROUNDS count; the first build of each warms up. Prints a
table, and keeps it in build/bench/retrieval.md and retrieval.json: CPU a row, as a multiple of random distractors, how near
is what bm25 finds, and the size of the index a million passages.

How near: the sum of the full scores of the passages found for ASKED questions, as a share of what a search without a bound
finds. Passages that are not among the best DEEP of a question count as 0.

The command fails when bm25 with the limit of conf/default.toml takes more than MOST_TIMES the CPU of random distractors.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")

from base import written_source
from watch import watched

from raft_spark import config
from raft_spark.lake import parquet, schemas, session, tables
from raft_spark.lake.filesystem import Storage
from raft_spark.recipe import retrieval, sampling
from raft_spark.stages import articles, base
from stages import machine, machine_line

MOST_TIMES = 10.0
ROUNDS = 2
ASKED, DEEP = 400, 4096


def main() -> None:
    """Measure, print, keep, check."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--articles", type=int, default=211_269)
    parser.add_argument("--postings", type=int, nargs="+", default=[])
    options = parser.parse_args()
    default = config.load().base.retrieval.postings
    ways = {"random": [], f"bm25, {default} postings": ["base.distractors_from={bm25=1.0}"]}
    for limit in options.postings:
        ways[f"bm25, {limit} postings"] = ["base.distractors_from={bm25=1.0}", f"base.retrieval.postings={limit}"]
    ways["mesh"] = ["base.distractors_from={mesh=1.0}"]
    with tempfile.TemporaryDirectory(prefix="raft-bench-") as folder:
        source = written_source(Path(folder), options.articles)
        basis = [f"lake.root={folder}/lake", f"articles.source={source}", 'spark."spark.master"="local[2]"']
        session.start(config.load(assignments=basis))
        version = articles.run(config.load(assignments=basis))
        passages = sum(
            len(parquet.read_row_group(group, ["passages"])["passages"].combine_chunks().flatten())
            for group in tables.row_groups(config.load(assignments=basis).lake, version)
        )
        found = {name: measured(config.load(assignments=[*basis, *settings])) for name, settings in ways.items()}
        both = config.load(assignments=[*basis, "base.distractors_from={bm25=0.5,mesh=0.5}"])
        sizes = index_mb(both, Path(folder))
        nearness = near(both, Path(folder, "index"), [default, *options.postings])
        session.stop()
    near_by_name = {f"bm25, {limit} postings": share for limit, share in nearness.items()}
    rows = {
        name: {"us_a_row": cpu / options.articles * 1e6, "times": cpu / found["random"], "near": near_by_name.get(name)}
        for name, cpu in found.items()
    }
    mb = {name: size / passages * 1e6 for name, size in sizes.items()}
    lines = ["| distractors | CPU µs a row | times random | how near |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {row['us_a_row']:.0f} | {row['times']:.1f} | {row['near'] or ''} |" for name, row in rows.items()
    ]
    lines += [
        "",
        "| file | MB a million passages |",
        "|---|---|",
        *(f"| {name} | {size:.0f} |" for name, size in mb.items()),
    ]
    text = f"{machine_line()}\n{options.articles:,} articles, {passages:,} passages\n\n" + "\n".join(lines) + "\n"
    kept = Path("build/bench/retrieval.json")
    kept.parent.mkdir(parents=True, exist_ok=True)
    result = {"machine": machine(), "articles": options.articles, "passages": passages, "rows": rows, "mb": mb}
    kept.write_text(json.dumps(result, indent=1))
    kept.with_suffix(".md").write_text(text)
    sys.stdout.write(text)
    times = rows[f"bm25, {default} postings"]["times"]
    if times > MOST_TIMES:
        sys.exit(
            f"not as promised: bm25 takes {times:.1f} times the CPU of random distractors, at most {MOST_TIMES:g} is promised"
        )


def measured(conf: config.Config) -> float:
    """Return the CPU seconds of all processes that base takes."""
    seconds = []
    for _ in range(1 + ROUNDS):
        tables.storage(conf.lake, schemas.BASE).delete("")
        seconds.append(sum(watched(lambda: base.run(conf)).cpu.values()))
    return min(seconds[1:])


def index_mb(conf: config.Config, folder: Path) -> dict[str, float]:
    """Return the megabytes of what a retriever maps: signatures and the indexes of all splits."""
    methods = sampling.methods(conf.base)
    groups = tables.row_groups(conf.lake, tables.require(conf.lake, schemas.ARTICLES))
    (folder / "index").mkdir()
    retrieval.build(groups, methods, folder / "index")
    sizes: dict[str, float] = {}
    for path in (folder / "index").iterdir():
        kind = path.stem.rpartition("-")[2]
        sizes[kind] = sizes.get(kind, 0) + path.stat().st_size / 1e6
    return sizes


def near(conf: config.Config, folder: Path, limits: Sequence[int]) -> dict[int, float]:
    """Return by bound how near the passages are that bm25 finds with it, as a share of those found without one."""
    groups = tables.row_groups(conf.lake, tables.require(conf.lake, schemas.ARTICLES))
    train = (parquet.read_row_group(group, ["number"]) for group in groups if group["split"] == "train")
    asked = np.concatenate([table["number"].to_numpy() for table in train])
    asked = np.sort(np.random.default_rng(0).choice(asked, ASKED, replace=False))
    retriever, window = (
        retrieval.map_files(Storage(str(folder)), "train", (retrieval.BM25,)),
        conf.base.retrieval.window,
    )
    index, queries = retriever.indexes[retrieval.BM25], retriever.queries[retrieval.BM25].of(asked)
    best, _ = index.search(queries, asked.astype(np.uint64), DEEP, asked)
    scores = dict(zip(zip(best.row, best.number, best.passage, strict=True), best.score.tolist(), strict=True))
    most, shares = int(best.score[best.rank <= window].sum()), {}
    for limit in limits:
        found, _ = index.search(queries, asked.astype(np.uint64), window, asked, limit)
        reached = sum(scores.get(hit, 0) for hit in zip(found.row, found.number, found.passage, strict=True))
        shares[limit] = round(reached / most, 2)
    return shares


if __name__ == "__main__":
    main()
