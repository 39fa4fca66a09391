"""Run stages and return what each of them did. The command line and the Python API both call these functions."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raft_spark.config import Config
from raft_spark.errors import ConfigError
from raft_spark.lake import browse, tables
from raft_spark.stages import registry, retention


@dataclass(frozen=True, slots=True)
class StageResult:
    """The result of one stage.

    Attributes:
        manifest: The version of the stage's table that is current now, with its files and settings.
        is_new: Whether the stage made this version now. False means that the table was already up to date.
        seconds: How long the stage took.
    """

    manifest: tables.Version
    is_new: bool
    seconds: float

    @property
    def name(self) -> str:
        """Return the name of the stage, which is also the name of its table."""
        return self.manifest.table

    @property
    def version(self) -> str:
        """Return the id of the table's version."""
        return self.manifest.id

    @property
    def counts(self) -> Mapping[str, Any]:
        """Return the numbers that the stage counted, such as rows by split, or rejected rows by reason."""
        return self.manifest.counts


@dataclass(frozen=True, slots=True)
class RunResult:
    """The result of a run.

    Attributes:
        stages: The result of each stage by its name, in the order of the data.
        seconds: How long the whole run took.
    """

    stages: Mapping[str, StageResult]
    seconds: float


@dataclass(frozen=True, slots=True)
class EvaluationResult(StageResult):
    """The result of the evaluation.

    Attributes:
        metrics: A dictionary for each metric of a student, a setting and a number of distractors: its `value`, and its
            95 % interval from `low` to `high`. In those with `against`, the value is the difference from that student.
        page: The HTML page with charts and answers, "" if matplotlib or jinja2 is missing.
    """

    metrics: tuple[Mapping[str, Any], ...]
    page: str


def run(conf: Config, watch: Callable[[StageResult], object] = lambda _: None) -> RunResult:
    """Run all stages from articles to dataset, and call `watch` with the result of each. Raises what a stage raises."""
    conf.check_max_spend()
    begin = time.monotonic()
    done: dict[str, StageResult] = {}
    for stage in registry.PIPELINE:
        done[stage.name] = run_stage(stage.name, conf)
        watch(done[stage.name])
    return RunResult(done, time.monotonic() - begin)


def run_stage(name: str, conf: Config) -> StageResult:
    """Run one stage. Raises ConfigError if no stage has this name, and what the stage raises."""
    from raft_spark.stages import runner

    if name not in registry.NAMES:
        msg = f"there is no stage {name!r}; the stages are {', '.join(registry.NAMES)}"
        raise ConfigError(msg)
    before, begin = tables.current(conf.lake, name), time.monotonic()
    version = runner.run(registry.find(name), conf)
    return StageResult(version, before is None or before.id != version.id, time.monotonic() - begin)


def evaluate(conf: Config) -> EvaluationResult:
    """Run the evaluation and read its metrics. Raises what the stage raises."""
    from raft_spark.stages import evaluation

    done = run_stage(registry.EVALUATION.name, conf)
    at = tables.storage(conf.lake, done.name).at("versions", done.version)
    metrics = pq.read_table(pa.BufferReader(at.read(evaluation.METRICS) or b"")).to_pylist()
    has_page = any(file.path == evaluation.PAGE for file in done.manifest.files)
    page = f"{browse.folder(conf.lake, done.manifest)}/{evaluation.PAGE}" if has_page else ""
    return EvaluationResult(done.manifest, done.is_new, done.seconds, tuple(metrics), page)


def rollback(conf: Config, version: str) -> dict[str, str]:
    """Make a version current again, with the versions it was made from, also in the lake's catalog; return their ids by table.

    Raises InputError if there is no such version.
    """
    with _catalog_updated(conf):
        return retention.roll_back(conf.lake, version)


def expire(conf: Config) -> list[str]:
    """Delete the versions that `lake.keep_versions` and `lake.keep_days` do not retain, also from the lake's catalog."""
    with _catalog_updated(conf):
        return retention.expire(conf.lake)


@contextmanager
def _catalog_updated(conf: Config) -> Iterator[None]:
    """Bring the lake's catalog up to date after the block. If the Spark this needs is not installed, the block does not run."""
    if conf.lake.format != "iceberg":
        yield
        return
    from raft_spark.lake import iceberg

    yield
    iceberg.sync(conf)
