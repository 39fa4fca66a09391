"""What a run says while it goes -> lines on standard error: for a person, or one JSON object a line for a machine.

    {"time": "2026-11-22T20:21:49.123+00:00", "level": "info", "logger": "raft_spark.monitoring.progress", "stage": "completions",
     "run_id": "20261122T202130.123456Z-1a2b3c4d-5e6f", "message": "1,200 of 40,000 asked", "done": 1200, "total": 40000}

Every module says what it has to say to its own logger; numbers go beside the sentence, as fields. In JSON, Python's warnings and
an error that nobody caught become lines too, so that a log of EMR Serverless can be searched line by line.
"""

import datetime as dt
import json
import logging
import sys
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal

from raft_spark.errors import RaftError

LogFormat = Literal["text", "json"]
PACKAGE = "raft_spark"
_context: dict[str, str] = {"stage": "", "run_id": ""}  # of this process, as its handler is


class LineHandler(logging.Handler):
    """Writes to what is standard error at the time: a live display, or a test, may have taken its place."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record in one piece; a standard error that is gone ends no run."""
        with suppress(OSError, ValueError):
            sys.stderr.write(f"{self.format(record)}\n")
            sys.stderr.flush()


class JsonFormatter(logging.Formatter):
    """A record, what the process is about and the record's own fields -> one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback is a field of it."""
        told = {
            "time": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            **_context,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str)


def configure(form: LogFormat, **about: str) -> None:
    """Write lines in this form from now on, each with what they are `about` (stage, run_id, task) on top of what is known."""
    root = logging.getLogger()
    own = next((handler for handler in root.handlers if isinstance(handler, LineHandler)), None) or LineHandler()
    own.setFormatter(JsonFormatter() if form == "json" else None)
    root.addHandler(own)
    logging.getLogger(PACKAGE).setLevel(logging.INFO)
    if form == "json":
        logging.captureWarnings(capture=True)
        sys.excepthook = _uncaught
    set_context(**about)


def set_context(**about: str) -> None:
    """Say what the lines of this process are about from now on."""
    _context.update(about)


def context(name: str) -> str:
    """Return what the lines are about now: the `stage`, or its `run_id`, "" before there is one."""
    return _context[name]


def is_json() -> bool:
    """Say whether a machine reads the lines: then nothing else may stand between them."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers)


def fields(**named: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever JSON can hold
    """Return numbers and names that go beside a sentence: `log.info("...", extra=fields(done=3))`."""
    return {"fields": named}


def log_failure(error: RaftError) -> None:
    """Say why a run ends."""
    name = type(error).__name__
    logging.getLogger(PACKAGE).error("%s: %s", name, error, extra=fields(error=name, exit_status=error.exit_status))


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger(PACKAGE).critical("%s: %s", kind.__name__, error, exc_info=(kind, error, trace))
