"""Read and change which version of each table is current: one small JSON object for the lake, replaced by compare-and-swap.

    ROOT/current.json              {"tables": {"base": ID, ...}, "pinned": [ID, ...], "left": [ID, ...]}
    ROOT/branches/NAME.json        the same for a branch; its first write starts from a copy of current.json

One write changes several tables at once. When two runs write at the same time, one of them wins and the other one fails.
"""

import dataclasses
import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from raft_spark.common.background import in_background
from raft_spark.config import Lake
from raft_spark.errors import DamageError, InputError
from raft_spark.lake.filesystem import Storage, age_hours

REFRESH = "refresh-"  # prefix of the branches that refreshes write in
_MAIN = "current.json"
LOG = logging.getLogger(__name__)
RENEWALS = 4  # of a branch in lake.sweep_after_hours
SHORTEST_RENEWAL, LONGEST_RENEWAL = 0.2, 300.0  # seconds


@dataclass(frozen=True, slots=True)
class Refs:
    """The current version of each table, the versions that never expire (`pinned`), and those rolled back from (`left`)."""

    tables: Mapping[str, str] = field(default_factory=dict)
    pinned: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def read(lake: Lake) -> Refs:
    """Return the refs of the lake, or of its branch; before a branch's first write those of the lake.

    Raises InputError when the branch is one of a refresh and is gone: what the refresh reads must not change under it.
    """
    stored = _stored(lake, _path(lake))
    if stored is not None:
        return stored
    if lake.branch.startswith(REFRESH):
        msg = (
            f"branch {lake.branch} of {lake.root} is gone: another run deleted it, since nothing had renewed it for "
            f"lake.sweep_after_hours = {lake.sweep_after_hours:g}; run the refresh again: it uses what this one made"
        )
        raise InputError(msg)
    return _stored(lake, _MAIN) or Refs()


def create(lake: Lake, content: Refs) -> None:
    """Write the refs of a new branch. Raises InputError when there is one of this name."""
    if not Storage.of(lake).compare_and_swap(_path(lake), _encoded(content), None):
        msg = f"{lake.root} has a branch {lake.branch!r} already"
        raise InputError(msg)


@contextmanager
def renewed(lake: Lake) -> Iterator[None]:
    """Write the refs of the branch again and again while the block runs, so that no `sweep` takes it for one left behind."""
    pause = min(LONGEST_RENEWAL, max(SHORTEST_RENEWAL, lake.sweep_after_hours * 3600 / RENEWALS))

    def renew(ended: threading.Event) -> None:
        while not ended.wait(pause):
            try:
                update(lake, lambda now: now)
            except InputError as error:  # whoever reads the branch next says so too
                LOG.warning("branch %s was not renewed: %s", lake.branch, error)

    with in_background(renew):
        yield


def branches(lake: Lake) -> dict[str, Refs]:
    """Return the refs of each branch by its name."""
    folder = Storage.of(lake).at("branches")
    names = [file.path.removesuffix(".json") for file in folder.list(recursive=False) if file.path.endswith(".json")]
    return {name: found for name in names if (found := _stored(lake, f"branches/{name}.json"))}


def compare_and_swap(lake: Lake, changes: Mapping[str, str], expected: Mapping[str, str]) -> bool:
    """Make the versions in `changes` current, all at once, and return True.

    Changes nothing and returns False when the current version of one of these tables is not the `expected` one.
    """

    def replaced(now: Refs) -> Refs | None:
        if any(now.tables.get(table) != expected.get(table) for table in changes):
            return None
        return dataclasses.replace(now, tables={**now.tables, **changes})

    return update(lake, replaced)


def update(lake: Lake, change: Callable[[Refs], Refs | None]) -> bool:
    """Replace the refs by `change(refs)`, and again when another writer was faster; return False when `change` returns None."""
    at, path = Storage.of(lake), _path(lake)
    while True:
        before = at.read(path)
        now = read(lake) if before is None else _parsed(before, lake, path)
        then = change(now)
        if then is None:
            return False
        if at.compare_and_swap(path, _encoded(then), before):
            return True


def sweep(lake: Lake) -> None:
    """Delete the refs of refresh branches that nobody has renewed for lake.sweep_after_hours."""
    folder = Storage.of(lake).at("branches")
    for file in folder.list(recursive=False):
        if file.path.startswith(REFRESH) and age_hours(file) >= lake.sweep_after_hours:
            folder.delete(file.path)


def drop(lake: Lake) -> None:
    """Delete the refs of a branch; its versions stay until they expire."""
    Storage.of(lake).delete(_path(lake))


def _path(lake: Lake) -> str:
    return f"branches/{lake.branch}.json" if lake.branch else _MAIN


def _encoded(content: Refs) -> bytes:
    return json.dumps(dataclasses.asdict(content), indent=1).encode()


def _stored(lake: Lake, path: str) -> Refs | None:
    text = Storage.of(lake).read(path)
    return None if text is None else _parsed(text, lake, path)


def _parsed(text: bytes, lake: Lake, path: str) -> Refs:
    try:
        stored = json.loads(text)
        return Refs(stored["tables"], tuple(stored["pinned"]), tuple(stored["left"]))
    except (ValueError, TypeError, KeyError) as error:
        msg = (
            f"{lake.root}/{path} is damaged: its {len(text)} bytes do not name the lake's versions; restore it from a copy, or "
            "move it away and run `raft-spark rollback VERSION` with a version that `raft-spark history dataset` lists"
        )
        raise DamageError(msg) from error
