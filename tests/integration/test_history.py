"""A long random history of a lake: refreshes, alone, at once and killed, rollbacks, pins and expirations, while a reader reads."""

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import ROOT, SPARK, article, write_articles
from raft_spark import config
from raft_spark.lake import refs, schemas, tables
from support import fake_server

pytestmark = pytest.mark.spark

ARTICLES, BASE, DATASET = schemas.ARTICLES, schemas.BASE, schemas.DATASET
ROWS, IN_FLIGHT, FLUSH = 300, 8, 0.2
MAX_WITHDRAWN = 0.1


@dataclass
class Operator:
    """A process with a Spark session that changes the lake."""

    process: subprocess.Popen[str]
    answers: TextIO

    @classmethod
    def start(cls, settings: list[str], log: Path) -> "Operator":
        ours, theirs = os.pipe()
        words = [part for setting in settings for part in ("--set", setting)]
        line = f'exec 3>&{theirs} {theirs}>&-; exec {sys.executable} {Path(__file__).with_name("operator_of_lake.py")} "$@"'
        with log.open("ab") as output:
            process = subprocess.Popen(
                ["bash", "-c", line, "operator", *words],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                text=True,
                start_new_session=True,
                cwd=ROOT,
                pass_fds=[theirs],
            )
        os.close(theirs)
        started = cls(process, os.fdopen(ours))
        assert started.answer() == "ready", log.read_text()[-3_000:]
        return started

    def tell(self, line: str) -> None:
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        line = self.answers.readline()
        return str(json.loads(line)) if line else "killed"

    def do(self, line: str) -> str:
        self.tell(line)
        return self.answer()

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.answers.close()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()


@dataclass
class History:
    """The source, the processes that follow it, and how each step ended."""

    lake: config.Lake
    source: Path
    settings: list[str]
    chance: random.Random
    texts: dict[int, int] = field(default_factory=lambda: dict.fromkeys(range(ROWS), 0))  # the revision of each article
    operators: list[Operator] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    next: int = ROWS

    def write(self) -> None:
        """Replace the source by the articles as they are now."""
        records = [
            article(pubid, [f"Passage {pubid} says it in revision {text}.", f"Another passage of article {pubid}."])
            for pubid, text in self.texts.items()
        ]
        write_articles(self.source / "new", records).replace(self.source / "rows.parquet")

    def change(self) -> None:
        """Add, change and withdraw a few articles."""
        for pubid in range(self.next, self.next + self.chance.randint(0, 3)):
            self.texts[pubid] = 0
            self.next = pubid + 1
        for pubid in self.chance.sample(sorted(self.texts), self.chance.randint(0, 2)):
            self.texts[pubid] += 1
        for pubid in self.chance.sample(sorted(self.texts), self.chance.randint(0, 3)):
            del self.texts[pubid]
        self.write()

    def operator(self, number: int) -> Operator:
        while len(self.operators) <= number:
            log = Path(f"{self.lake.root}.{len(self.operators)}.log")
            self.operators.append(Operator.start(self.settings, log))
        return self.operators[number]

    def note(self, outcome: str) -> str:
        word = next(
            (name for name in ("another run", "holds", "withdrawn") if name in outcome), outcome.partition(":")[0]
        )
        self.outcomes[word] += 1
        return outcome

    def take_back(self) -> None:
        """Put back into the source what a gate refused to withdraw: after kills and rollbacks it may be too much at once."""
        withdrawn = set(self.pubids(ARTICLES)) - set(self.texts)
        assert len(withdrawn) > MAX_WITHDRAWN * len(self.pubids(ARTICLES))
        self.texts |= dict.fromkeys(withdrawn, 0)
        self.write()

    def refresh(self) -> None:
        self.change()
        outcome = self.note(self.operator(0).do("refresh"))
        if "withdrawn" in outcome:
            self.take_back()
        elif outcome == "published":
            assert set(self.pubids(ARTICLES)) == set(self.texts)

    def refresh_twice_at_once(self) -> None:
        self.change()
        both = [self.operator(0), self.operator(1)]
        for operator in both:
            operator.tell("refresh")
            time.sleep(self.chance.uniform(0, 3))
        ended = {self.note(operator.answer()) for operator in both}
        if not ended & {"published", "nothing new"}:
            assert all("withdrawn" in outcome or "another run" in outcome for outcome in ended), ended
            self.take_back()

    def withdraw_too_many(self) -> None:
        kept = dict(self.texts)
        for pubid in self.chance.sample(sorted(self.texts), int(len(self.texts) * (MAX_WITHDRAWN + 0.05))):
            del self.texts[pubid]
        self.write()
        before = refs.read(self.lake).tables
        assert "withdrawn" in self.note(self.operator(0).do("refresh"))
        assert refs.read(self.lake).tables == before
        self.texts = kept
        self.write()

    def kill_a_refresh(self) -> None:
        self.change()
        self.operator(0).tell("refresh")
        time.sleep(self.chance.uniform(0, 8))
        self.operators.pop(0).kill()
        self.kills += 1

    def retain(self) -> None:
        verb = self.chance.choice(["rollback", "pin", "unpin", "expire"])
        known = tables.finished_ids(self.lake, DATASET)
        self.note(f"{verb} {self.operator(0).do(f'{verb} {self.chance.choice(known)}')}")

    def pubids(self, table: str) -> list[int]:
        version = tables.require(self.lake, table)
        return [pubid for file in rows(self.lake, version, ["pubid"]) for pubid in file["pubid"].to_pylist()]


def rows(lake: config.Lake, version: tables.Version, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Read every file that a version lists, and hold it to its digest."""
    place = tables.storage(lake, version.table).at("versions", version.id)
    for file in version.files:
        data = place.read(file.path)
        assert data is not None, f"{file.path} of {version.id} is missing"
        assert hashlib.sha256(data).hexdigest() == file.sha256, f"{file.path} of {version.id} is another one"
        if file.path.startswith("data/") and file.path.endswith(".parquet"):
            yield pq.read_table(pa.BufferReader(data), columns=columns)


def look(lake: config.Lake) -> bool:
    """Read the current versions whole: each made from the others, no article in one that is not in its source."""
    now = refs.read(lake).tables
    if DATASET not in now:
        return False
    version = {name: tables.find(lake, name, now[name]) for name in (ARTICLES, BASE, DATASET)}
    assert all(version.values()), f"a current version is missing: {version}"
    assert version[DATASET].inputs[BASE] == now[BASE]
    assert version[BASE].inputs[ARTICLES] == now[ARTICLES]
    there = {pubid for table in rows(lake, version[ARTICLES], ["pubid"]) for pubid in table["pubid"].to_pylist()}
    for table in rows(lake, version[BASE]):
        shown = {document["pubid"] for documents in table["documents"].to_pylist() for document in documents}
        assert shown | set(table["pubid"].to_pylist()) <= there
    assert version[DATASET].files
    list(rows(lake, version[DATASET]))
    return True


@contextlib.contextmanager
def reader(lake: config.Lake) -> Iterator[Counter[str]]:
    """Look again and again while the block runs."""
    seen: Counter[str] = Counter()
    over = threading.Event()
    errors: list[Exception] = []

    def read() -> None:
        while not over.wait(0.2):
            try:
                seen["looks"] += look(lake)
            except (AssertionError, OSError, KeyError, ValueError) as error:
                errors.append(error)
                return

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
    assert not errors, errors


@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize("steps", [5, pytest.param(500, marks=pytest.mark.slow)])
def test_in_a_long_history_a_reader_sees_whole_versions_and_nothing_is_paid_for_again(
    steps: int, tmp_path: Path, fake: config.Endpoint
):
    root, chance = tmp_path / "lake", random.Random(steps)
    settings = [
        f"lake.root={root}",
        f"articles.source={tmp_path / 'source'}",
        "completions.endpoint=fake",
        f"endpoints.fake.url={fake.url}",
        f"completions.in_flight={IN_FLIGHT}",
        f"completions.flush_seconds={FLUSH}",
        "lake.keep_versions=4",
        "lake.keep_days=0",
        f"refresh.max_withdrawn_share={MAX_WITHDRAWN}",
        "refresh.max_changed_share=1.0",
        *(f'spark."{key}"="{value}"' for key, value in {**SPARK, "spark.driver.memory": "1g"}.items()),
    ]
    fake_server.behave(str(fake.url))
    before = calls_beyond_the_first(fake)
    history = History(config.load(assignments=settings).lake, tmp_path / "source", settings, chance)
    history.source.mkdir()
    history.write()
    things = [
        history.refresh,
        history.refresh_twice_at_once,
        history.kill_a_refresh,
        history.withdraw_too_many,
        history.retain,
    ]
    try:
        with reader(history.lake) as seen:
            history.refresh()
            for step in range(steps):
                thing = things[step] if step < len(things) else chance.choices(things, [8, 3, 2, 1, 10])[0]
                thing()
                assert look(history.lake)
            history.refresh()
    finally:
        for operator in history.operators:
            operator.kill()
    repeated = calls_beyond_the_first(fake) - before
    sys.stdout.write(f"{history.outcomes}, {history.kills} killed, {seen['looks']} looks, {repeated} calls repeated\n")
    assert seen["looks"] > steps
    assert repeated <= history.kills * (IN_FLIGHT + IN_FLIGHT / 0.005 * (FLUSH + 0.5))


def calls_beyond_the_first(fake: config.Endpoint) -> int:
    """How often the server was asked what it had been asked before."""
    keys = fake_server.calls(str(fake.url), "calls/keys")
    return sum(counts["calls"] - 1 for counts in keys.values())
