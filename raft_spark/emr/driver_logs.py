"""Read the last lines of a driver's standard error, as EMR Serverless stores it under emr.logs.

    LOGS/applications/APPLICATION/jobs/RUN/SPARK_DRIVER/stderr.gz                 a run with one attempt
    LOGS/applications/APPLICATION/jobs/RUN/attempts/N/SPARK_DRIVER/stderr.gz      attempt N of a run with several

(EMR Serverless user guide, "Rotating logs".) The log appears some seconds after the run has ended.
"""

import datetime as dt
import gzip
import re
import time
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from raft_spark.common import aws
from raft_spark.common.aws import AwsClient
from raft_spark.config import Config

TAIL_LINES = 40
PAUSES = (0.0, 5.0, 10.0, 15.0)  # seconds before each attempt to find the log
STDERR = "SPARK_DRIVER/stderr.gz"


def tail(conf: Config, job_run: Mapping[str, Any]) -> Iterator[str]:
    """Yield where the log is and its last lines, or one line that says why it cannot be shown."""
    if not conf.emr.logs:
        yield "emr.logs is not set: the driver's log is only in the dashboard"
        return
    folder = f"{conf.emr.logs.rstrip('/')}/applications/{job_run['applicationId']}/jobs/{job_run['jobRunId']}"
    try:
        client = aws.connect("s3")
        uri = _find_log(client, folder, PAUSES if job_run["state"] == "FAILED" else PAUSES[:1])
        yield f"last lines of {uri}:" if uri else f"{folder} holds no log of the driver, which may never have started"
        yield from _last_lines(client, uri) if uri else ()
    except (ClientError, BotoCoreError) as error:
        yield f"{folder} cannot be read: {error}"


def _find_log(client: AwsClient, folder: str, pauses: Sequence[float]) -> str:
    """Return the log of the last attempt, "" when none appears after the last pause."""
    bucket, prefix = aws.split_uri(folder)
    for pause in pauses:
        time.sleep(pause)
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
        logs = [item for page in pages for item in page.get("Contents", []) if item["Key"].endswith(STDERR)]
        if logs:
            return f"s3://{bucket}/{max(logs, key=_attempt_order)['Key']}"
    return ""


def _attempt_order(item: Mapping[str, Any]) -> tuple[int, dt.datetime]:
    """Order by attempt, then by the time of the last write."""
    attempt = re.search(r"/attempts/(\d+)/", item["Key"])
    return int(attempt[1]) if attempt else 0, item["LastModified"]


def _last_lines(client: AwsClient, uri: str) -> Iterator[str]:
    """Decompress a log as a stream and keep its last lines; a log that is still being written may be cut."""
    bucket, key = aws.split_uri(uri)
    last: deque[str] = deque(maxlen=TAIL_LINES)
    with gzip.open(client.get_object(Bucket=bucket, Key=key)["Body"], "rt", errors="replace") as log:
        try:
            last.extend(line.rstrip("\n") for line in log)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            last.append("(the log ends here, in the middle of a line)")
    yield from last
