"""A stage -> the same, watched: its lines name it, the catalog follows it, and its end, good or bad, is told with metrics and lineage."""

import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from raft_spark import config
from raft_spark.common import logs
from raft_spark.config import Config
from raft_spark.errors import RaftError, StoppedError
from raft_spark.lake import iceberg, session
from raft_spark.lake.tables import Version
from raft_spark.monitoring import cloudwatch, lineage
from raft_spark.stages.registry import Stage

LOG = logging.getLogger(__name__)


def run(stage: Stage, conf: Config) -> Version:
    """Run a stage, and bring the lake's catalog up to date; return and raise what they do."""
    logs.configure(conf.log.format, stage=stage.name, run_id="")
    begin = time.time()
    try:
        version = stage.run(conf)
    except BaseException as error:
        _tell(conf, stage, begin, error)
        raise
    _tell(conf, stage, begin, version)
    iceberg.sync(conf)
    return version


def _tell(conf: Config, stage: Stage, begin: float, ended: Version | BaseException) -> None:
    """Say how a stage ended, in JSON only: a person reads the stage's own last line."""
    if not logs.is_json():
        return
    run_id, seconds = logs.context("run_id"), round(time.time() - begin, 3)
    values = {"seconds": seconds, "errors": int(_state(ended) == "failed")}
    new = not isinstance(ended, Version) or ended.id == run_id
    rows = stage.rows(ended.counts) if isinstance(ended, Version) and new else {}
    told = cloudwatch.embedded_metrics(
        values | rows, stage.name, conf.completions.endpoint if "teacher" in stage.uses else ""
    )
    LOG.info("%s %s after %.1f s", stage.name, _state(ended), seconds, extra=logs.fields(state=_state(ended), **told))
    for event in lineage.events(conf, stage.name, run_id, begin, ended, rows) if run_id and new else ():
        LOG.info("lineage: %s", event["eventType"], extra=logs.fields(openlineage=event))


def _state(ended: Version | BaseException) -> str:
    if isinstance(ended, Version):
        return "finished"
    return "stopped" if isinstance(ended, (StoppedError, KeyboardInterrupt)) else "failed"


def run_job(run: Callable[[Config], Any], argv: Sequence[str]) -> None:
    """Be a job's main: settle the settings, run the stage, print what it tells as one line of JSON.

    Exits with the status of a RaftError after one sentence on standard error.
    """
    logs.configure("text")  # until the settings are known
    try:
        conf = config.from_argv(argv)
        logs.configure(conf.log.format)
        done = run(conf)
    except RaftError as error:
        logs.log_failure(error)
        sys.exit(error.exit_status)
    sys.stdout.write(json.dumps(done.summary()) + "\n")
    session.stop()
