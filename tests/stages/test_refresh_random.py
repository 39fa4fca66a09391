"""Thousands of random refreshes over real files, crashed between any two writes or overtaken at any: what readers see holds.

The stages here are small ones over the same tables, pointers and store, without Spark, so that a refresh takes milliseconds.
"""

import dataclasses
import hashlib
import itertools
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raft_spark import config
from raft_spark.errors import GateError, InputError
from raft_spark.lake import parquet, refs, schemas, tables
from raft_spark.lake.filesystem import Storage, sha256
from raft_spark.stages import gates, refresh, registry, retention

ARTICLES, BASE, COMPLETIONS, DATASET = schemas.ARTICLES, schemas.BASE, schemas.COMPLETIONS, schemas.DATASET
WRITES = ("write", "compare_and_swap", "delete")
Rows = Mapping[int, str]


class Crash(BaseException):
    """The process is gone: nothing catches it, nothing is cleaned up."""


class World:
    """The source, what was paid for, what is stored, and what the lake did."""

    def __init__(self, conf: config.Config, chance: random.Random) -> None:
        self.conf, self.chance = conf, chance
        self.source: dict[int, str] = {pubid: f"text {pubid}" for pubid in range(30)}
        self.paid: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.read: dict[str, str] = {}  # a stored answer does not change
        self.next = 30
        self.outcomes: Counter[str] = Counter()
        self.states: list[Mapping[str, str]] = []

    def noted(self, swap: Callable[..., bool]) -> Callable[..., bool]:
        """Keep where the lake stood after each move of its pointers."""

        def noting(place: Storage, path: str, data: bytes, expected: bytes | None) -> bool:
            moved = swap(place, path, data, expected)
            if moved and path == "current.json":
                self.states.append(json.loads(data)["tables"])
            return moved

        return noting

    def changes(self) -> None:
        """Add, change and withdraw some articles."""
        for _ in range(self.chance.randint(0, 3)):
            self.source[self.next] = f"text {self.next}"
            self.next += 1
        for pubid in self.chance.sample(sorted(self.source), self.chance.randint(0, 2)):
            self.source[pubid] = f"text {pubid}, {self.chance.randint(0, 3)}"
        for pubid in self.chance.sample(sorted(self.source), self.chance.choice([0, 0, 1, 4])):
            if len(self.source) > 10:
                del self.source[pubid]

    # The stages, in the order of the data.

    def articles(self, conf: config.Config) -> tables.Version:
        return made(conf, ARTICLES, [sorted(self.source.items())], {}, dict(self.source))

    def base(self, conf: config.Config) -> tables.Version:
        articles = tables.require(conf.lake, ARTICLES)
        rows = content(conf.lake, articles)
        return made(
            conf, BASE, [articles.id], {ARTICLES: articles}, {pubid: f"{text}?" for pubid, text in rows.items()}
        )

    def completions(self, conf: config.Config) -> tables.Version:
        base = tables.require(conf.lake, BASE)
        store = tables.storage(conf.lake, COMPLETIONS)
        for text in sorted(set(content(conf.lake, base).values()) - set(self.answers())):
            self.paid[text] += 1
            self.lost[text] += 1
            store.write(f"data/{hashlib.sha256(text.encode()).hexdigest()}", text.encode())
            self.lost[text] -= 1
        return made(conf, COMPLETIONS, [base.id], {BASE: base}, {})

    def dataset(self, conf: config.Config) -> tables.Version:
        inputs = {name: tables.require(conf.lake, name) for name in (BASE, COMPLETIONS)}
        answered = self.answers()
        rows = {pubid: f"{text} {answered[text]}" for pubid, text in content(conf.lake, inputs[BASE]).items()}
        return made(conf, DATASET, [version.id for version in inputs.values()], inputs, rows)

    def answers(self) -> dict[str, str]:
        store = tables.storage(self.conf.lake, COMPLETIONS).at("data")
        there = [file.path for file in store.list()]
        self.read |= {path: (store.read(path) or b"").decode() for path in there if path not in self.read}
        return {text: f"answer to {text}" for text in map(self.read.__getitem__, there)}

    def looked_at(
        self, conf: config.Config, told: refresh.RefreshRecord, new: Mapping[str, tables.Version]
    ) -> refresh.RefreshRecord:
        old = {
            name: content(conf.lake, tables.load(conf.lake, name, told.before[name]))
            for name in new
            if name in told.before
        }
        found = {name: compared(old.get(name, {}), content(conf.lake, version)) for name, version in new.items()}
        return refresh._apply_gates(
            dataclasses.replace(told, changes=found), gates.check_changes(found[ARTICLES], found[BASE], conf.refresh)
        )

    def refreshed(self) -> None:
        bounds = {"max_withdrawn_share": 1.0, "max_changed_share": 1.0} if self.chance.random() < 0.5 else {}
        patient = self.conf.refresh.model_copy(update=bounds)
        try:
            self.outcomes[refresh.run(self.conf.model_copy(update={"refresh": patient})).outcome] += 1
        except GateError:
            self.outcomes["refused"] += 1
        except InputError as error:
            if "another run published" not in str(error):
                raise
            self.outcomes["overtaken"] += 1

    def rolled_back(self) -> None:
        versions = tables.history(self.conf.lake, DATASET)
        if versions:
            retention.roll_back(self.conf.lake, self.chance.choice(versions).id)
            self.outcomes["rolled back"] += 1

    def pinned(self) -> None:
        versions = tables.history(self.conf.lake, DATASET)
        if versions:
            pinned = refs.read(self.conf.lake).pinned
            off = len(pinned) > self.chance.randint(0, 5)
            version = self.chance.choice(sorted(pinned) if off else [version.id for version in versions])
            retention.pin(self.conf.lake, version, off=off)

    def expired(self) -> None:
        self.outcomes["expired"] += len(retention.expire(self.conf.lake))


def made(
    conf: config.Config, table: str, identity: list[object], inputs: Mapping[str, tables.Version], rows: Rows
) -> tables.Version:
    name = tables.identity(table, identity)
    found = tables.find_existing(conf.lake, table, name)
    if found:
        return found
    new = tables.open_draft(conf.lake, table, name)
    half = len(rows) // 2
    ordered = sorted(rows.items())
    files = [
        parquet.write_file(
            new.storage,
            f"data/split=train/{index}.parquet",
            pa.table({"pubid": [p for p, _ in some], "text": [t for _, t in some]}),
        )
        for index, some in enumerate((ordered[:half], ordered[half:]))
        if some
    ]
    counts = {"rows": {"train": len(rows)}, "kept": {"train": len(rows)}, "rejected": {}, "failed": 0, "asked": 0}
    return tables.publish(new, conf, files, inputs, counts)


def content(lake: config.Lake, version: tables.Version) -> dict[int, str]:
    """Read a version, each file as its manifest says."""
    rows: dict[int, str] = {}
    for file in version.data():
        path = Path(tables.storage(lake, version.table).at("versions", version.id).path(file.path))
        assert sha256(path) == file.sha256
        rows |= {row["pubid"]: row["text"] for row in pq.read_table(path, partitioning=None).to_pylist()}
    return rows


def compared(old: Rows, new: Rows) -> gates.Changes:
    both = old.keys() & new.keys()
    changed = sum(old[pubid] != new[pubid] for pubid in both)
    return gates.Changes(len(new) - len(both), changed, len(old) - len(both), len(both) - changed)


def seen(world: World) -> None:
    """Read as a reader does: one whole version, made from the others that are current, its answers all stored."""
    lake = world.conf.lake
    now = refs.read(lake)
    if DATASET not in now.tables:
        return
    version = {name: tables.load(lake, name, now.tables[name]) for name in (ARTICLES, BASE, DATASET)}
    assert version[DATASET].inputs[BASE] == version[BASE].id
    assert version[BASE].inputs[ARTICLES] == version[ARTICLES].id
    rows = {name: content(lake, found) for name, found in version.items()}
    assert rows[DATASET] == {pubid: f"{text}? answer to {text}?" for pubid, text in rows[ARTICLES].items()}
    assert set(rows[BASE].values()) <= set(world.answers())
    for pinned in now.pinned:
        assert content(lake, tables.load(lake, DATASET, pinned))


@contextmanager
def disturbed(at: int, what: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let something happen before, or after, the write number `at` of the block. After a crash nothing is written any more."""
    count, is_dead, holds = 0, False, False

    def counted(write: Callable[..., Any]) -> Callable[..., Any]:
        def one(*arguments: Any) -> Any:
            nonlocal count, is_dead, holds
            if is_dead:
                raise Crash
            if holds:  # the write of a swap: nothing comes between, others wait for its lock
                return write(*arguments)
            count += 1
            try:
                if count == at:
                    what()
                holds = write.__name__ in {"compare_and_swap", "noting"}
                try:
                    done = write(*arguments)
                finally:
                    holds = False
                if count == -at:
                    what()
            except Crash:
                is_dead = True
                raise
            return done

        return one

    with monkeypatch.context() as patch:
        for name in WRITES:
            patch.setattr(Storage, name, counted(getattr(Storage, name)))
        yield


def crash() -> None:
    raise Crash


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(config.load(assignments=[f"lake.root={tmp_path}"]), random.Random(1))
    walk = tuple(dataclasses.replace(stage, run=getattr(world, stage.name)) for stage in registry.PIPELINE)
    monkeypatch.setattr(registry, "PIPELINE", walk)
    monkeypatch.setattr(refresh, "_check_rows", world.looked_at)
    return world


@pytest.mark.row
@pytest.mark.parametrize("stage", [BASE, COMPLETIONS, DATASET])
def test_a_refresh_whose_branch_was_swept_ends_and_publishes_nothing(
    world: World, stage: str, monkeypatch: pytest.MonkeyPatch
):
    refresh.run(world.conf)
    before = refs.read(world.conf.lake)
    world.source[1] = "a corrected text"

    def swept(conf: config.Config) -> tables.Version:
        refs.sweep(conf.lake.model_copy(update={"sweep_after_hours": 0.0}))
        return getattr(world, stage)(conf)

    stages = [dataclasses.replace(each, run=swept) if each.name == stage else each for each in registry.PIPELINE]
    with monkeypatch.context() as patch:
        patch.setattr(registry, "PIPELINE", tuple(stages))
        with pytest.raises(
            InputError, match=r"branch refresh-.* is gone: another run deleted it.*run the refresh again"
        ):
            refresh.run(world.conf)
    tables_now = refs.read(world.conf.lake).tables
    assert {name: tables_now[name] for name in refresh.PUBLISHED} == {
        name: before.tables[name] for name in refresh.PUBLISHED
    }
    assert refresh.run(world.conf).outcome == "published"
    seen(world)


@pytest.mark.row
def test_a_dataset_of_another_base_than_the_one_beside_it_is_refused(world: World, monkeypatch: pytest.MonkeyPatch):
    refresh.run(world.conf)
    before = refs.read(world.conf.lake)
    world.source[1] = "a corrected text"

    def of_the_old_base(conf: config.Config) -> tables.Version:
        return world.dataset(conf.model_copy(update={"lake": world.conf.lake, "dataset": conf.dataset}))

    stages = [
        dataclasses.replace(each, run=of_the_old_base) if each.name == DATASET else each for each in registry.PIPELINE
    ]
    monkeypatch.setattr(registry, "PIPELINE", tuple(stages))
    with pytest.raises(GateError, match="inputs that differ from the versions published with them is 1"):
        refresh.run(world.conf)
    assert refs.read(world.conf.lake).tables[BASE] == before.tables[BASE]
    assert refs.read(world.conf.lake).tables[ARTICLES] == before.tables[ARTICLES]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "steps",
    [pytest.param(120, marks=pytest.mark.row), pytest.param(2_000, marks=[pytest.mark.slow, pytest.mark.spark])],
)
def test_whatever_happens_readers_see_one_whole_version_and_no_paid_answer_is_lost(
    steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = [f"lake.root={tmp_path}", "lake.keep_versions=3", "lake.keep_days=0", "refresh.max_withdrawn_share=0.1"]
    chance = random.Random(steps)
    world = World(config.load(assignments=settings), chance)
    walk = tuple(dataclasses.replace(stage, run=getattr(world, stage.name)) for stage in registry.PIPELINE)
    monkeypatch.setattr(registry, "PIPELINE", walk)
    monkeypatch.setattr(refresh, "_check_rows", world.looked_at)
    monkeypatch.setattr(Storage, "compare_and_swap", world.noted(Storage.compare_and_swap))
    monkeypatch.setattr(os, "fsync", lambda _: None)  # it is two thirds of the time, and no power fails here
    for _ in range(steps):
        stored = set(world.answers())
        world.changes()
        step = chance.choices([world.refreshed, world.rolled_back, world.pinned, world.expired], [12, 2, 1, 1])[0]
        at = chance.choice([1, -1]) * chance.randint(1, 24)
        happens = chance.choice(["nothing", "crash", "crash", "overtaken", "read"])
        what = {"crash": crash, "overtaken": world.refreshed, "read": lambda: seen(world), "nothing": lambda: None}[
            happens
        ]
        try:
            with disturbed(at, what, monkeypatch):
                step()
        except Crash:
            world.outcomes["crashed"] += 1
        seen(world)
        assert stored <= set(world.answers())
        assert all(count <= 1 + world.lost[text] for text, count in world.paid.items()) or happens == "overtaken"
        if happens == "overtaken":
            world.paid.clear()
    assert published_in_a_line(world)
    assert (
        min(world.outcomes[name] for name in ("published", "refused", "overtaken", "crashed", "expired")) > steps / 100
    )


def published_in_a_line(world: World) -> bool:
    """Say whether each refresh that says so moved the lake from where it began to what it made, in one step."""
    told = [json.loads(path.read_text()) for path in Path(world.conf.lake.root, "refreshes").glob("*.json")]
    steps = [
        tuple(tuple(state.get(name) for name in refresh.PUBLISHED) for state in pair)
        for pair in itertools.pairwise([{}, *world.states])
    ]
    return all(
        tuple(tuple(one[when].get(name) for name in refresh.PUBLISHED) for when in ("before", "after")) in steps
        for one in told
        if one["outcome"] == "published"
    )
