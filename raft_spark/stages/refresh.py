"""source -> dataset, when the source or the settings are new: all stages in a branch, looked at, then published at once.

    ROOT/refreshes/ID.json         what a refresh did and why: the versions before and after, changes, gates

Readers of the lake see every table as it was until all are new. What a refresh that died has finished, the next one uses.
"""

import dataclasses
import itertools
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from raft_spark import __version__, config
from raft_spark.common import ids, logs
from raft_spark.errors import GateError, InputError
from raft_spark.lake import iceberg, refs, schemas, session, tables
from raft_spark.lake.filesystem import Storage
from raft_spark.lake.tasks import worker_errors
from raft_spark.monitoring import cloudwatch
from raft_spark.stages import gates, registry, retention, runner
from raft_spark.stages.gates import Changes, GateResult

LOG = logging.getLogger(__name__)
# answers are published as they come
PUBLISHED = tuple(stage.name for stage in registry.PIPELINE if "teacher" not in stage.uses)


@dataclass(frozen=True, slots=True)
class RefreshRecord:
    """What a refresh did. `before` and `after` name the versions by table; `changes` the rows of articles and base by kind.

    One that stays `publishing` has died within a moment of moving the pointers; they tell whether it did.
    """

    id: str
    began_at: str
    before: Mapping[str, str]
    outcome: Literal["publishing", "published", "nothing new", "refused", "failed"] = "failed"
    reason: str = ""
    ended_at: str = ""
    after: Mapping[str, str] = dataclasses.field(default_factory=dict)
    changes: Mapping[str, Changes] = dataclasses.field(default_factory=dict)
    gates: tuple[GateResult, ...] = ()
    expired: tuple[str, ...] = ()
    code: str = __version__

    def summary(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return dataclasses.asdict(self)


def run(conf: config.Config) -> RefreshRecord:
    """Bring the lake up to its source; return what was done.

    Raises GateError where a gate does not let the new versions pass, InputError where another refresh was faster, and what
    a stage raises: in each case after it is written down, with the lake as it was.
    """
    here, begin = refs.read(conf.lake), time.monotonic()
    told = RefreshRecord(ids.new_id(), ids.now(), here.tables)
    branch = conf.lake.model_copy(update={"branch": refs.REFRESH + told.id})
    refs.sweep(conf.lake)
    refs.update(branch, lambda _: here)
    try:
        told = built(conf.model_copy(update={"lake": branch}), told)
        if told.outcome == "published":
            _keep(conf.lake, replace(told, outcome="publishing"))
            _publish(conf.lake, told)
    except BaseException as error:
        told = replace(told, outcome="failed", reason=f"{type(error).__name__}: {error}")
        raise
    finally:
        refs.drop(branch)
        _ended(conf.lake, told, time.monotonic() - begin)
    expired = retention.expire(conf.lake) if told.outcome == "published" else ()
    iceberg.sync(conf)
    if told.outcome == "refused":
        raise GateError(told.reason)
    return replace(told, expired=tuple(expired))


def built(conf: config.Config, told: RefreshRecord) -> RefreshRecord:
    """Run the stages in the branch; rows are looked at before a request is paid for, the dataset when it is there."""
    free = itertools.takewhile(lambda stage: "teacher" not in stage.uses, registry.PIPELINE)
    new = {stage.name: runner.run(stage, conf) for stage in free}
    if any(told.before.get(name) != version.id for name, version in new.items()):
        told = _looked_at(conf, told, new)
    if told.outcome == "refused":
        return told
    new |= {stage.name: runner.run(stage, conf) for stage in registry.PIPELINE[len(new) :]}
    told = replace(told, after={name: version.id for name, version in new.items()})
    if all(told.before.get(name) == told.after[name] for name in PUBLISHED):
        return replace(told, outcome="nothing new", reason="source and settings are as they were")
    if told.after[schemas.DATASET] in refs.read(conf.lake).left:
        reason = f"it gives dataset {told.after[schemas.DATASET]}, which was rolled back from; `raft-spark rollback` brings it back"
        return replace(told, outcome="nothing new", reason=reason)
    return _judged(replace(told, outcome="published"), gates.check_dataset(conf, new))


def _looked_at(conf: config.Config, told: RefreshRecord, new: Mapping[str, tables.Version]) -> RefreshRecord:
    spark = session.start(conf, "refresh: compare versions")
    with worker_errors():
        old = {name: tables.find(conf.lake, name, told.before[name]) if name in told.before else None for name in new}
        changes = {name: gates.changes(spark, conf.lake, old[name], version) for name, version in new.items()}
        found = gates.check_rows(spark, conf, new)
    found += gates.check_changes(changes[schemas.ARTICLES], changes[schemas.BASE], conf.refresh)
    return _judged(replace(told, changes=changes), found)


def _judged(told: RefreshRecord, found: Sequence[GateResult]) -> RefreshRecord:
    told = replace(told, gates=(*told.gates, *found))
    closed = "; ".join(map(str, gates.failed(found)))
    return replace(told, outcome="refused", reason=f"{closed}; the lake stays as it was") if closed else told


def _publish(lake: config.Lake, told: RefreshRecord) -> None:
    """Point all tables to their new versions at once."""
    if not refs.compare_and_swap(lake, {name: told.after[name] for name in PUBLISHED}, told.before):
        msg = f"another run published tables of {lake.root} while this refresh ran; run it again: what it made is used"
        raise InputError(msg)


def _ended(lake: config.Lake, told: RefreshRecord, seconds: float) -> None:
    """Keep what was done, where something was, and say it as a line; a person reads the verb's own."""
    if told.outcome != "nothing new":
        _keep(lake, told)
    if logs.is_json():
        logs.set_context(stage="refresh")
        values = {"seconds": round(seconds, 3), "errors": int(told.outcome in {"failed", "refused"})}
        fields = logs.fields(outcome=told.outcome, reason=told.reason, **cloudwatch.embedded_metrics(values, "refresh"))
        LOG.info("refresh %s: %s", told.id, told.outcome, extra=fields)


def _keep(lake: config.Lake, told: RefreshRecord) -> None:
    text = json.dumps(replace(told, ended_at=ids.now()).summary(), indent=1)
    Storage.of(lake).at("refreshes").write(f"{told.id}.json", text.encode())
