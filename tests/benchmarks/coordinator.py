"""Measure what the driver takes to divide the limits among many tasks, each with 8 calls of 2 s in flight.

    PYTHONPATH=tests:. python tests/benchmarks/coordinator.py [--tasks 100 500] [--seconds 60]

The tasks are in two other processes and report over real sockets, twice a second. Prints one line of JSON and keeps it in
build/bench/coordinator.json: by number of tasks and with and without a limit of dollars, the share of a core, and how long
half and 99 % of the replies took at most. The command fails when it is more than MOST_CORES. The same machine runs the tasks,
so the share is smaller where a driver has its cores for itself.
"""

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from support.simulated_tasks import measured

MOST_CORES = 0.10


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=int, nargs="+", default=[100, 500])
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    found = [
        {
            "tasks": tasks,
            "dollars": dollars,
            "load": os.getloadavg()[0],
            **asdict(measured(tasks, options.seconds, dollars)),
        }
        for tasks in options.tasks
        for dollars in (0.0, 1e6)
    ]
    kept = Path("build/bench/coordinator.json")
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(found, indent=1))
    sys.stdout.write(json.dumps(found) + "\n")
    if (most := max(one["cores"] for one in found)) > MOST_CORES:
        sys.exit(f"the coordinator takes {most:.1%} of a core, more than {MOST_CORES:.0%}")


if __name__ == "__main__":
    main()
