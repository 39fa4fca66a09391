"""Old versions -> gone, or current again. Nothing goes that is current, pinned, in a branch, or the source of one that is."""

import datetime as dt
from collections.abc import Iterable
from dataclasses import replace

from raft_spark.config import Lake
from raft_spark.errors import InputError
from raft_spark.lake import refs, schemas, tables
from raft_spark.stages import registry


def expire(lake: Lake) -> list[str]:
    """Delete the versions that lake.keep_versions and lake.keep_days no longer keep; return their ids.

    Answers stay: of completions only the lists go. The manifest goes first, so that a version is never half there, and what
    was made from others goes before them.
    """
    known = {table: tables.history(lake, table) for table in registry.NAMES}
    recent = {version.id for versions in known.values() for version in versions[-lake.keep_versions :]}
    young = {version.id for versions in known.values() for version in versions if _age_days(version) < lake.keep_days}
    kept = _with_sources(_pointed(lake) | recent | young, known)
    gone = [version for table in reversed(registry.NAMES) for version in known[table] if version.id not in kept]
    for version in gone:
        at = tables.storage(lake, version.table).at("versions")
        at.delete(f"{version.id}/manifest.json")
        at.delete(version.id)
    return [version.id for version in gone]


def roll_back(lake: Lake, version: str) -> dict[str, str]:
    """Make an old version current again, with the versions it was made from; return them by table, answers left out.

    A refresh does not publish the dataset again that was left. Raises InputError when there is no such version.
    """
    found = find_anywhere(lake, version)
    sources = {table: name for table, name in _lineage(lake, found).items() if table != schemas.COMPLETIONS}

    def back(now: refs.Refs) -> refs.Refs:
        rest = tuple(name for name in now.left if name not in sources.values())
        leaves = [now.tables[table] for table in sources if table == schemas.DATASET and table in now.tables]
        left = tuple(name for name in leaves if name not in sources.values())
        return replace(now, tables={**now.tables, **sources}, left=rest + left)

    before = refs.read(lake)
    refs.update(lake, back)
    if not all(tables.find(lake, table, name) for table, name in sources.items()):
        refs.compare_and_swap(
            lake, {table: before.tables[table] for table in sources if table in before.tables}, sources
        )
        msg = f"version {version} expired just now; the lake stays as it was"
        raise InputError(msg)
    return sources


def pin(lake: Lake, version: str, *, off: bool = False) -> None:
    """Keep a version, and those it was made from, for ever, or no longer. Raises InputError when there is no such version."""
    found = find_anywhere(lake, version).id

    def pinned(now: refs.Refs) -> refs.Refs:
        rest = tuple(name for name in now.pinned if name != found)
        return replace(now, pinned=rest if off else (*rest, found))

    refs.update(lake, pinned)


def find_anywhere(lake: Lake, version: str) -> tables.Version:
    """Find a version by its id in any table. Raises InputError where there is none."""
    for table in registry.NAMES:
        if there := tables.find(lake, table, version):
            return there
    msg = f"{lake.root} has no version {version!r}; `raft-spark history TABLE` lists them"
    raise InputError(msg)


def _lineage(lake: Lake, version: tables.Version) -> dict[str, str]:
    found = {version.table: version.id}
    for table, name in version.inputs.items():
        found |= _lineage(lake, tables.load(lake, table, name))
    return found


def _pointed(lake: Lake) -> set[str]:
    main = refs.read(lake.model_copy(update={"branch": ""}))
    lines = [main, *refs.branches(lake).values()]
    return {*main.pinned, *(name for line in lines for name in line.tables.values())}


def _with_sources(names: Iterable[str], known: dict[str, list[tables.Version]]) -> set[str]:
    """Add to versions those that they were made from, to any depth."""
    inputs = {version.id: set(version.inputs.values()) for versions in known.values() for version in versions}
    kept: set[str] = set()
    left = set(names)
    while left:
        kept |= left
        left = set().union(*(inputs.get(name, set()) for name in left)) - kept
    return kept


def _age_days(version: tables.Version) -> float:
    return (dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(version.created_at)) / dt.timedelta(days=1)
