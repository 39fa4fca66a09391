"""Find and kill the processes of a command that runs in a session of its own."""

import os
import signal
import subprocess


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
