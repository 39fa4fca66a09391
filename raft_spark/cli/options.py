"""What every verb of the command line has: settings as arguments, errors as one sentence, a console."""

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
    """Give a verb the arguments that every verb has."""
    files = click.argument("files", nargs=-1, metavar="[CONF.toml ...]")
    sets = click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="section.key=value",
        help="One setting; may be repeated, the last wins.",
    )
    return files(sets(function))


@contextmanager
def error_exit() -> Iterator[None]:
    """Turn an error into one sentence and an exit status; Ctrl-C stops Spark and leaves a lake the next run continues."""
    try:
        with extras.required():
            yield
    except RaftError as error:
        if logs.is_json():
            logs.log_failure(error)
        else:
            console.print(f"[bold red]{type(error).__name__}[/] ", end="")
            console.print(wording.visible(str(error)), markup=False, highlight=False)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        stop_spark()
        console.print("interrupted; what was answered is stored, and the same command goes on from here")
        sys.exit(INTERRUPTED)


def stop_spark() -> None:
    """Stop the session where a verb has started one; a verb that needed no Spark has not loaded it."""
    if "pyspark" in sys.modules:
        from raft_spark.lake import session

        session.stop()
