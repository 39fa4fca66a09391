"""A run that has failed -> the last lines its driver wrote on standard error, as EMR Serverless stores them below emr.logs.

    LOGS/applications/APPLICATION/jobs/RUN/SPARK_DRIVER/stderr.gz                 a run of one attempt
    LOGS/applications/APPLICATION/jobs/RUN/attempts/N/SPARK_DRIVER/stderr.gz      attempt N, where a run may have several

(EMR Serverless user guide, "Rotating logs".) They come some seconds after the end.
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

LINES = 40
PAUSES = (0.0, 5.0, 10.0, 15.0)  # seconds before each look
STDERR = "SPARK_DRIVER/stderr.gz"


def tail(conf: Config, told: Mapping[str, Any]) -> Iterator[str]:
    """Yield where the log is and its last lines, or one line that says why there is none."""
    if not conf.emr.logs:
        yield "emr.logs is not set, so that the driver's log is in the dashboard alone"
        return
    folder = f"{conf.emr.logs.rstrip('/')}/applications/{told['applicationId']}/jobs/{told['jobRunId']}"
    try:
        client = aws.connect("s3")
        uri = _newest(client, folder, PAUSES if told["state"] == "FAILED" else PAUSES[:1])
        yield f"last lines of {uri}:" if uri else f"{folder} holds no log of the driver, which may never have started"
        yield from _lines(client, uri) if uri else ()
    except (ClientError, BotoCoreError) as error:
        yield f"{folder} cannot be read: {error}"


def _newest(client: AwsClient, folder: str, pauses: Sequence[float]) -> str:
    """Return the driver's log of the last attempt, "" where there is none after a while."""
    bucket, prefix = aws.split_uri(folder)
    for pause in pauses:
        time.sleep(pause)
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
        found = [told for page in pages for told in page.get("Contents", []) if told["Key"].endswith(STDERR)]
        if found:
            return f"s3://{bucket}/{max(found, key=_age)['Key']}"
    return ""


def _age(told: Mapping[str, Any]) -> tuple[int, dt.datetime]:
    """Order by attempt; of a run without attempts by what was written last."""
    attempt = re.search(r"/attempts/(\d+)/", told["Key"])
    return int(attempt[1]) if attempt else 0, told["LastModified"]


def _lines(client: AwsClient, uri: str) -> Iterator[str]:
    """Unpack a log as it comes, and keep its end; one that is still being written ends where it does."""
    bucket, key = aws.split_uri(uri)
    last: deque[str] = deque(maxlen=LINES)
    with gzip.open(client.get_object(Bucket=bucket, Key=key)["Body"], "rt", errors="replace") as log:
        try:
            last.extend(said.rstrip("\n") for said in log)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            last.append("(the log ends here, in the middle of a line)")
    yield from last
