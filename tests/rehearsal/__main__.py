"""Rehearse a release on both Spark lines, and print each step.

python -m rehearsal RELEASE [--label emr-7.14.0] [--rows 600] [--folder build/rehearsal]
"""

import argparse
import shutil
import signal
import sys
import time
from pathlib import Path

from raft_spark.emr import release
from raft_spark.errors import RaftError
from rehearsal import machine, scenario
from rehearsal.driver import RehearsalError


def main() -> None:
    """Rehearse each line; exit with status 1 at the first problem, and keep its logs."""
    options = parse_arguments()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: sys.exit("\nstopped"))  # runs all `finally` blocks
    shutil.rmtree(options.folder, ignore_errors=True)
    begun = time.monotonic()
    try:
        scenario.rehearse(release.load(options.release), options.label, options.rows, options.folder.absolute())
    except (RehearsalError, RaftError) as error:
        sys.exit(f"\nThe rehearsal failed: {error}")
    sys.stdout.write(f"\nThe rehearsal succeeded, {time.monotonic() - begun:.0f} s.\n")


def parse_arguments() -> argparse.Namespace:
    labels = [line.label for line in machine.LINES]
    parser = argparse.ArgumentParser(prog="rehearsal", description=__doc__.partition("\n")[0])
    parser.add_argument("release", type=Path, help="folder of a release")
    parser.add_argument("--label", action="append", choices=labels, help="can be repeated; default: both")
    parser.add_argument("--rows", type=int, default=600, help="number of articles")
    parser.add_argument("--folder", type=Path, default=machine.ROOT / "build/rehearsal", help="folder of all output")
    options = parser.parse_args()
    options.label = options.label or labels
    return options


if __name__ == "__main__":
    main()
