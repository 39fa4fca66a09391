"""Which version of each table readers get: one small object for the whole lake, replaced by a conditional write.

    ROOT/current.json              {"tables": {"base": ID, ...}, "pinned": [ID, ...], "left": [ID, ...]}
    ROOT/branches/NAME.json        the same for a branch, which begins where the lake stands at its first write

So several tables move at once, and of two writers one wins.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from raft_spark.config import Lake
from raft_spark.lake.filesystem import Storage, age_hours

REFRESH = "refresh-"  # how the branches of refreshes are named
_MAIN = "current.json"


@dataclass(frozen=True, slots=True)
class Refs:
    """The current version of each table, the versions that never expire, and those that were rolled back from."""

    tables: Mapping[str, str] = field(default_factory=dict)
    pinned: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def read(lake: Lake) -> Refs:
    """Return where the lake, or its branch, stands."""
    at = Storage.of(lake)
    stored = at.read(_path(lake))
    return _parsed(at.read(_MAIN) if stored is None else stored)


def branches(lake: Lake) -> dict[str, Refs]:
    """Return where each branch stands, by name."""
    folder = Storage.of(lake).at("branches")
    names = [file.path.removesuffix(".json") for file in folder.list(recursive=False) if file.path.endswith(".json")]
    return {name: _parsed(folder.read(f"{name}.json")) for name in names}


def compare_and_swap(lake: Lake, changes: Mapping[str, str], expected: Mapping[str, str]) -> bool:
    """Point the tables of `changes` to other versions at once, unless one of them is no longer as `expected`."""

    def moved(now: Refs) -> Refs | None:
        if any(now.tables.get(table) != expected.get(table) for table in changes):
            return None
        return dataclasses.replace(now, tables={**now.tables, **changes})

    return update(lake, moved)


def update(lake: Lake, how: Callable[[Refs], Refs | None]) -> bool:
    """Replace the pointers by what `how` makes of them, as often as another writer comes between; None changes nothing."""
    at, path = Storage.of(lake), _path(lake)
    while True:
        before = at.read(path)
        now = read(lake) if before is None else _parsed(before)
        then = how(now)
        if then is None:
            return False
        if at.compare_and_swap(path, json.dumps(dataclasses.asdict(then), indent=1).encode(), before):
            return True


def sweep(lake: Lake) -> None:
    """Forget the branches of refreshes that died long ago (lake.sweep_after_hours)."""
    folder = Storage.of(lake).at("branches")
    for file in folder.list(recursive=False):
        if file.path.startswith(REFRESH) and age_hours(file) >= lake.sweep_after_hours:
            folder.delete(file.path)


def drop(lake: Lake) -> None:
    """Forget a branch; its versions stay until they expire."""
    Storage.of(lake).delete(_path(lake))


def _path(lake: Lake) -> str:
    return f"branches/{lake.branch}.json" if lake.branch else _MAIN


def _parsed(text: bytes | None) -> Refs:
    if text is None:
        return Refs()
    stored = json.loads(text)
    return Refs(stored["tables"], tuple(stored["pinned"]), tuple(stored["left"]))
