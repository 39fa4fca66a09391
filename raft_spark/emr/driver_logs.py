"""Read why a run failed, and the last lines of its driver's logs, as EMR Serverless stores them under emr.logs.

    LOGS/applications/APPLICATION/jobs/RUN/SPARK_DRIVER/stdout.gz, stderr.gz                 a run with one attempt
    LOGS/applications/APPLICATION/jobs/RUN/attempts/N/SPARK_DRIVER/stdout.gz, stderr.gz      attempt N of a run with several

(EMR Serverless user guide, "Rotating logs".) spark-submit joins all that Python writes into the driver's standard output,
so the reason of a failure is in stdout.gz; stderr.gz has the lines of the JVM. The logs appear some seconds after the run
has ended.
"""

import gzip
import json
import re
import time
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from raft_spark import errors
from raft_spark.common import aws
from raft_spark.common.aws import AwsClient
from raft_spark.config import Config

TAIL_LINES = 40  # of each log
PAUSES = (0.0, 5.0, 10.0, 15.0)  # seconds before each attempt to find the logs
LOGS = ("stdout.gz", "stderr.gz")
OWN_ERROR = re.compile(f"({'|'.join(kind.__name__ for kind in errors.RaftError.__subclasses__())}): ")
ANY_ERROR = re.compile(r'(Caused by: |Exception in thread "[^"]*" )?(\w+\.)*\w*(Error|Exception): ')


@dataclass(frozen=True)
class DriverLog:
    """The end of a log, and the line of the whole log that says best why the run failed, "" if none does."""

    lines: Sequence[str]
    reason: str


def tail(conf: Config, job_run: Mapping[str, Any]) -> Iterator[str]:
    """Yield why the run failed, then each log's place and last lines, or one line that says why it cannot be shown."""
    if not conf.emr.logs:
        yield "emr.logs is not set: the driver's log is only in the dashboard"
        return
    folder = f"{conf.emr.logs.rstrip('/')}/applications/{job_run['applicationId']}/jobs/{job_run['jobRunId']}"
    try:
        client = aws.connect("s3")
        uris = _find_logs(client, folder, PAUSES if job_run["state"] == "FAILED" else PAUSES[:1])
        if not uris:
            yield f"{folder} holds no log of the driver, which may never have started"
        logs = {uri: _read(client, uri) for uri in uris}
        yield from [f"reason: {log.reason}" for log in logs.values() if log.reason][:1]
        for uri, log in logs.items():
            yield f"last lines of {uri}:"
            yield from log.lines
    except (ClientError, BotoCoreError) as error:
        yield f"{folder} cannot be read: {error}"


def _find_logs(client: AwsClient, folder: str, pauses: Sequence[float]) -> list[str]:
    """Return the logs of the last attempt that has any, standard output first; wait for both until the last pause."""
    bucket, prefix = aws.split_uri(folder)
    found: list[str] = []
    for pause in pauses:
        time.sleep(pause)
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
        keys = {item["Key"] for page in pages for item in page.get("Contents", [])}
        folders = {
            key.rpartition("/")[0] for key in keys if key.endswith(tuple(f"SPARK_DRIVER/{name}" for name in LOGS))
        }
        last = max(folders, key=_attempt, default="")
        found = [f"s3://{bucket}/{last}/{name}" for name in LOGS if f"{last}/{name}" in keys]
        if len(found) == len(LOGS):
            break
    return found


def _attempt(folder: str) -> int:
    attempt = re.search(r"/attempts/(\d+)/", folder)
    return int(attempt[1]) if attempt else 0


def _read(client: AwsClient, uri: str) -> DriverLog:
    """Decompress a log as a stream; one that is still being written may be cut."""
    bucket, key = aws.split_uri(uri)
    with gzip.open(client.get_object(Bucket=bucket, Key=key)["Body"], "rt", errors="replace") as log:
        return read_lines(_whole_lines(log))


def _whole_lines(log: Iterable[str]) -> Iterator[str]:
    try:
        yield from (line.rstrip("\n") for line in log)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        yield "(the log ends here, in the middle of a line)"


def read_lines(lines: Iterable[str]) -> DriverLog:
    """Return the end of a log and its reason: the last error of raft-spark, else the last error of anybody."""
    last: deque[str] = deque(maxlen=TAIL_LINES)
    own = other = ""
    for line in lines:
        last.append(line)
        message = _message(line)
        own = message if OWN_ERROR.match(message) else own
        other = message if ANY_ERROR.match(message) else other
    return DriverLog(tuple(last), own or other)


def _message(line: str) -> str:
    """Return what a line says; of a line of JSON (log.format = "json") its message, if it logs an error."""
    if not line.startswith("{"):
        return line
    try:
        fields = json.loads(line)
    except ValueError:
        return ""
    return str(fields.get("message", "")) if fields.get("level") in {"error", "critical"} else ""
