"""Compare the speed of the base stage with the notebook's loop and with a lower bound, in one run on one machine.

    python tests/benchmarks/base.py [--articles 211269] [--loop-rows 20000] [--rounds 3]

Print one line of JSON and store it in build/bench/base.json: rows/s of each, as medians over rounds in which the three take
turns, and two ratios with limits: at least 5x the loop, at most 3x the lower bound's seconds.
"""

import argparse
import json
import math
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")

from raft_spark import config
from raft_spark.lake import browse, schemas, session, tables
from raft_spark.sources import synthetic
from raft_spark.stages import articles, base

PROMISED_LOOP, PROMISED_FLOOR = 5.0, 3.0
WRITTEN_AT_ONCE = 10_000  # articles of the source


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--articles", type=int, default=211_269)
    parser.add_argument("--loop-rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raft-bench-") as folder:
        source = written_source(Path(folder), options.articles)
        conf = config.load(
            assignments=[f"lake.root={folder}/lake", f"articles.source={source}", 'spark."spark.master"="local[2]"']
        )
        session.start(conf)
        begin = time.monotonic()
        articles.run(conf)
        articles_seconds = time.monotonic() - begin
        rounds = [one_round(conf, source, Path(folder), options.loop_rows) for _ in range(options.rounds)]
        session.stop()
    middle = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    rows_per_second = options.articles / middle["stage"]
    result = {
        "articles": options.articles,
        "articles_stage_seconds": round(articles_seconds, 2),
        "seconds": {name: round(value, 3) for name, value in middle.items()},
        "rounds": rounds,
        "rows_per_second": round(rows_per_second),
        "times_the_loop": round(rows_per_second * middle["loop"] / options.loop_rows, 2),
        "times_the_floor": round(middle["stage"] / middle["floor"], 2),
        "promised": {"times_the_loop": PROMISED_LOOP, "times_the_floor": PROMISED_FLOOR},
    }
    kept = Path("build/bench/base.json")
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(result, indent=1))
    sys.stdout.write(json.dumps(result) + "\n")
    if result["times_the_loop"] < PROMISED_LOOP or result["times_the_floor"] > PROMISED_FLOOR:
        sys.exit("slower than promised")


def written_source(folder: Path, count: int) -> Path:
    """Write built-in articles as one Parquet file, as `datasets` would keep them."""
    path = folder / "source.parquet"
    ranges = [(start, min(count, start + WRITTEN_AT_ONCE)) for start in range(0, count, WRITTEN_AT_ONCE)]
    with multiprocessing.get_context("spawn").Pool() as pool, pq.ParquetWriter(path, synthetic.SCHEMA) as writer:
        for batch in pool.imap(built_in, ranges):
            writer.write_batch(batch)
    return path


def built_in(rows: tuple[int, int]) -> pa.RecordBatch:
    """Return built-in articles; when their names are used up, those of the next seed, with pubids of their own."""
    seed, start = divmod(rows[0], synthetic.NAMES // WRITTEN_AT_ONCE * WRITTEN_AT_ONCE)
    batch = synthetic.articles(start, start + rows[1] - rows[0], seed)
    return batch.set_column(0, "pubid", pc.add(batch["pubid"], pa.scalar(seed * synthetic.NAMES, pa.int32())))


def one_round(conf: config.Config, source: Path, folder: Path, loop_rows: int) -> dict[str, float]:
    """Let the three take turns. What a contender needs laid ready (the base rows to write, the loaded data set) is not timed."""
    place = tables.storage(conf.lake, schemas.BASE)
    if place.list():
        place.delete("")
    stage = timed(lambda: base.run(conf))
    base_tables = list(read(conf, schemas.BASE))
    floor = timed(lambda: read_and_write_once(conf, base_tables, folder))
    data = datasets.Dataset.from_parquet(str(source), cache_dir=str(folder / "cache"))
    return {"stage": stage, "floor": floor, "loop": timed(lambda: notebook_loop(data, folder, loop_rows))}


def timed(work: Callable[[], object]) -> float:
    """Return the seconds a call takes."""
    begin = time.monotonic()
    work()
    return time.monotonic() - begin


def read(conf: config.Config, table: str, most: float = math.inf) -> Iterator[pa.Table]:
    """Read the files of a table's current version with pyarrow, until they have `most` rows."""
    version = tables.require(conf.lake, table)
    for file in version.data():
        if most > 0:
            yield pq.read_table(f"{browse.folder(conf.lake, version)}/{file.path}", partitioning=None)
        most -= file.rows


def read_and_write_once(conf: config.Config, base_tables: list[pa.Table], folder: Path) -> None:
    """The floor: read all articles and write all base rows, once, with pyarrow's defaults and all its threads."""
    for _ in read(conf, schemas.ARTICLES):
        pass
    write(base_tables, folder)


def write(base_tables: list[pa.Table], folder: Path) -> None:
    """Write base rows with pyarrow's defaults."""
    for number, table in enumerate(base_tables):
        pq.write_table(table, folder / f"floor-{number}.parquet")


def notebook_loop(data: datasets.Dataset, folder: Path, rows: int) -> None:
    """The original notebook's way: random access to `datasets`, one row at a time, written once at the end."""
    chance = random.Random(0)
    written_rows = []
    for index in range(rows):
        item = data[index]
        passages = []
        for _ in range(3):
            other = data[chance.randrange(len(data))]
            passages.append(chance.choice(other["context"]["contexts"]))
        distracted = chance.random() > 0.7
        own = item["context"]["contexts"]
        shown = passages if distracted else own + passages
        chance.shuffle(shown)
        written_rows.append(
            {
                "question": item["question"],
                "context": "\n\n".join(shown),
                "oracle": "\n\n".join(own),
                "distracted": distracted,
                "original_answer": item["long_answer"],
            }
        )
    with (folder / "base_data.json").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in written_rows)


if __name__ == "__main__":
    main()
