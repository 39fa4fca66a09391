"""Delete old versions, pin them, or make one current again.

A version is never deleted while it is current, pinned or in a branch, or while such a version was made from it.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from raft_spark.common import ids
from raft_spark.config import Lake
from raft_spark.errors import DamageError, InputError
from raft_spark.lake import refs, schemas, tables
from raft_spark.stages import registry

LOG = logging.getLogger(__name__)


def expire(lake: Lake) -> list[str]:
    """Delete the versions that lake.keep_versions and lake.keep_days do not retain; return their ids.

    Stored answers are not deleted: a version of completions is only a list of files. The manifest of a version is deleted
    first, so that no reader finds an incomplete version. Versions are deleted before those they were made from.

    A version whose manifest is damaged stays. While such a version is current, pinned or in a branch, nothing is deleted,
    since it is not known what it was made from.
    """
    known = {table: tables.history(lake, table) for table in registry.NAMES}
    referenced = _referenced_undamaged(lake, known)
    if referenced is None:
        return []
    recent = {version.id for versions in known.values() for version in versions[-lake.keep_versions :]}
    young = {
        version.id
        for versions in known.values()
        for version in versions
        if ids.age_hours(version.created_at) < lake.keep_days * 24
    }
    retained = _with_sources(referenced | recent | young, known)
    expired = [version for table in reversed(registry.NAMES) for version in known[table] if version.id not in retained]
    for version in expired:
        at = tables.storage(lake, version.table).at("versions")
        at.delete(f"{version.id}/manifest.json")
        at.delete(version.id)
    return [version.id for version in expired]


def roll_back(lake: Lake, version: str) -> dict[str, str]:
    """Make an old version current again, with the versions it was made from; return their ids by table, without completions.

    A refresh does not publish the dataset that was rolled back again. Raises InputError when there is no such version.
    """
    lineage = _lineage(lake, find_anywhere(lake, version))
    targets = {table: name for table, name in lineage.items() if table != schemas.COMPLETIONS}

    def move(now: refs.Refs) -> refs.Refs:
        rolled_back = [name for name in now.left if name not in targets.values()]
        if schemas.DATASET in targets:
            current = now.tables.get(schemas.DATASET)
            rolled_back += [current] if current and current != targets[schemas.DATASET] else []
        return replace(now, tables={**now.tables, **targets}, left=tuple(rolled_back))

    before = refs.read(lake).tables
    if (
        schemas.COMPLETIONS in lineage and schemas.COMPLETIONS not in before
    ):  # current.json is new: the old one was damaged
        targets[schemas.COMPLETIONS] = tables.history(lake, schemas.COMPLETIONS)[-1].id
    refs.update(lake, move)
    if not all(tables.find(lake, table, name) for table, name in targets.items()):
        refs.compare_and_swap(lake, {table: before[table] for table in targets if table in before}, targets)
        msg = f"version {version} expired just now; the lake stays as it was"
        raise InputError(msg)
    return targets


def pin(lake: Lake, version: str, *, off: bool = False) -> None:
    """Pin a version, so that it and those it was made from never expire; `off` unpins it.

    Raises InputError when there is no such version.
    """
    pinned = find_anywhere(lake, version).id

    def change(now: refs.Refs) -> refs.Refs:
        others = tuple(name for name in now.pinned if name != pinned)
        return replace(now, pinned=others if off else (*others, pinned))

    refs.update(lake, change)


def find_anywhere(lake: Lake, version: str) -> tables.Version:
    """Find a version by its id in any table. Raises InputError when there is no such version."""
    for table in registry.NAMES:
        if found := tables.find(lake, table, version):
            return found
    msg = f"{lake.root} has no version {version!r}; `raft-spark history TABLE` lists them"
    raise InputError(msg)


def _lineage(lake: Lake, version: tables.Version) -> dict[str, str]:
    """Return the version and all versions it was made from, by table."""
    lineage = {version.table: version.id}
    for table, name in version.inputs.items():
        lineage |= _lineage(lake, tables.load(lake, table, name))
    return lineage


def _referenced_undamaged(lake: Lake, known: Mapping[str, Sequence[tables.Version]]) -> set[str] | None:
    """Return the versions that are referenced; None, with a warning, when one of them or a branch is damaged."""
    try:
        referenced = _referenced(lake)
    except DamageError as error:
        LOG.warning("no version expires: %s", error)
        return None
    readable = {version.id for versions in known.values() for version in versions}
    damaged = [
        name
        for table in known
        for name in tables.finished_ids(lake, table)
        if name in referenced and name not in readable
    ]
    if damaged:
        LOG.warning("no version expires: %s is current, pinned or in a branch, and its manifest is damaged", damaged[0])
        return None
    return referenced


def _referenced(lake: Lake) -> set[str]:
    """Return the versions that are pinned, or current in the lake or in a branch."""
    main = refs.read(lake.model_copy(update={"branch": ""}))
    branches = [main, *refs.branches(lake).values()]
    return {*main.pinned, *(name for branch in branches for name in branch.tables.values())}


def _with_sources(names: Iterable[str], known: dict[str, list[tables.Version]]) -> set[str]:
    """Return the versions with all versions they were made from, directly or not."""
    inputs = {version.id: set(version.inputs.values()) for versions in known.values() for version in versions}
    found: set[str] = set()
    added = set(names)
    while added:
        found |= added
        added = set().union(*(inputs.get(name, set()) for name in added)) - found
    return found
