"""Counts of a run -> fields of a log line in CloudWatch's embedded metric format, from which CloudWatch Logs extracts
metrics.

    {"_aws": {"Timestamp": 1795378909123, "CloudWatchMetrics": [{"Namespace": "RaftSpark",
     "Dimensions": [["stage"], ["stage", "endpoint"]], "Metrics": [{"Name": "answered", "Unit": "Count"}]}]},
     "stage": "completions", "endpoint": "teacher", "answered": 40}

A count is the increase since the previous line, so its Sum is right over any period and any number of runs.
failed_share is that of the whole run so far. Source: Amazon CloudWatch User Guide, "Specification: Embedded metric
format".
"""

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from raft_spark.monitoring.run_state import Run

NAMESPACE = "RaftSpark"
UNITS = {
    "seconds": "Seconds",
    "dollars": "None",
    "possible_dollars": "None",
    "failed_share": "None",
}  # all others: Count
RUN_FIELDS = {  # metric: field of Run
    "asked": "done",
    "answered": "answered",
    "calls": "calls",
    "throttles": "throttled",
    "prompt_tokens": "prompt_tokens",
    "completion_tokens": "completion_tokens",
}


def embedded_metrics(values: Mapping[str, float], stage: str, endpoint: str = "") -> dict[str, Any]:
    """Return the fields of a log line with these metrics, with the dimensions stage and, if given, endpoint."""
    dimensions = {"stage": stage} | ({"endpoint": endpoint} if endpoint else {})
    directive = {
        "Namespace": NAMESPACE,
        "Dimensions": [["stage"], ["stage", "endpoint"]] if endpoint else [["stage"]],
        "Metrics": [{"Name": name, "Unit": UNITS.get(name, "Count")} for name in values],
    }
    return {
        "_aws": {"Timestamp": time.time_ns() // 1_000_000, "CloudWatchMetrics": [directive]},
        **dimensions,
        **values,
    }


def difference(before: Run, now: Run) -> dict[str, float]:
    """Return the increase of a run's counts since `before`, and failed_share once a request has ended."""
    failed = Counter(now.failed)
    failed.subtract(before.failed)
    counts: dict[str, float] = {
        name: getattr(now, field) - getattr(before, field) for name, field in RUN_FIELDS.items()
    }
    counts |= {"failed": failed.total(), **{f"failed_{name}": count for name, count in sorted(failed.items())}}
    for name in ("dollars", "possible_dollars"):
        counts[name] = round(getattr(now, name) - getattr(before, name), 6)
    return counts | ({"failed_share": round(sum(now.failed.values()) / now.done, 6)} if now.done else {})
