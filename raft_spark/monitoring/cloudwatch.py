"""Counts of a run -> fields of a log line in CloudWatch's embedded metric format, of which CloudWatch Logs makes metrics.

    {"_aws": {"Timestamp": 1795378909123, "CloudWatchMetrics": [{"Namespace": "RaftSpark",
     "Dimensions": [["stage"], ["stage", "endpoint"]], "Metrics": [{"Name": "answered", "Unit": "Count"}]}]},
     "stage": "completions", "endpoint": "teacher", "answered": 40}

A count is what has been added since the line before, so that its Sum is right over any time and any number of runs;
failed_share is the run's as it stands. The format: Amazon CloudWatch User Guide, "Specification: Embedded metric format".
"""

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from raft_spark.monitoring.run_state import Run

NAMESPACE = "RaftSpark"
UNITS = {"seconds": "Seconds", "dollars": "None", "failed_share": "None"}  # all others are counts
RUN_FIELDS = {  # of a Run, by the metric's name
    "asked": "done",
    "answered": "answered",
    "calls": "calls",
    "throttles": "throttled",
    "prompt_tokens": "prompt_tokens",
    "completion_tokens": "completion_tokens",
}


def embedded_metrics(values: Mapping[str, float], stage: str, endpoint: str = "") -> dict[str, Any]:
    """Return the fields of a line that tells these metrics, by stage and, where there is one, also by endpoint."""
    named = {"stage": stage} | ({"endpoint": endpoint} if endpoint else {})
    directive = {
        "Namespace": NAMESPACE,
        "Dimensions": [["stage"], ["stage", "endpoint"]] if endpoint else [["stage"]],
        "Metrics": [{"Name": name, "Unit": UNITS.get(name, "Count")} for name in values],
    }
    return {"_aws": {"Timestamp": time.time_ns() // 1_000_000, "CloudWatchMetrics": [directive]}, **named, **values}


def difference(before: Run, now: Run) -> dict[str, float]:
    """Return what a run has done since `before`, and the share of its requests that failed, once one has ended."""
    failed = Counter(now.failed)
    failed.subtract(before.failed)
    counts: dict[str, float] = {name: getattr(now, own) - getattr(before, own) for name, own in RUN_FIELDS.items()}
    counts |= {"failed": failed.total(), **{f"failed_{name}": count for name, count in sorted(failed.items())}}
    counts["dollars"] = round(now.dollars - before.dollars, 6)
    return counts | ({"failed_share": round(sum(now.failed.values()) / now.done, 6)} if now.done else {})
