"""What a refresh costs when the source grows by 1 %: seconds a stage, rows that change, requests that are paid for.

    python tests/benchmarks/refresh.py [--articles 211269] [--grows 0.01]

Built-in articles, answered by the fake endpoint at once. Prints one line of JSON and keeps it in build/bench/refresh.json.
About 15 minutes at full size on two cores, most of it the first answers to all.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")

from raft_spark import config, endpoints
from raft_spark.lake import session, tables
from raft_spark.stages import refresh, registry

K_ROWS = 1.5  # at most: the share of rows that change is about k times the growth


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--articles", type=int, default=211_269)
    parser.add_argument("--grows", type=float, default=0.01, help="share of articles that is new the second time")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="raft-bench-") as folder,
        endpoints.serving(config.load().endpoints["fake"]) as fake,
    ):
        result = measured(Path(folder), fake.url, options)
    session.stop()
    kept = Path("build/bench/refresh.json")
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(result, indent=1))
    sys.stdout.write(json.dumps(result) + "\n")
    if result["broken"]:
        sys.exit("; ".join(result["broken"]))


def measured(folder: Path, url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Refresh for the first time, with nothing new, and with a little more."""
    few = int(options.articles / (1 + options.grows))
    seconds: dict[str, float] = {}
    registry.PIPELINE = tuple(replace(stage, run=timed(stage.name, stage.run, seconds)) for stage in registry.PIPELINE)
    whole = settled(folder, url, few, options.articles)
    first = once(whole, seconds)
    idle = once(whole, seconds)
    grown = once(settled(folder, url, options.articles, options.articles), seconds)
    return {
        "articles": options.articles,
        "first": first,
        "nothing_new": idle,
        "grown": grown,
        "broken": broken(grown, options.articles - few, options),
    }


def settled(folder: Path, url: str, limit: int, count: int) -> config.Config:
    """Settle a lake of the first `limit` of the articles, by hash, so that a larger limit only adds."""
    ours = ['endpoints.mine.kind="openai"', f'endpoints.mine.url="{url}"', 'endpoints.mine.model="fake"']
    asking = ["completions.endpoint=mine", "completions.in_flight=128", 'spark."spark.driver.memory"="3g"']
    lake = [f"lake.root={folder}/lake", f"articles.source=sample:{count}", f"articles.limit={limit}"]
    return config.load(assignments=[*lake, *ours, *asking])


def timed(name: str, stage: Callable[..., tables.Version], seconds: dict[str, float]) -> Callable[..., tables.Version]:
    """Note how long a stage takes."""

    def run(conf: config.Config) -> tables.Version:
        begin = time.monotonic()
        version = stage(conf)
        seconds[name] = round(time.monotonic() - begin, 1)
        return version

    return run


def once(conf: config.Config, seconds: dict[str, float]) -> dict[str, Any]:
    """Refresh; return what was done, and the seconds of each stage and of all."""
    begin = time.monotonic()
    done = refresh.run(conf)
    took = round(time.monotonic() - begin, 1)
    asked = tables.load(conf.lake, "completions", done.after["completions"]).counts["asked"]
    changes = {name: {kind: getattr(found, kind) for kind in found.__slots__} for name, found in done.changes.items()}
    return {"outcome": done.outcome, "seconds": took, "stages": dict(seconds), "asked": asked, "changes": changes}


def broken(grown: dict[str, Any], new: int, options: argparse.Namespace) -> list[str]:
    """Name what was promised and does not hold."""
    rows = grown["changes"]["base"]
    share = rows["changed"] / (rows["changed"] + rows["same"])
    most = K_ROWS * config.load().base.distractors * options.grows
    wrong = {
        f"{grown['asked']} requests were asked for {new} new articles": grown["asked"] > new,
        f"{share:.2%} of the rows changed, more than {most:.2%}": share > most,
    }
    return [sentence for sentence, is_wrong in wrong.items() if is_wrong]


if __name__ == "__main__":
    main()
