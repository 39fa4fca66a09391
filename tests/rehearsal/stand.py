"""What stands for AWS: an S3 server with a release and articles in it, a teacher; and what a run on a laptop gives."""

import json
import os
import platform
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raft_spark import config, endpoints
from raft_spark.common import aws
from raft_spark.emr import job_run, upload
from raft_spark.emr.release import MACHINES, Release
from raft_spark.sources import synthetic
from rehearsal import driver, machine
from rehearsal.driver import RehearsalError
from rehearsal.machine import ROOT, Line

HERE = Path(__file__).parent
SETTINGS = str(HERE / "settings.toml")
BUCKET = "rehearsal"
FILE_ROWS, ROW_GROUP_ROWS = 400, 100
GROWTH = 0.03  # share of articles that are new when the source has grown; one is withdrawn
REGION = "us-east-1"
KEYS = {"AWS_ACCESS_KEY_ID": "rehearsal", "AWS_SECRET_ACCESS_KEY": "rehearsal", "AWS_REGION": REGION}


@dataclass(frozen=True)
class Stand:
    """The addresses of S3 and of the teacher, and what is rehearsed."""

    s3: str
    teacher: str
    release: Release

    @property
    def aws(self) -> dict[str, str]:
        """Return the environment variables by which every SDK finds these services, with keys that open them."""
        return {**KEYS, "AWS_ENDPOINT_URL_S3": self.s3, "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": self.teacher}

    def settings(self, line: Line) -> config.Config:
        """Settle what is rehearsed on a line, with a lake of its own."""
        architecture = next(name for name, machine in MACHINES.items() if machine == platform.machine())
        own = [
            f"lake.root=s3://{BUCKET}/lake-{line.spark}",
            f"emr.label={line.label}",
            f"emr.architecture={architecture}",
        ]
        return config.load([SETTINGS], own)

    def calls(self) -> int:
        """Return how often the teacher was asked since it was last told to be so slow."""
        with urllib.request.urlopen(f"{self.teacher}/calls") as answer:
            return int(json.load(answer)["calls"])

    def answers_after(self, milliseconds: int) -> None:
        """Let the teacher take its time, and forget what it was asked."""
        body = json.dumps({"latency_ms": milliseconds}).encode()
        urllib.request.urlopen(urllib.request.Request(f"{self.teacher}/manner", body)).close()
        urllib.request.urlopen(urllib.request.Request(f"{self.teacher}/calls", method="DELETE")).close()


@contextmanager
def standing(release: Release, rows: int) -> Iterator[Stand]:
    """Start S3 and the teacher, each for itself, and bring the release and so many articles there.

    While the block runs, this process finds them as the services of AWS too.
    """
    with s3_server() as s3, endpoints.serving(config.load().endpoints["fake"]) as teacher:
        there = Stand(s3, teacher.url.removesuffix("/v1"), release)
        with environment({**there.aws, "AWS_DEFAULT_REGION": REGION}):
            filled(release, rows)
            yield there


@contextmanager
def s3_server() -> Iterator[str]:
    """Serve S3 on loopback, from a process of its own; yield its address."""
    with tempfile.NamedTemporaryFile(prefix="s3-", suffix=".log") as log:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
        server = machine.begun(command, Path(log.name), ROOT, os.environ)
        try:
            yield machine.said(server, Path(log.name), r"Running on (http://127\.0\.0\.1:\d+)")
        finally:
            machine.end(server)


@contextmanager
def environment(aws: dict[str, str]) -> Iterator[None]:
    """Put these variables of AWS in the place of all others, so that nothing of a real account is found."""
    before = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    try:
        for name in before:
            del os.environ[name]
        os.environ.update(aws)
        yield
    finally:
        for name in aws:
            del os.environ[name]
        os.environ.update(before)


def filled(release: Release, rows: int) -> None:
    """Lay everything into the bucket that a run finds there: the release as it is submitted, articles, the soundcheck."""
    s3 = aws.connect("s3")
    s3.create_bucket(Bucket=BUCKET)
    upload.upload_release(s3, release, job_run.release_uri(config.load([SETTINGS]), release), lambda _: None)
    s3.upload_file(str(HERE / "soundcheck.py"), BUCKET, "soundcheck.py")
    laid(rows)


def laid(rows: int) -> None:
    """Lay out so many articles as the source that is rehearsed."""
    for begin in range(0, rows, FILE_ROWS):
        put(begin // FILE_ROWS, begin, min(rows, begin + FILE_ROWS))


def put(number: int, begin: int, end: int) -> None:
    """Put one file of the source into the bucket."""
    aws.connect("s3").put_object(Bucket=BUCKET, Key=f"articles/{number}.parquet", Body=articles(begin, end))


@contextmanager
def grown(rows: int) -> Iterator[int]:
    """Let the source have a few more articles while the block runs, and the first withdrawn; yield how many are new."""
    new, last = max(1, int(rows * GROWTH)), -(-rows // FILE_ROWS)
    put(0, 1, min(rows, FILE_ROWS))
    put(last, rows, rows + new)
    try:
        yield new
    finally:
        aws.connect("s3").delete_object(Bucket=BUCKET, Key=f"articles/{last}.parquet")
        laid(rows)


def articles(begin: int, end: int) -> bytes:
    """Return built-in articles as a Parquet file in the PubMedQA schema."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_batches([synthetic.articles(begin, end, seed=0)]), sink, row_group_size=ROW_GROUP_ROWS)
    return sink.getvalue().to_pybytes()


def local_runs(folder: Path, rows: int) -> list[dict[str, Any]]:
    """Run the stages in this environment, with the lake on disk, before the source grows and after; return the digests."""
    first = local_run(folder)
    with grown(rows):
        return [first, local_run(folder)]


def local_run(folder: Path) -> dict[str, Any]:
    """Run the stages in this environment, with the lake on disk; return the digests of what came out."""
    command = [sys.executable, str(ROOT / "tests/walk_digest.py"), SETTINGS, f"--set=lake.root={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        msg = f"the local run failed: {driver.sentence((done.stdout + done.stderr).splitlines())}"
        raise RehearsalError(msg)
    return dict(json.loads(done.stdout.splitlines()[-1]))
