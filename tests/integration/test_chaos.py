"""Every stage and a refresh, each process of it killed at a random moment: nothing is lost, and the bytes are the same."""

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from conftest import SPARK
from raft_spark import config, endpoints
from raft_spark.lake import schemas, tables
from support import fake_server, processes
from support.processes import family, kill

pytestmark = pytest.mark.spark

STAGES = ("articles", "base", "completions", "dataset", "evaluation", "refresh")
VICTIMS = {  # words of the command line by which each kind of process is known
    "driver": "raft-spark",
    "JVM": "SparkSubmit",
    "executor": "CoarseGrainedExecutorBackend",
    "Python worker": "pyspark.daemon",
}
FEW, MANY = 400, 4_000
IN_FLIGHT, LATENCY_MS, FLUSH = 32, 100, 0.5


@dataclass
class Walk:
    """An undisturbed walk on a cluster: the lake before each command, after all of them, and the seconds each took."""

    folder: Path
    url: str
    rows: int
    master: str
    seconds: dict[str, float] = field(default_factory=dict)

    def settings(self, command: str) -> list[str]:
        grown = self.rows + self.rows // 50 * (command == "refresh")
        student = [
            f"endpoints.student={{kind='fake', url='{self.url}', model='student'}}",
            "evaluation.students=['student']",
        ]
        return [
            f"articles.source=sample:{grown}",
            "completions.endpoint=fake",
            f"endpoints.fake.url={self.url}",
            f"completions.in_flight={IN_FLIGHT}",
            f"completions.flush_seconds={FLUSH}",
            "lake.row_group_rows=100",
            "refresh.max_changed_share=1.0",
            *(student if command == "evaluation" else []),
            f'spark."spark.master"="{self.master}"',
            'spark."spark.driver.memory"="1g"',
            f'spark."spark.sql.shuffle.partitions"="{SPARK["spark.sql.shuffle.partitions"]}"',
        ]

    def before(self, command: str) -> Path:
        return self.folder / f"before-{command}"

    def after(self, command: str) -> Path:
        return self.folder / f"after-{command}"

    def walk(self, commands: tuple[str, ...]) -> "Walk":
        lake = self.folder / "lake"
        lake.mkdir()
        for command in commands:
            shutil.copytree(lake, self.before(command))
            begin = time.monotonic()
            with self.started(command, lake) as run:
                assert run.wait(900) == 0, log(lake)
            self.seconds[command] = time.monotonic() - begin
            shutil.copytree(lake, self.after(command))
        return self

    @contextmanager
    def started(self, command: str, lake: Path) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command in a session of its own, of which nothing is left after the block."""
        words = [f"lake.root={lake}", *self.settings(command)]
        line = [Path(sys.executable).with_name("raft-spark"), command]
        line += [part for word in words for part in ("--set", word)]
        with processes.started(line, Path(f"{lake}.log")) as run:
            yield run


def log(lake: Path) -> str:
    return Path(f"{lake}.log").read_text()[-5_000:]


def killed_once(run: subprocess.Popen[bytes], victim: str, after: float, chance: random.Random) -> bool:
    """Kill one process of a kind some seconds after the start, or as soon as there is one; False if the run was faster."""
    end = time.monotonic() + after
    while run.poll() is None:
        there = [run.pid] if victim == "driver" else family(run, VICTIMS[victim])
        if there and time.monotonic() >= end:
            return kill(chance.choice(there))
        time.sleep(0.02)
    return False


def files(lake: Path, table: str) -> dict[str, str]:
    """The digest of each file of a table's current version, but of the card, which names the run."""
    version = tables.require(settled(lake), table)
    return {file.path: file.sha256 for file in version.files if not file.path.endswith("README.md")}


def settled(lake: Path) -> config.Lake:
    return config.load(assignments=[f"lake.root={lake}"]).lake


def answers(lake: Path, table: str) -> dict[str, str]:
    """Every stored answer by its key."""
    rows: list[dict[str, Any]] = []
    for file in [*(lake / table / "data").rglob("*.parquet"), *(lake / table / "merged").rglob("*.parquet")]:
        rows += pq.read_table(file, partitioning=None).to_pylist()
    return {row["key"]: row["completion"] for row in rows if row["completion"] is not None}


def content(lake: Path) -> dict[str, Any]:
    """All that must be the same: the bytes of the tables, the answers of teacher and student."""
    made = [name for name in (schemas.ARTICLES, schemas.BASE, schemas.DATASET) if tables.current(settled(lake), name)]
    stored = {name: answers(lake, name) for name in (schemas.COMPLETIONS, schemas.EVALUATION)}
    return {**{name: files(lake, name) for name in made}, **stored}


@pytest.fixture(scope="module")
def teacher() -> Iterator[config.Endpoint]:
    settings = config.load(assignments=[f"endpoints.fake.latency_ms={LATENCY_MS}"]).endpoints["fake"]
    with endpoints.serving(settings) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def short_walk(tmp_path_factory: pytest.TempPathFactory, teacher: config.Endpoint) -> Walk:
    return Walk(tmp_path_factory.mktemp("short"), str(teacher.url), FEW, "local[2]").walk(("run", "refresh"))


@pytest.fixture(scope="module")
def long_walk(tmp_path_factory: pytest.TempPathFactory, teacher: config.Endpoint) -> Walk:
    return Walk(tmp_path_factory.mktemp("long"), str(teacher.url), MANY, "local-cluster[2,1,1024]").walk(STAGES)


@pytest.mark.slow  # in `make test`, test_history.py kills a refresh, and test_faults.py a worker
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("victim", ["driver", "Python worker"])
def test_a_refresh_killed_at_any_moment_loses_nothing_and_changes_no_byte(victim: str, short_walk: Walk):
    kill_and_repeat(short_walk, "refresh", victim)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("command", STAGES)
def test_a_stage_killed_at_any_moment_loses_nothing_and_changes_no_byte(command: str, victim: str, long_walk: Walk):
    kill_and_repeat(long_walk, command, victim)


def kill_and_repeat(walk: Walk, command: str, victim: str) -> None:
    """Kill a process of a command at a random moment, run the command again, and compare all with the undisturbed walk."""
    chance = random.Random(f"{command} {victim}")
    after = chance.uniform(0.1, 0.9) * walk.seconds[command]
    lake = walk.folder / f"{command}-{victim.replace(' ', '-')}"
    killed = False
    while not killed:  # a run that was faster than its killer is no case
        shutil.rmtree(lake, ignore_errors=True)
        shutil.copytree(walk.before(command), lake)
        before, calls = answers(lake, schemas.COMPLETIONS), fake_server.calls(walk.url)["calls"]
        with walk.started(command, lake) as run:
            killed = killed_once(run, victim, after, chance)
            ended = run.wait(900)
            assert not killed or victim in {"executor", "Python worker"} or ended != 0
            wait_until_gone(run)
        after /= 2
    stored = content(lake)
    with walk.started(command, lake) as run:
        assert run.wait(900) == 0, log(lake)
    assert before.items() <= stored[schemas.COMPLETIONS].items() <= answers(lake, schemas.COMPLETIONS).items()
    assert content(lake) == content(walk.after(command))
    new = sum(len(answers(place, name)) * sign for name in (schemas.COMPLETIONS, schemas.EVALUATION)
              for place, sign in ((walk.after(command), 1), (walk.before(command), -1)))  # fmt: skip
    repeated = fake_server.calls(walk.url)["calls"] - calls - new
    sys.stdout.write(f"{command}: {victim} killed, exit status {ended}, {repeated} of {new} calls repeated\n")
    assert 0 <= repeated <= IN_FLIGHT + IN_FLIGHT / (LATENCY_MS / 1000) * (FLUSH + 0.5)
    shutil.rmtree(lake)


def wait_until_gone(run: subprocess.Popen[bytes]) -> None:
    """Nothing of a run outlives its driver for long."""
    for _ in range(600):
        if not family(run):
            return
        time.sleep(0.05)
    pytest.fail(f"processes outlived their driver by 30 s: {family(run)}")
