"""Names of runs and versions, and the time as they record it."""

import datetime as dt
import re
import uuid

ID = re.compile(r"\d{8}T\d{6}\.\d{6}Z(-\w+)*-[0-9a-f]{4}")


def new_id(*kind: str) -> str:
    """Return a name that nobody else takes, and that sorts by time: TIME-KIND-CHANCE."""
    return "-".join((f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S.%fZ}", *kind, uuid.uuid4().hex[:4]))


def now() -> str:
    """Return the time as a run tells it."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
