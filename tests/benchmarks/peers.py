"""Compare the base stage with other engines that build the same table, in rows per CPU second, in one run on one machine.

    make bench-peers     # build/env-peers/bin/python tests/benchmarks/peers.py [--articles 211269] [--rounds 3] [--peers Polars DuckDB]

Polars, DuckDB and Daft read the Parquet files of the table articles and write base with the rule of the stage: the oracle in a
share P of the rows, k distractors of other articles of the split, as many more for a row without its oracle (base.absent =
"singles"), no text twice in a row, the order by a seeded hash. Each script is in peer_scripts.py. pyarrow's floor and the notebook's loop are those of base.py.

All take turns; a first round is not counted. What counts are CPU seconds of all processes, medians over the rounds. A peer
runs in this process, where it was imported before; the stage has a session that is warm. Each table is checked after it was
timed. Prints one table, and keeps it in build/bench/peers.md and, with all rounds, in peers.json.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import datasets
import polars as pl

os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
os.environ.setdefault("POLARS_MAX_THREADS", "2")  # as many as the session has cores
os.environ["DO_NOT_TRACK"] = "1"  # Daft reports its use

import peer_scripts
from base import notebook_loop, read, read_and_write_once, written_source
from peer_scripts import K, P
from watch import KINDS, watched

from raft_spark import config
from raft_spark.lake import browse, schemas, session, tables
from raft_spark.stages import articles, base

LOOP_ROWS = 10_000
HERE = KINDS[:1]  # what a peer takes is in this process; the session idles beside it
Spent = dict[str, float]
STAGE, FLOOR, LOOP = "raft-spark", "pyarrow's floor", "the notebook's loop"
PEERS: Mapping[str, Callable[[Path, Path], None]] = {
    "Polars": peer_scripts.with_polars,
    "DuckDB": peer_scripts.with_duckdb,
    "Daft": peer_scripts.with_daft,
}
WHOLE = "no manifest with digests, files do not appear whole and synced, a killed run leaves what it wrote"
LACKS = {
    STAGE: "",
    FLOOR: "draws nothing: reads the articles, and writes rows that are in memory already",
    "Polars": f"{WHOLE}; rows depend on the order of the articles; a split is in memory whole, on one machine",
    "DuckDB": f"{WHOLE}; one machine",
    "Daft": f"{WHOLE}; rows depend on the order of the articles; the texts of a split are in memory",
    LOOP: f"{WHOLE}; unseeded; a distractor can be of the own article or come twice; lengths tell rows without their oracle; "
    "JSON, all rows in memory",
}


def main() -> None:
    """Measure, check, print, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--articles", type=int, default=211_269)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--peers", nargs="+", default=[*PEERS, LOOP], help="engines that take their turn beside the stage"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raft-bench-") as name:
        folder = Path(name)
        source = written_source(folder, options.articles)
        words = [f"lake.root={folder}/lake", f"articles.source={source}", "base.absent=singles"]
        conf = config.load(assignments=[*words, 'spark."spark.master"="local[2]"'])
        session.start(conf)
        articles.run(conf)
        rounds = [one_round(conf, folder, source, options.peers) for _ in range(1 + options.rounds)][1:]
        session.stop()
    middle = {name: statistics.median(sum(one[name].values()) for one in rounds) for name in rounds[0]}
    result = {"articles": options.articles, "cpu_us_a_row": middle, "rounds": rounds, "versions": versions()}
    kept = Path("build/bench")
    kept.mkdir(parents=True, exist_ok=True)
    (kept / "peers.json").write_text(json.dumps(result, indent=1))
    text = f"{options.articles:,} articles, {', '.join(versions().values())}\n\n{table(middle)}\n"
    (kept / "peers.md").write_text(text)
    sys.stdout.write(text)


def one_round(conf: config.Config, folder: Path, source: Path, peers: Sequence[str]) -> dict[str, Spent]:
    """Let the stage, the floor and `peers` take turns; return what each spent."""
    place = tables.storage(conf.lake, schemas.BASE)
    if place.list():
        place.delete("")
    known = tables.require(conf.lake, schemas.ARTICLES)
    articles_at, rows = Path(browse.folder(conf.lake, known)), sum(file.rows for file in known.data())
    found = {STAGE: cpu_a_row(lambda: base.run(conf), rows, KINDS)}
    check(Path(browse.folder(conf.lake, tables.require(conf.lake, schemas.BASE))), articles_at)
    found[FLOOR] = of_floor(conf, folder, rows)
    for name in PEERS.keys() & set(peers):
        found[name] = of_peer(PEERS[name], folder, articles_at, rows)
    if LOOP in peers:
        data = datasets.Dataset.from_parquet(str(source), cache_dir=str(folder / "cache"))
        found[LOOP] = cpu_a_row(lambda: notebook_loop(data, folder, LOOP_ROWS), LOOP_ROWS)
    return found


def of_floor(conf: config.Config, folder: Path, rows: int) -> Spent:
    """Read the articles and write the base rows once with pyarrow; return what that spent."""
    base_tables = list(read(conf, schemas.BASE))
    return cpu_a_row(lambda: read_and_write_once(conf, base_tables, folder), rows)


def of_peer(build: Callable[[Path, Path], None], folder: Path, source: Path, rows: int) -> Spent:
    """Let a peer build base in a new folder, and check what it built; return what it spent."""
    to = folder / "peer"
    for split in schemas.SPLITS:
        (to / f"data/split={split}").mkdir(parents=True)
    spent = cpu_a_row(lambda: build(source, to), rows)
    check(to, source)
    shutil.rmtree(to)
    return spent


def cpu_a_row(work: Callable[[], object], rows: int, kinds: Sequence[str] = HERE) -> Spent:
    """Return the CPU microseconds a row of some kinds of processes."""
    spent = watched(work).cpu
    return {kind: round(spent[kind] / rows * 1e6, 1) for kind in kinds}


def check(built: Path, source: Path) -> None:
    """Raise AssertionError unless `built` holds a row for each article, with documents as the rule says."""
    for split in schemas.SPLITS:
        known = pl.read_parquet(source / f"data/split={split}/*.parquet", hive_partitioning=False)
        rows = pl.read_parquet(built / f"data/split={split}/*.parquet", hive_partitioning=False)
        rows = rows.join(known.select("pubid", "passages"), "pubid", validate="1:1")
        assert len(rows) == len(known)
        others = pl.col("documents").list.filter(~pl.element().struct.field("oracle"))
        texts, pubids = (others.list.eval(pl.element().struct.field(name)) for name in ("text", "pubid"))
        found = rows.select(
            right_size=pl.col("documents").list.len() == pl.col("passages").list.len() + K,
            right_others=others.list.len()
            == K + pl.when("distracted").then(pl.col("passages").list.len()).otherwise(0),
            foreign_texts=texts.list.set_intersection("passages").list.len() == 0,
            different_texts=texts.list.n_unique() == texts.list.len(),
            foreign_articles=~pubids.list.contains(pl.col("pubid")),
            different_articles=pubids.list.n_unique() == pubids.list.len(),
        )
        wrong = [name for name in found.columns if not found[name].all()]
        assert not wrong, f"{built}, {split}: not {wrong}"
        assert abs(rows["distracted"].mean() - (1 - P)) < 5 * (P * (1 - P) / len(rows)) ** 0.5


def versions() -> dict[str, str]:
    """Return the engines with their versions."""
    return {name: f"{name} {version(name)}" for name in ("polars", "duckdb", "daft", "pyarrow", "numpy", "pyspark")}


def table(middle: Mapping[str, float]) -> str:
    """Return the figures as a Markdown table, the fastest first."""
    lines = [
        "| engine | rows a CPU second | raft-spark = 1 | CPU us a row | what it does not do |",
        "|---|---|---|---|---|",
    ]
    for name, spent in sorted(middle.items(), key=lambda item: item[1]):
        lines.append(f"| {name} | {1e6 / spent:,.0f} | {middle[STAGE] / spent:.2f} | {spent:.0f} | {LACKS[name]} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
