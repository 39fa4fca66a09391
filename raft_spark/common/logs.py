"""Write log lines to standard error: text for a person, or one JSON object a line for a machine (log.format).

    {"time": "2026-11-22T20:21:49.123+00:00", "level": "info", "logger": "raft_spark.monitoring.progress", "stage": "completions",
     "run_id": "20261122T202130.123456Z-1a2b3c4d-5e6f", "message": "1,200 of 40,000 asked", "done": 1200, "total": 40000}

Every module logs to its own logger, and passes numbers as fields next to the message. In JSON, Python's warnings and uncaught
exceptions become lines too, so that the log of a run on EMR Serverless can be searched line by line.
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
_context: dict[str, str] = {"stage": "", "run_id": ""}  # of this process


class LineHandler(logging.Handler):
    """Writes to the sys.stderr of the moment, which a live display or a test may have replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record in one call; ignore a standard error that is closed."""
        with suppress(OSError, ValueError):
            sys.stderr.write(f"{self.format(record)}\n")
            sys.stderr.flush()


class JsonFormatter(logging.Formatter):
    """Formats a record, the context of the process and the record's fields as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback becomes the field "traceback"."""
        line = {
            "time": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            **_context,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(log_format: LogFormat, **context: str) -> None:
    """Write lines in this format from now on, and add `context` (stage, run_id, task) to the context of this process."""
    root = logging.getLogger()
    handler = next((handler for handler in root.handlers if isinstance(handler, LineHandler)), None) or LineHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else None)
    root.addHandler(handler)
    logging.getLogger(PACKAGE).setLevel(logging.INFO)
    if log_format == "json":
        logging.captureWarnings(capture=True)
        sys.excepthook = _uncaught
    set_context(**context)


def set_context(**context: str) -> None:
    """Add fields such as stage and run_id to every later JSON line of this process."""
    _context.update(context)


def context(name: str) -> str:
    """Return the current `stage` or `run_id`; "" before one is set."""
    return _context[name]


def is_json() -> bool:
    """Return True when lines are JSON: then nothing else may be written to standard error."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers)


def fields(**values: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON value
    """Return the `extra` that adds fields to a JSON line: `log.info("...", extra=fields(done=3))`."""
    return {"fields": values}


def log_failure(error: RaftError) -> None:
    """Log the error that ends a run, with its exit status as a field."""
    name = type(error).__name__
    logging.getLogger(PACKAGE).error("%s: %s", name, error, extra=fields(error=name, exit_status=error.exit_status))


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger(PACKAGE).critical("%s: %s", kind.__name__, error, exc_info=(kind, error, trace))
