"""Do what the lines of standard input say to a lake, in one Spark session: python operator_of_lake.py [--set ...]

A line is `refresh`, `rollback ID`, `pin ID`, `unpin ID` or `expire`. The answer is a line of JSON, at the file descriptor 3.
"""

import json
import os
import sys

from raft_spark import config
from raft_spark.errors import RaftError
from raft_spark.stages import refresh, retention


def outcome(conf: config.Config, verb: str, version: str) -> str:
    """Do one thing; return how it ended."""
    try:
        match verb:
            case "refresh":
                return refresh.run(conf).outcome
            case "rollback":
                retention.roll_back(conf.lake, version)
            case "expire":
                return f"{len(retention.expire(conf.lake))} expired"
            case _:
                retention.pin(conf.lake, version, off=verb == "unpin")
    except RaftError as error:
        return f"{type(error).__name__}: {error}"
    return "done"


if __name__ == "__main__":
    settled = config.from_argv(sys.argv[1:])
    with os.fdopen(3, "w", buffering=1) as answers:
        answers.write(json.dumps("ready") + "\n")
        for line in sys.stdin:
            verb, _, version = line.strip().partition(" ")
            answers.write(json.dumps(outcome(settled, verb, version)) + "\n")
