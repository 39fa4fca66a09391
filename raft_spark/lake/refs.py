"""Read and change which version of each table is current: one small JSON object for the lake, replaced by compare-and-swap.

    ROOT/current.json              {"tables": {"base": ID, ...}, "pinned": [ID, ...], "left": [ID, ...]}
    ROOT/branches/NAME.json        the same for a branch; its first write starts from a copy of current.json

One write changes several tables at once. When two runs write at the same time, one of them wins and the other one fails.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from raft_spark.config import Lake
from raft_spark.lake.filesystem import Storage, age_hours

REFRESH = "refresh-"  # prefix of the branches that refreshes write in
_MAIN = "current.json"


@dataclass(frozen=True, slots=True)
class Refs:
    """The current version of each table, the versions that never expire (`pinned`), and those rolled back from (`left`)."""

    tables: Mapping[str, str] = field(default_factory=dict)
    pinned: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def read(lake: Lake) -> Refs:
    """Return the refs of the lake, or of its branch; before a branch's first write those of the lake."""
    at = Storage.of(lake)
    stored = at.read(_path(lake))
    return _parsed(at.read(_MAIN) if stored is None else stored)


def branches(lake: Lake) -> dict[str, Refs]:
    """Return the refs of each branch by its name."""
    folder = Storage.of(lake).at("branches")
    names = [file.path.removesuffix(".json") for file in folder.list(recursive=False) if file.path.endswith(".json")]
    return {name: _parsed(folder.read(f"{name}.json")) for name in names}


def compare_and_swap(lake: Lake, changes: Mapping[str, str], expected: Mapping[str, str]) -> bool:
    """Make the versions in `changes` current, all at once, and return True.

    Changes nothing and returns False when the current version of one of these tables is not the `expected` one. Versions
    that are current already count as moved: the reply of the write that moved them may have been lost.
    """

    def replaced(now: Refs) -> Refs | None:
        if changes.items() <= now.tables.items():
            return now
        if any(now.tables.get(table) != expected.get(table) for table in changes):
            return None
        return dataclasses.replace(now, tables={**now.tables, **changes})

    return update(lake, replaced)


def update(lake: Lake, change: Callable[[Refs], Refs | None]) -> bool:
    """Replace the refs by `change(refs)`, and again when another writer was faster; return False when `change` returns None."""
    at, path = Storage.of(lake), _path(lake)
    while True:
        before = at.read(path)
        now = read(lake) if before is None else _parsed(before)
        then = change(now)
        if then is None:
            return False
        if at.compare_and_swap(path, json.dumps(dataclasses.asdict(then), indent=1).encode(), before):
            return True


def sweep(lake: Lake) -> None:
    """Delete the refs of refresh branches that were last written more than lake.sweep_after_hours ago."""
    folder = Storage.of(lake).at("branches")
    for file in folder.list(recursive=False):
        if file.path.startswith(REFRESH) and age_hours(file) >= lake.sweep_after_hours:
            folder.delete(file.path)


def drop(lake: Lake) -> None:
    """Delete the refs of a branch; its versions stay until they expire."""
    Storage.of(lake).delete(_path(lake))


def _path(lake: Lake) -> str:
    return f"branches/{lake.branch}.json" if lake.branch else _MAIN


def _parsed(text: bytes | None) -> Refs:
    if text is None:
        return Refs()
    stored = json.loads(text)
    return Refs(stored["tables"], tuple(stored["pinned"]), tuple(stored["left"]))
