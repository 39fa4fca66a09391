"""Read and set the state of the fake model server, and read what a run stored of its answers."""

import json
import urllib.request
from typing import Any

from raft_spark import config
from raft_spark.lake import dataframes, session


def calls(url: str, path: str = "calls") -> dict[str, Any]:
    """Return the fake server's counts of its calls; at `calls/keys` those of each request by its key."""
    with urllib.request.urlopen(f"{url.removesuffix('/v1')}/{path}") as answer:
        return dict(json.load(answer))


def behave(url: str, *each: object, **how: object) -> None:
    """Set which faults the fake server makes."""
    request = urllib.request.Request(url.removesuffix("/v1") + "/behave", json.dumps(each or how).encode())
    urllib.request.urlopen(request).close()


def manner(url: str, **options: object) -> None:
    """Change the fake server's options, such as its limits."""
    request = urllib.request.Request(url.removesuffix("/v1") + "/manner", json.dumps(options).encode())
    urllib.request.urlopen(request).close()


def forget(url: str) -> None:
    """Set the fake server's counts to 0."""
    urllib.request.urlopen(urllib.request.Request(url.removesuffix("/v1") + "/calls", method="DELETE")).close()


def stored(conf: config.Config) -> list[dict[str, Any]]:
    """Return the rows of the answer store."""
    return [row.asDict() for row in dataframes.stored_answers(session.start(conf), conf.lake).collect()]
