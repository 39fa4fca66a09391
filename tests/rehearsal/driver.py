"""A command -> a driver that runs it: a folder of its own, archives unpacked from S3, spark-submit; and what it said."""

import json
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3

from rehearsal import machine
from rehearsal.derived import Command
from rehearsal.machine import Machine

ENDS_WITHIN = 600.0  # seconds
LAST_LINES = 15


class RehearsalError(Exception):
    """What went wrong, in one sentence for a person, and where its log is."""


@dataclass(frozen=True)
class Driver:
    """A driver that runs; what it and its JVM say is in `log`."""

    name: str
    process: subprocess.Popen[bytes]
    begun: float
    log: Path

    def kill(self) -> None:
        """Kill it with its JVM, if it runs; executors of a standalone cluster end by themselves then."""
        if self.process.poll() is None:
            machine.end(self.process)

    def result(self) -> tuple[dict[str, Any], float]:
        """Wait for the end: (the line of JSON it printed, seconds). Raises RehearsalError when it failed."""
        try:
            status = self.process.wait(ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            status = f"no end after {ENDS_WITHIN:g} s"
        finally:
            self.kill()
        lines = self.log.read_text(errors="replace").splitlines()
        said = [line for line in lines if line.startswith('{"')]
        if status != 0 or not said:
            msg = f"{self.name} failed ({status}): {sentence(lines)}\n  its log: {self.log}"
            raise RehearsalError(msg)
        return json.loads(said[-1]), time.monotonic() - self.begun


def started(on: Machine, name: str, command: Command) -> Driver:
    """Start a driver; `name` is used once."""
    begun, folder = time.monotonic(), on.folder / f"driver-{name}"
    folder.mkdir()
    for archive, address in command.archives.items():
        unpacked(on, address, folder / archive)
    words = [str(on.line.home / "bin/spark-submit"), *command.words]
    log = on.folder / f"driver-{name}.log"
    return Driver(name, machine.begun(words, log, folder, on.environment() | command.environment), begun, log)


def unpacked(on: Machine, address: str, folder: Path) -> None:
    """Fetch a tar.gz from S3 and unpack it, as EMR does in the driver's folder."""
    parts, packed = urlsplit(address), folder.with_suffix(".tar.gz")
    boto3.client("s3").download_file(parts.netloc, parts.path.lstrip("/"), str(packed))
    folder.mkdir()
    subprocess.run(["tar", "-xzf", packed, "-C", folder], check=True)
    packed.unlink()


def sentence(lines: list[str]) -> str:
    """Find what a person must read: the last line that names an error of Python's, else the last lines."""
    errors = [line for line in lines if re.match(r"(\w+\.)*\w*(Error|Exception): ", line)]
    return errors[-1] if errors else "\n".join(lines[-LAST_LINES:])
