"""Share between all commands: the arguments for settings, errors as one sentence with an exit status, the console."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console

from raft_spark.common import extras, logs, wording
from raft_spark.errors import INTERRUPTED, RaftError

console = Console()


def settings(function: Callable[..., None]) -> Callable[..., None]:
    """Add the arguments CONF.toml and --set to a command."""
    files = click.argument("files", nargs=-1, metavar="[CONF.toml ...]")
    sets = click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="section.key=value",
        help="Set one setting. Can be repeated; the last value wins.",
    )
    return files(sets(function))


@contextmanager
def error_exit() -> Iterator[None]:
    """Turn an error into one sentence and an exit status. After Ctrl-C, stop Spark; the next run continues."""
    try:
        with extras.required():
            yield
    except RaftError as error:
        if logs.is_json():
            logs.log_failure(error)
        else:
            console.print(f"[bold red]{type(error).__name__}[/] ", end="")
            console.print(wording.visible(str(error)), markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        stop_spark()
        console.print("interrupted; all answers are stored, and the same command continues from here")
        sys.exit(INTERRUPTED)


def stop_spark() -> None:
    """Stop the Spark session, if the command has started one."""
    if "pyspark" in sys.modules:
        from raft_spark.lake import session

        session.stop()
