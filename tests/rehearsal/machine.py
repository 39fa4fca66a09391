"""Replace EMR by this machine: Spark and Python of one line, a standalone cluster, and processes on loopback."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyspark

from raft_spark.common import java

ROOT = Path(__file__).parents[2]
STARTS_WITHIN = 120.0  # seconds


@dataclass(frozen=True)
class Line:
    """A release label of EMR, the Spark it runs, the Hadoop that this Spark was built with, and the address of its drivers."""

    label: str
    spark: str
    hadoop: str
    address: str

    @property
    def home(self) -> Path:
        """Where this Spark is installed."""
        own = Path(pyspark.__file__).parent
        return own if pyspark.__version__ == self.spark else ROOT / f"build/spark-{self.spark}/pyspark"

    @property
    def jars(self) -> Path:
        """Where its hadoop-aws is."""
        return ROOT / f"build/jars/{self.hadoop}"


LINES = (
    Line("emr-spark-8.1.0", "4.1.1", "3.4.2", "[0:0:0:0:0:0:0:1%lo]"),  # as EMR's workers write their addresses
    Line("emr-7.14.0", "3.5.8", "3.3.4", "127.0.0.1"),
)


@dataclass(frozen=True)
class Machine:
    """The folder for all output, the Spark line, and the environment variables that point boto3 to the services."""

    folder: Path
    line: Line
    aws: Mapping[str, str]

    def environment(self) -> dict[str, str]:
        """Return the whole environment of a process, without the environment of the rehearsal itself."""
        home = java.java_home()
        return {
            "PATH": f"{self.folder}/python/bin:{home}/bin:/usr/bin:/bin",
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "JAVA_HOME": home,
            "SPARK_HOME": str(self.line.home),
            "SPARK_LOCAL_IP": self.line.address,
            "SPARK_LOCAL_DIRS": str(self.folder / "local"),
            **self.aws,
        }

    def additions(self, master: str) -> dict[str, tuple[str, str]]:
        """Return the properties that only this machine needs, each with its value and reason."""
        jars, s3 = f"{self.line.jars}/*", "where S3 is, for Spark"
        return {
            "spark.master": (master, "EMR starts the cluster"),
            "spark.submit.deployMode": (
                "client",
                "a standalone cluster runs no Python driver; archives are unpacked by hand",
            ),
            "spark.driver.host": (self.line.address, "loopback"),
            "spark.driver.bindAddress": (self.line.address, "loopback"),
            "spark.ui.enabled": ("false", "nobody opens it"),
            "spark.dynamicAllocation.shuffleTracking.enabled": (
                "true",
                "dynamic allocation needs it or a shuffle service",
            ),
            "spark.driver.extraClassPath": (jars, "EMR brings hadoop-aws"),
            "spark.executor.extraClassPath": (jars, "EMR brings hadoop-aws"),
            "spark.hadoop.fs.s3.impl": ("org.apache.hadoop.fs.s3a.S3AFileSystem", "EMR's default"),
            "spark.hadoop.fs.s3a.endpoint": (self.aws["AWS_ENDPOINT_URL_S3"], s3),
            "spark.hadoop.fs.s3a.endpoint.region": (self.aws["AWS_REGION"], s3),
            "spark.hadoop.fs.s3a.path.style.access": ("true", s3),
            "spark.hadoop.fs.s3a.connection.ssl.enabled": ("false", s3),
        }


def create(folder: Path, line: Line, aws: Mapping[str, str]) -> Machine:
    """Create the folder, with a Python of this version without packages."""
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "venv", "--without-pip", str(folder / "python")]
    subprocess.run(command, check=True)
    return Machine(folder, line, aws)


class Cluster:
    """A standalone master and one worker. Killing the worker's session kills its executors too, like the loss of a machine."""

    def __init__(self, machine: Machine, cores: int, memory_gb: int) -> None:
        self._machine, self._workers = machine, 0
        self._size = ("--cores", str(cores), "--memory", f"{memory_gb}g")
        self._master = self._start("master.Master", "master.log", "--port", "0")
        self.url = wait_for_output(
            self._master, machine.folder / "master.log", r"Starting Spark master at (spark://\S+)"
        )
        self.worker = self._new_worker()

    def replace_worker(self) -> None:
        """Kill the worker with its executors and all their processes, and start another one."""
        kill_session(self.worker)
        self.worker = self._new_worker()

    def end(self) -> None:
        """Kill all processes."""
        for process in (self.worker, self._master):
            kill_session(process)

    @property
    def folder(self) -> Path:
        """The parent of the executors' folders, app-*/NUMBER."""
        return self._machine.folder / "worker"

    def _new_worker(self) -> subprocess.Popen[bytes]:
        self._workers += 1
        options = ("--port", "0", "--work-dir", str(self.folder))
        return self._start("worker.Worker", f"worker-{self._workers}.log", *options, *self._size, self.url)

    def _start(self, name: str, log: str, *words: str) -> subprocess.Popen[bytes]:
        here = self._machine
        command = [str(here.line.home / "bin/spark-class"), f"org.apache.spark.deploy.{name}"]
        command += ["--host", here.line.address.replace("%lo", ""), "--webui-port", "0", *words]
        return start_process(command, [here.folder / log], here.folder, here.environment())


def start_process(
    command: list[str], logs: Sequence[Path], folder: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start a process in a new session. `logs` are the files of standard output and of standard error, or one of both."""
    with logs[0].open("ab") as output, logs[-1].open("ab") as error:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=error,
            start_new_session=True,
        )


def wait_for_output(process: subprocess.Popen[bytes], log: Path, pattern: str) -> str:
    """Wait until the log of a process matches; return the first group. Kill a process that does not start in time."""
    patience = time.monotonic() + STARTS_WITHIN
    while not (found := re.search(pattern, log.read_text(errors="replace"))):
        if time.monotonic() > patience or process.poll() is not None:
            kill_session(process)
            msg = f"it did not start within {STARTS_WITHIN:g} s; see {log}"
            raise RuntimeError(msg)
        time.sleep(0.1)
    return found[1]


def kill_session(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its whole session, like the loss of a machine."""
    table = subprocess.run(["ps", "-eo", "pid,sid"], capture_output=True, text=True, check=True).stdout
    for pid, sid in (line.split() for line in table.splitlines()[1:]):
        if int(sid) == process.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    process.wait()


def delete_unpacked(folder: Path) -> None:
    """Delete what executors and drivers unpacked, but keep their logs."""
    for pattern in ("worker/app-*/*/*", "driver-*/*"):
        for unpacked in folder.glob(pattern):
            if unpacked.is_dir():
                shutil.rmtree(unpacked, ignore_errors=True)
            elif unpacked.name not in {"stdout", "stderr"}:
                unpacked.unlink()
