"""Run `raft-spark completions` with a teacher, and read what it left in the store."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from click.testing import CliRunner

from conftest import ROOT, SPARK
from raft_spark import config
from raft_spark.cli.main import main
from raft_spark.stages import articles, base
from support.bad_teachers import BadTeacher

ROWS = 60
SOURCE = (f"articles.source=sample:{ROWS}", "articles.validation_share=0", "articles.test_share=0")
LOCAL = ('spark."spark.master"="local[2]"', 'spark."spark.driver.memory"="1g"')
AROUND = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "COLUMNS": "4000"}
PERMANENT = ("bad_request", "filtered", "empty")  # the classes that the next run does not ask again


@dataclass(frozen=True)
class Ended:
    """How a run ended, and what it left in the store: the texts, and the number of rows of each error class."""

    status: int
    words: str
    texts: tuple[str, ...]
    failed: Mapping[str, int]
    seconds: float

    @property
    def answers(self) -> int:
        return len(self.texts)

    @property
    def permanent(self) -> int:
        return sum(self.failed.get(name, 0) for name in PERMANENT)


def make_lake(root: Path) -> Path:
    """Make a lake of ROWS questions that nobody has answered."""
    spark = [f'spark."{key}"="{value}"' for key, value in SPARK.items()]
    conf = config.load((), [*spark, f"lake.root={root}", *SOURCE])
    articles.run(conf)
    base.run(conf)
    return root


def run(root: Path, endpoint: str, *assignments: str, **environment: str) -> Ended:
    """Ask an endpoint, given as an inline table of TOML, for the answers of a lake, in a process of its own."""
    command = [str(Path(sys.executable).with_name("raft-spark")), *_arguments(root, endpoint, assignments)]
    around = {**os.environ, **AROUND, **environment}
    begin = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=around, capture_output=True, text=True, check=False)
    return _ended(root, done.returncode, done.stdout + done.stderr, time.monotonic() - begin)


def run_here(root: Path, endpoint: str, *assignments: str) -> Ended:
    """Do the same in this process, whose Spark has started."""
    begin = time.monotonic()
    done = CliRunner(env=AROUND).invoke(main, _arguments(root, endpoint, assignments))
    return _ended(root, done.exit_code, done.output, time.monotonic() - begin)


def _arguments(root: Path, endpoint: str, assignments: Sequence[str]) -> list[str]:
    settings = [f"lake.root={root}", *SOURCE, "completions.endpoint=mine", f"endpoints.mine={endpoint}", *assignments]
    return ["completions", *(part for setting in (*settings, *LOCAL) for part in ("--set", setting))]


def _ended(root: Path, status: int, words: str, seconds: float) -> Ended:
    files = root.joinpath("completions/data").rglob("*.parquet")
    rows = [row for file in files for row in pq.read_table(file, partitioning=None).to_pylist()]
    texts = tuple(row["completion"] for row in rows if row["completion"] is not None)
    failed = Counter(row["error_class"] for row in rows if row["completion"] is None)
    return Ended(status, " ".join(words.split()), texts, failed, seconds)


def bad_endpoint(teacher: BadTeacher) -> str:
    """Return the settings of an endpoint that a bad teacher plays."""
    if teacher.mode.startswith("bedrock"):
        return f"{{kind='bedrock', url='{teacher.address}', model='m', region='us-east-1'}}"
    return f"{{kind='openai', url='{teacher.address}/v1', model='m'}}"
