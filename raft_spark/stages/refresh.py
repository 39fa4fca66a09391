"""Run all stages from source to dataset in a branch, check the new versions with gates, and publish them at once.

    ROOT/refreshes/ID.json         what a refresh did and why: the versions before and after, changes, gates

Readers of the lake see the old versions of all tables until all new ones are current. The versions that a crashed refresh
finished are reused by the next one.
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
# all but the answers, which are published as they arrive
PUBLISHED = tuple(stage.name for stage in registry.PIPELINE if "teacher" not in stage.uses)


@dataclass(frozen=True, slots=True)
class RefreshRecord:
    """What a refresh did.

    `before` and `after` name the versions by table. `changes` counts the rows of articles and base by kind of change.

    A record that stays `publishing` is of a refresh that crashed just before or after it moved the refs. The refs show
    which.
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
        """Return the record as plain JSON values."""
        return dataclasses.asdict(self)


def run(conf: config.Config) -> RefreshRecord:
    """Bring the lake up to date with its source; return what was done.

    Raises GateError when a gate refuses the new versions, InputError when another refresh published first, and what a
    stage raises. In each case the record is written and the tables stay as they were.
    """
    conf.check_max_spend()
    before, begin = refs.read(conf.lake), time.monotonic()
    record = RefreshRecord(ids.new_id(), ids.now(), before.tables)
    branch = conf.lake.model_copy(update={"branch": refs.REFRESH + record.id})
    refs.sweep(conf.lake)
    refs.create(branch, before)
    try:
        with refs.renewed(branch):
            record = _run_stages(conf.model_copy(update={"lake": branch}), record)
        if record.outcome == "published":
            _write(conf.lake, replace(record, outcome="publishing"))
            _publish(conf.lake, record)
    except BaseException as error:
        record = replace(record, outcome="failed", reason=f"{type(error).__name__}: {error}")
        raise
    finally:
        refs.drop(branch)
        _report(conf.lake, record, time.monotonic() - begin)
    expired = retention.expire(conf.lake) if record.outcome == "published" else ()
    iceberg.sync(conf)
    if record.outcome == "refused":
        raise GateError(record.reason)
    return replace(record, expired=tuple(expired))


def _run_stages(conf: config.Config, record: RefreshRecord) -> RefreshRecord:
    """Run all stages in the branch, and check their gates: those of articles and base before the teacher is asked."""
    free = itertools.takewhile(lambda stage: "teacher" not in stage.uses, registry.PIPELINE)
    new = {stage.name: runner.run(stage, conf) for stage in free}
    if any(record.before.get(name) != version.id for name, version in new.items()):
        record = _check_rows(conf, record, new)
    if record.outcome == "refused":
        return record
    new |= {stage.name: runner.run(stage, conf) for stage in registry.PIPELINE[len(new) :]}
    record = replace(record, after={name: version.id for name, version in new.items()})
    if all(record.before.get(name) == record.after[name] for name in PUBLISHED):
        return replace(record, outcome="nothing new", reason="source and settings are as they were")
    dataset = record.after[schemas.DATASET]
    if dataset in refs.read(conf.lake).left:
        reason = (
            f"the result is dataset {dataset}, which was rolled back; `raft-spark rollback {dataset}` makes it current"
        )
        return replace(record, outcome="nothing new", reason=reason)
    results = [*gates.check_dataset(conf, new), gates.check_lineage({name: new[name] for name in PUBLISHED})]
    return _apply_gates(replace(record, outcome="published"), results)


def _check_rows(conf: config.Config, record: RefreshRecord, new: Mapping[str, tables.Version]) -> RefreshRecord:
    """Compare the new versions of articles and base with the current ones, and check their gates."""
    spark = session.start(conf, "refresh: compare versions")
    with worker_errors():
        old = {
            name: tables.find(conf.lake, name, record.before[name]) if name in record.before else None for name in new
        }
        changes = {name: gates.changes(spark, conf.lake, old[name], version) for name, version in new.items()}
        results = gates.check_rows(spark, conf, new)
    results.append(gates.check_lineage(new))
    results += gates.check_changes(changes[schemas.ARTICLES], changes[schemas.BASE], conf.refresh)
    return _apply_gates(replace(record, changes=changes), results)


def _apply_gates(record: RefreshRecord, results: Sequence[GateResult]) -> RefreshRecord:
    """Add the results to the record; if one failed, the refresh is refused."""
    record = replace(record, gates=(*record.gates, *results))
    failed = "; ".join(map(str, gates.failed(results)))
    return replace(record, outcome="refused", reason=f"{failed}; the lake stays as it was") if failed else record


def _publish(lake: config.Lake, record: RefreshRecord) -> None:
    """Make all new versions current at once. Raises InputError if another run published in the meantime."""
    if not refs.compare_and_swap(lake, {name: record.after[name] for name in PUBLISHED}, record.before):
        msg = f"another run published tables of {lake.root} while this refresh ran; run it again: it uses what this one made"
        raise InputError(msg)


def _report(lake: config.Lake, record: RefreshRecord, seconds: float) -> None:
    """Write the record, unless nothing is new, and log how the refresh ended as JSON fields.

    In text format the command prints the outcome.
    """
    if record.outcome != "nothing new":
        _write(lake, record)
    if logs.is_json():
        logs.set_context(stage="refresh")
        values = {"seconds": round(seconds, 3), "errors": int(record.outcome in {"failed", "refused"})}
        fields = logs.fields(
            outcome=record.outcome, reason=record.reason, **cloudwatch.embedded_metrics(values, "refresh")
        )
        LOG.info("refresh %s: %s", record.id, record.outcome, extra=fields)


def _write(lake: config.Lake, record: RefreshRecord) -> None:
    text = json.dumps(replace(record, ended_at=ids.now()).summary(), indent=1)
    Storage.of(lake).at("refreshes").write(f"{record.id}.json", text.encode())
