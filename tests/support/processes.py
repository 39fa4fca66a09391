"""Start, find and kill the processes of a command that runs in a session of its own."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from conftest import ROOT


@contextmanager
def started(
    command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a session of its own, of which nothing is left after the block; its output is added to `log`."""
    with log.open("ab") as output:
        run = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, cwd=ROOT, env=environment)
    try:
        yield run
    finally:
        for pid in family(run):
            kill(pid)
        run.wait()


def family(run: subprocess.Popen[bytes], word: str = "") -> list[int]:
    """Return the processes of a run that still live, whose command line holds `word`."""
    table = subprocess.run(["ps", "-ww", "-eo", "pid,sid,stat,args"], capture_output=True, text=True, check=True).stdout
    lines = [line.split(None, 3) for line in table.splitlines()[1:]]
    return [
        int(pid)
        for pid, sid, state, args in lines
        if int(sid) == run.pid and word in args and not state.startswith("Z")
    ]


def kill(pid: int) -> bool:
    """Kill a process; return False if it has ended."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
