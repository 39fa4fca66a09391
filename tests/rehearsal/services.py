"""Start the substitutes for AWS: an S3 server with a release and articles, and a teacher. Run the stages locally."""

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
GROWTH = 0.03  # share of new articles in the larger source; one article is withdrawn
REGION = "us-east-1"
KEYS = {"AWS_ACCESS_KEY_ID": "rehearsal", "AWS_SECRET_ACCESS_KEY": "rehearsal", "AWS_REGION": REGION}


@dataclass(frozen=True)
class Services:
    """The addresses of S3 and of the teacher, and the release to rehearse."""

    s3: str
    teacher: str
    release: Release

    @property
    def aws(self) -> dict[str, str]:
        """Return the environment variables that point every SDK to these services."""
        return {**KEYS, "AWS_ENDPOINT_URL_S3": self.s3, "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": self.teacher}

    def settings(self, line: Line) -> config.Config:
        """Load the settings of a Spark line, which has its own lake."""
        architecture = next(name for name, machine in MACHINES.items() if machine == platform.machine())
        assignments = [
            f"lake.root=s3://{BUCKET}/lake-{line.spark}",
            f"emr.label={line.label}",
            f"emr.architecture={architecture}",
        ]
        return config.load([SETTINGS], assignments)

    def calls(self) -> int:
        """Return the number of calls to the teacher since the last `set_latency`."""
        with urllib.request.urlopen(f"{self.teacher}/calls") as answer:
            return int(json.load(answer)["calls"])

    def set_latency(self, milliseconds: int) -> None:
        """Set how long an answer takes, and reset the number of calls."""
        body = json.dumps({"latency_ms": milliseconds}).encode()
        urllib.request.urlopen(urllib.request.Request(f"{self.teacher}/manner", body)).close()
        urllib.request.urlopen(urllib.request.Request(f"{self.teacher}/calls", method="DELETE")).close()


@contextmanager
def start_services(release: Release, rows: int) -> Iterator[Services]:
    """Start S3 and the teacher as processes, and upload the release and the articles.

    While the block runs, this process uses them as the services of AWS as well.
    """
    with s3_server() as s3, endpoints.serving(config.load().endpoints["fake"]) as teacher:
        services = Services(s3, teacher.url.removesuffix("/v1"), release)
        with environment({**services.aws, "AWS_DEFAULT_REGION": REGION}):
            fill_bucket(release, rows)
            yield services


@contextmanager
def s3_server() -> Iterator[str]:
    """Serve S3 on loopback from another process; yield its address."""
    with tempfile.NamedTemporaryFile(prefix="s3-", suffix=".log") as log:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
        server = machine.start_process(command, [Path(log.name)], ROOT, os.environ)
        try:
            yield machine.wait_for_output(server, Path(log.name), r"Running on (http://127\.0\.0\.1:\d+)")
        finally:
            machine.kill_session(server)


@contextmanager
def environment(aws: dict[str, str]) -> Iterator[None]:
    """Replace all environment variables of AWS, so that no real account can be used."""
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


def fill_bucket(release: Release, rows: int) -> None:
    """Create the bucket with everything that a run reads: the release, the articles, the import report."""
    s3 = aws.connect("s3")
    s3.create_bucket(Bucket=BUCKET)
    upload.upload_release(s3, release, job_run.release_uri(config.load([SETTINGS]), release), lambda _: None)
    s3.upload_file(str(HERE / "import_report.py"), BUCKET, "import_report.py")
    upload_articles(rows)


def upload_articles(rows: int) -> None:
    """Upload `rows` articles as the source."""
    for begin in range(0, rows, FILE_ROWS):
        upload_file(begin // FILE_ROWS, begin, min(rows, begin + FILE_ROWS))


def upload_file(number: int, begin: int, end: int) -> None:
    """Upload one file of the source."""
    aws.connect("s3").put_object(Bucket=BUCKET, Key=f"articles/{number}.parquet", Body=articles(begin, end))


@contextmanager
def new_articles(rows: int) -> Iterator[int]:
    """Add new articles to the source and withdraw the first one while the block runs; yield the number of new ones."""
    new, last = max(1, int(rows * GROWTH)), -(-rows // FILE_ROWS)
    upload_file(0, 1, min(rows, FILE_ROWS))
    upload_file(last, rows, rows + new)
    try:
        yield new
    finally:
        aws.connect("s3").delete_object(Bucket=BUCKET, Key=f"articles/{last}.parquet")
        upload_articles(rows)


def articles(begin: int, end: int) -> bytes:
    """Return built-in articles as a Parquet file in the PubMedQA schema."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_batches([synthetic.articles(begin, end, seed=0)]), sink, row_group_size=ROW_GROUP_ROWS)
    return sink.getvalue().to_pybytes()


def local_runs(folder: Path, rows: int) -> list[dict[str, Any]]:
    """Run the stages in this environment, with the lake on disk, with the first and with the larger source; return the digests."""
    first = local_run(folder)
    with new_articles(rows):
        return [first, local_run(folder)]


def local_run(folder: Path) -> dict[str, Any]:
    """Run the stages in this environment, with the lake on disk; return the digests of the tables."""
    command = [sys.executable, str(ROOT / "tests/integration/walk_digest.py"), SETTINGS, f"--set=lake.root={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        msg = f"the local run failed: {driver.error_sentence((done.stdout + done.stderr).splitlines())}"
        raise RehearsalError(msg)
    return dict(json.loads(done.stdout.splitlines()[-1]))
