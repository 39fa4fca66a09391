"""Make ids of runs and versions, and timestamps as they record them."""

import datetime as dt
import re
import uuid

ID = re.compile(r"\d{8}T\d{6}\.\d{6}Z(-\w+)*-[0-9a-f]{4}")


def new_id(*kind: str) -> str:
    """Return a unique id that sorts by time: TIME-KIND-RANDOM, for example 20261122T202130.123456Z-1a2b3c4d-5e6f."""
    return "-".join((f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S.%fZ}", *kind, uuid.uuid4().hex[:4]))


def now() -> str:
    """Return the time in UTC as ISO 8601, in seconds."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def age_hours(time: str) -> float:
    """Return how long ago a time was that `now` returned, in hours."""
    return (dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(time)) / dt.timedelta(hours=1)
