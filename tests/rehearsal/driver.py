"""Start a driver with spark-submit in its own folder, with its archives unpacked, and read its result."""

import gzip
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
from rehearsal.machine import Machine
from rehearsal.spark_submit import Command

ENDS_WITHIN = 600.0  # seconds
LAST_LINES = 15


class RehearsalError(Exception):
    """A problem in one sentence, with the path of the log."""


@dataclass(frozen=True)
class Driver:
    """A running driver. As on EMR, `log` (stdout) has all that Python writes, and stderr beside it the JVM's lines."""

    name: str
    process: subprocess.Popen[bytes]
    started_at: float
    log: Path

    def kill(self) -> None:
        """Kill the driver and its JVM if they run; the executors of a standalone cluster end by themselves."""
        if self.process.poll() is None:
            machine.kill_session(self.process)

    def result(self) -> tuple[dict[str, Any], float]:
        """Wait for the end; return the printed line of JSON, and seconds. Raises RehearsalError when the driver failed."""
        try:
            status = self.process.wait(ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            status = f"still running after {ENDS_WITHIN:g} s"
        finally:
            self.kill()
        lines = self.log.read_text(errors="replace").splitlines()
        said = [line for line in lines if line.startswith('{"')]
        if status != 0 or not said:
            msg = f"{self.name} failed ({status}): {error_sentence(lines)}\n  its log: {self.log}"
            raise RehearsalError(msg)
        return json.loads(said[-1]), time.monotonic() - self.started_at

    def store_logs(self, folder: str) -> None:
        """Store the logs in a folder on S3 as EMR Serverless does."""
        parts = urlsplit(folder)
        for log in (self.log, self.log.with_name("stderr")):
            key = f"{parts.path.strip('/')}/SPARK_DRIVER/{log.name}.gz"
            boto3.client("s3").put_object(Bucket=parts.netloc, Key=key, Body=gzip.compress(log.read_bytes()))


def start(on: Machine, name: str, command: Command) -> Driver:
    """Start a driver; each `name` can be used once."""
    started_at, folder = time.monotonic(), on.folder / f"driver-{name}"
    folder.mkdir()
    for archive, address in command.archives.items():
        unpack_archive(on, address, folder / archive)
    words = [str(on.line.home / "bin/spark-submit"), *command.words]
    logs = [folder / "stdout", folder / "stderr"]
    return Driver(
        name, machine.start_process(words, logs, folder, on.environment() | command.environment), started_at, logs[0]
    )


def unpack_archive(on: Machine, address: str, folder: Path) -> None:
    """Download a tar.gz from S3 and unpack it, as EMR does in the driver's folder."""
    parts, packed = urlsplit(address), folder.with_suffix(".tar.gz")
    boto3.client("s3").download_file(parts.netloc, parts.path.lstrip("/"), str(packed))
    folder.mkdir()
    subprocess.run(["tar", "-xzf", packed, "-C", folder], check=True)
    packed.unlink()


def error_sentence(lines: list[str]) -> str:
    """Return the last line that names a Python error, else the last lines."""
    errors = [line for line in lines if re.match(r"(\w+\.)*\w*(Error|Exception): ", line)]
    return errors[-1] if errors else "\n".join(lines[-LAST_LINES:])
