"""Play each bad day of a teacher to the command line, and print what became of the rows as a table of Markdown.

    PYTHONPATH=tests:. python tests/benchmarks/teachers.py [--modes busy_503 quota ...]

A mode of `support/bad_teachers.py` is a row: how many of the 60 questions are answered, the calls, the most calls for one
question, the seconds of the command in a process whose Spark has started, its exit status and its message. Print each row
when it is known.
"""

import argparse
import re
import shutil
import sys
import tempfile
from pathlib import Path

from support import teacher_runs
from support.bad_teachers import BUSY, MODES, BadTeacher
from support.teacher_runs import Ended

MANY = ("completions.in_flight=32", "completions.attempts=20", "completions.deadline_seconds=60")
HEAD = "| mode | answered | failed | calls | most for one | seconds | status | message |\n|---|---|---|---|---|---|---|---|\n"
MESSAGE = re.compile(r"endpoint 'mine' (.*?);|(the failed requests?.*?|\d+ of \d+ requests failed.*?);")


def main() -> None:
    """Play the modes, print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--modes", nargs="*", default=sorted({*MODES, *BUSY}))
    with tempfile.TemporaryDirectory() as folder:
        original = teacher_runs.make_lake(Path(folder, "original"))
        sys.stdout.write(HEAD)
        for mode in parser.parse_args().modes:
            sys.stdout.write(line(mode, Path(shutil.copytree(original, Path(folder, mode)))))
            sys.stdout.flush()


def line(mode: str, root: Path) -> str:
    """Ask a teacher of this mode, and return its row."""
    with BadTeacher(mode) as teacher:
        ended = teacher_runs.run_here(root, teacher_runs.bad_endpoint(teacher), *MANY)
    failed = ", ".join(f"{count} {name}" for name, count in sorted(ended.failed.items()))
    cells = (mode, ended.answers, failed, teacher.calls, teacher.most_for_one, round(ended.seconds), ended.status)
    return "| " + " | ".join(map(str, (*cells, message(ended)))) + " |\n"


def message(ended: Ended) -> str:
    """Return the reason that a failed run gives."""
    found = MESSAGE.search(ended.words) if ended.status else None
    return (found[1] or found[2]) if found else ""


if __name__ == "__main__":
    main()
