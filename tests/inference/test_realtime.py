"""One task that asks, without Spark and without its driver: it stops when its answers cannot be stored, or another run asks."""

import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pytest

from raft_spark import config, endpoints
from raft_spark.inference import realtime, requests
from raft_spark.inference.answer_store import AnswerFile, stored_keys
from raft_spark.inference.coordinator import CoordinatorAddress
from raft_spark.inference.quota import UNLIMITED, Allocation
from raft_spark.inference.realtime import AskTask
from raft_spark.lake import lease
from raft_spark.lake.filesystem import Storage
from support import fake_server

pytestmark = [pytest.mark.row, pytest.mark.timeout(120)]

ROWS, IN_FLIGHT = 400, 4
RUN = "20261122T173500Z-0a1b2c3d-4e5f"
MOTO = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def url() -> Iterator[str]:
    """A model server that counts the calls of one test."""
    with endpoints.serving(config.load().endpoints["fake"]) as endpoint:
        urllib.request.urlopen(
            urllib.request.Request(endpoint.url.removesuffix("/v1") + "/manner", b'{"latency_ms": 50}')
        ).close()
        yield endpoint.url


@pytest.fixture
def moto() -> Iterator[str]:
    """An S3 server of this test alone, with a bucket named `lake`."""
    with subprocess.Popen([sys.executable, "-c", MOTO], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        address = f"http://127.0.0.1:{int(process.stdout.readline())}"
        boto3.client("s3", endpoint_url=address).create_bucket(Bucket="lake")
        yield address
        process.kill()


def task(storage: Storage, url: str) -> AskTask:
    conf = config.load(assignments=["completions.flush_seconds=0.2", f"completions.in_flight={IN_FLIGHT}"])
    teacher = config.load(assignments=[f"endpoints.fake.url={url}"]).endpoints["fake"]
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = CoordinatorAddress("127.0.0.1", closed.getsockname()[1], b"key")
    return AskTask(
        "completions",
        partial(requests.build_request, conf=conf.completions, model="fake"),
        conf.completions,
        teacher,
        config.Price(),
        Allocation(IN_FLIGHT, UNLIMITED, UNLIMITED, UNLIMITED),
        nobody,
        storage,
        "mine",
        RUN,
        "text",
    )


def ask(asked: AskTask) -> dict[str, Any]:
    """Run the task; return its report."""
    numbers = range(ROWS)
    rows = [{"key": str(each), "pubid": each, "question": f"Is it {each}?", "oracle": "It is."} for each in numbers]
    (batch,) = realtime._ask_partition(iter([pa.RecordBatch.from_pylist(rows)]), asked)
    return dict(*batch.to_pylist())


def hold(storage: Storage, run: str = "mine") -> None:
    storage.write(lease.PATH, json.dumps({"token": run}).encode())


def disturb(url: str, disturbance: Callable[[], object]) -> threading.Thread:
    """Call `disturbance` once the model server has answered a tenth of the rows."""

    def work() -> None:
        end = time.monotonic() + 60
        while fake_server.calls(url)["answered"] < ROWS / 10 and time.monotonic() < end:
            time.sleep(0.02)
        disturbance()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def assert_nothing_is_lost_or_paid_twice(report: dict[str, Any], url: str, storage: Storage) -> None:
    """All answers that were paid for are stored, or came back from the task."""
    calls, stored = fake_server.calls(url)["calls"], len(stored_keys(storage, f"{RUN}-p00000"))
    rest = AnswerFile(report["path"], report["unstored"])
    assert 0 < rest.answered == calls - stored < ROWS
    storage.write(rest.path, rest.data)
    assert len(stored_keys(storage, f"{RUN}-p00000")) == calls < ROWS


def test_a_task_whose_folder_is_removed_sends_nothing_more_and_returns_what_it_has(url: str, tmp_path: Path):
    storage = Storage(str(tmp_path / "lake/completions"))
    hold(storage)
    away = disturb(url, lambda: (tmp_path / "lake").rename(tmp_path / "away"))
    report = ask(task(storage, url))
    away.join()
    assert not (tmp_path / "lake").exists()
    assert json.loads(report["counters"])["store_error"] == (
        f"answers cannot be stored in {storage.root}: the folder was removed, or its disk is no longer mounted"
    )
    (tmp_path / "away").rename(tmp_path / "lake")
    assert_nothing_is_lost_or_paid_twice(report, url, storage)


def test_a_task_whose_credentials_expire_sends_nothing_more_and_returns_what_it_has(url: str, moto: str):
    storage = Storage("s3://lake/expired/completions", moto)
    hold(storage)

    def check_credentials_after(calls: int) -> None:
        plain = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"{moto}/moto-api/reset-auth", str(calls).encode(), plain)
        urllib.request.urlopen(request).close()

    expiry = disturb(url, lambda: check_credentials_after(0))
    report = ask(task(storage, url))
    expiry.join()
    check_credentials_after(1_000_000)
    error = json.loads(report["counters"])["store_error"]
    assert error.startswith("answers cannot be stored in s3://lake/expired/completions: ")
    assert_nothing_is_lost_or_paid_twice(report, url, storage)


def test_a_task_that_cannot_ask_its_driver_stops_when_another_run_has_the_lease(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(realtime, "LOOK_EVERY", 0.1)
    storage = Storage(str(tmp_path / "lake/completions"))
    hold(storage)
    other = disturb(url, lambda: hold(storage, "another"))
    report = ask(task(storage, url))
    other.join()
    assert report["stop_reason"] == "the run has lost its lease"
    stored = len(stored_keys(storage, f"{RUN}-p00000"))
    assert ROWS / 10 <= stored < ROWS
    assert fake_server.calls(url)["calls"] == stored
