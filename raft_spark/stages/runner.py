"""Run a stage: set the fields of its log lines, log its metrics and lineage, and bring the lake's catalog up to date."""

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
from raft_spark.lake.tasks import worker_errors
from raft_spark.monitoring import cloudwatch, lineage
from raft_spark.stages.registry import Stage

LOG = logging.getLogger(__name__)


def run(stage: Stage, conf: Config) -> Version:
    """Run a stage and then bring the lake's catalog up to date; return the version. Raises what the two raise."""
    logs.configure(conf.log.format, stage=stage.name, run_id="")
    begin = time.time()
    try:
        with worker_errors():
            version = stage.run(conf)
    except BaseException as error:
        _log_end(conf, stage, begin, error)
        raise
    _log_end(conf, stage, begin, version)
    iceberg.sync(conf)
    return version


def _log_end(conf: Config, stage: Stage, begin: float, outcome: Version | BaseException) -> None:
    """Log how the stage ended as JSON fields; in text format the stage's last line already says it."""
    if not logs.is_json():
        return
    run_id, seconds = logs.context("run_id"), round(time.time() - begin, 3)
    values = {"seconds": seconds, "errors": int(_state(outcome) == "failed")}
    is_new = not isinstance(outcome, Version) or outcome.id == run_id
    rows = stage.rows(outcome.counts) if isinstance(outcome, Version) and is_new else {}
    metrics = cloudwatch.embedded_metrics(
        values | rows, stage.name, conf.completions.endpoint if "teacher" in stage.uses else ""
    )
    LOG.info(
        "%s %s after %.1f s", stage.name, _state(outcome), seconds, extra=logs.fields(state=_state(outcome), **metrics)
    )
    for event in lineage.events(conf, stage.name, run_id, begin, outcome, rows) if run_id and is_new else ():
        LOG.info("lineage: %s", event["eventType"], extra=logs.fields(openlineage=event))


def _state(outcome: Version | BaseException) -> str:
    if isinstance(outcome, Version):
        return "finished"
    return "stopped" if isinstance(outcome, (StoppedError, KeyboardInterrupt)) else "failed"


def run_job(run: Callable[[Config], Any], argv: Sequence[str]) -> None:
    """Run a job from its command line: load the settings, call `run`, and print a summary of the result as one line of JSON.

    A RaftError is printed as one sentence on standard error, and ends the process with its exit status.
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
