"""The lease of a store of answers: one run at a time, on a disk and on S3, whatever happens to its holder."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conftest import ROOT
from raft_spark import config
from raft_spark.errors import InputError, StoppedError
from raft_spark.lake import lease
from raft_spark.lake.filesystem import Storage

pytestmark = [pytest.mark.row, pytest.mark.timeout(60)]

TABLE = "completions"
FOREIGN = {"token": "f", "host": "elsewhere", "pid": 7, "process": "", "since": "2026-11-22T17:35:00+00:00"}


@pytest.fixture(params=["disk", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """Settings of a lake on a disk and on an S3 server, with leases of a second."""
    if request.param == "disk":
        return [f"lake.root={tmp_path / 'lake'}"]
    return [f"lake.root=s3://lake/{tmp_path.name}", f"lake.s3_endpoint={request.getfixturevalue('s3')}"]


def lake(root: list[str], seconds: float = 3, minutes: float = 0) -> config.Lake:
    more = [f"lake.lease_seconds={seconds}", f"lake.lease_wait_minutes={minutes}"]
    return config.load(assignments=[*root, *more]).lake


def storage(root: list[str]) -> Storage:
    return Storage.of(lake(root)).at(TABLE)


def write(root: list[str], seconds: float, **more: object) -> None:
    storage(root).write("lease.json", json.dumps({**FOREIGN, "seconds": seconds, "renewals": 0, **more}).encode())


HOLD = """
import sys, time
from raft_spark import config
from raft_spark.lake import lease
with lease.hold(config.load(assignments=sys.argv[1:]).lake, "completions") as held:
    print("held", flush=True)
    while not held.problem():
        time.sleep(0.02)
    print(held.problem(), flush=True)
"""


@contextmanager
def holder(root: list[str], seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Hold the lease in a process of its own until the block ends, or until it is lost."""
    command = [sys.executable, "-c", HOLD, *root, f"lake.lease_seconds={seconds}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_second_run_is_told_who_asks_and_since_when(root: list[str]):
    with holder(root, 3) as first:
        with (
            pytest.raises(
                StoppedError,
                match=rf"another run, process {first.pid} on {os.uname().nodename}, asks for the answers of .*completions "
                r"since 20\d\d-.*run again when it has ended, or let this run wait: lake.lease_wait_minutes",
            ),
            lease.hold(lake(root), TABLE),
        ):
            pass
        with lease.hold(lake(root), "evaluation") as other:
            assert not other.problem()


def test_a_lease_that_was_given_back_is_free_at_once(root: list[str]):
    begin = time.monotonic()
    for _ in range(2):
        with lease.hold(lake(root, 3600), TABLE) as held:
            assert not held.problem()
    with pytest.raises(KeyError), lease.hold(lake(root, 3600), TABLE):
        raise KeyError
    with lease.hold(lake(root, 3600), TABLE):
        pass
    assert time.monotonic() - begin < 30


def test_a_run_that_waits_takes_the_lease_when_the_other_one_ends(root: list[str]):
    with holder(root, 3) as first:
        terminator = subprocess.Popen(
            [sys.executable, "-c", f"import os, time; time.sleep(2); os.kill({first.pid}, 9)"]
        )
        begin = time.monotonic()
        with lease.hold(lake(root, minutes=1), TABLE) as held:
            assert time.monotonic() - begin > 1
            assert not held.problem()
        terminator.wait()


def test_a_run_waits_no_longer_than_set(root: list[str]):
    with holder(root, 3):
        begin = time.monotonic()
        with pytest.raises(StoppedError), lease.hold(lake(root, minutes=1 / 60), TABLE):
            pass
        assert 1 <= time.monotonic() - begin < 30


def test_a_lease_of_another_machine_is_taken_over_when_it_was_not_renewed_for_its_own_time(root: list[str]):
    write(root, seconds=1)
    begin = time.monotonic()
    with lease.hold(lake(root, 3600), TABLE) as held:
        assert 1 <= time.monotonic() - begin < 30
        assert not held.problem()


def test_a_killed_process_of_this_machine_is_followed_at_once(root: list[str]):
    with holder(root, 3600) as first:
        first.kill()  # and not waited for: a zombie asks nothing
        begin = time.monotonic()
        with lease.hold(lake(root, 3600), TABLE) as held:
            assert time.monotonic() - begin < 30
            assert not held.problem()


def test_a_process_id_that_another_process_has_now_is_no_holder(root: list[str]):
    boot, namespace = lease._machine()
    write(root, seconds=3600, process=f"{boot} {namespace} {os.getpid()} 1")
    with lease.hold(lake(root, 3600), TABLE) as held:
        assert not held.problem()


@pytest.mark.parametrize("where", ["0 pid:[1]", "", "damaged"])
def test_nothing_is_known_about_a_process_of_another_machine(tmp_path: Path, where: str):
    root = [f"lake.root={tmp_path / 'lake'}"]
    write(root, seconds=1, process=f"{where} {2**22 + 1} 1")
    begin = time.monotonic()
    with lease.hold(lake(root, 3600), TABLE):
        assert time.monotonic() - begin >= 1


@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff\xfe", b"{}"])
def test_a_damaged_lease_expires_like_any_other(tmp_path: Path, text: bytes):
    root = [f"lake.root={tmp_path / 'lake'}"]
    storage(root).write("lease.json", text)
    begin = time.monotonic()
    with lease.hold(lake(root, 1), TABLE):
        assert 1 <= time.monotonic() - begin < 30


def test_a_paused_process_loses_its_lease_and_knows_it_as_soon_as_it_goes_on(root: list[str]):
    with holder(root, 1) as first:
        first.send_signal(signal.SIGSTOP)
        with lease.hold(lake(root), TABLE) as held:
            first.send_signal(signal.SIGCONT)
            assert "was not renewed for 0.75 s" in first.stdout.readline()
            assert first.wait(10) == 0
            time.sleep(1)
            assert not held.problem(), "the end of the first run leaves the second one's lease alone"


def test_a_run_whose_lease_another_run_took_stops(root: list[str]):
    with lease.hold(lake(root), TABLE) as held:
        write(root, seconds=60)
        end = time.monotonic() + 5
        while not held.problem() and time.monotonic() < end:
            time.sleep(0.02)
        assert "lost its lease: another run, process 7 on elsewhere, asks" in held.problem()
        with pytest.raises(StoppedError, match="nothing was published, the answers that came are stored"):
            held.require()
    assert json.loads(storage(root).read("lease.json"))["host"] == "elsewhere"


def test_a_run_whose_lake_was_removed_stops(tmp_path: Path):
    with lease.hold(lake([f"lake.root={tmp_path / 'lake'}"]), TABLE) as held:
        assert lease.is_present(Storage(str(tmp_path / "lake/completions")))
        shutil.rmtree(tmp_path / "lake")
        assert not lease.is_present(Storage(str(tmp_path / "lake/completions")))
        end = time.monotonic() + 5
        while not held.problem() and time.monotonic() < end:
            time.sleep(0.02)
        assert "completions/lease.json was removed" in held.problem()
    assert not lease.is_present(Storage(str(tmp_path / "lake/completions")))


def test_a_lease_that_cannot_be_written_is_one_sentence(tmp_path: Path):
    (tmp_path / "lake").write_text("in the way")
    with (
        pytest.raises(InputError, match=r"lake/completions/lease.json cannot be taken: .*; nothing was sent"),
        lease.hold(lake([f"lake.root={tmp_path / 'lake'}"]), TABLE),
    ):
        pass


def test_of_many_runs_that_start_at_once_one_asks(root: list[str]):
    command = [sys.executable, "-c", HOLD, *root, "lake.lease_seconds=10"]
    runs = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(4)
    ]
    try:
        end = time.monotonic() + 40
        while sum(run.poll() is None for run in runs) > 1 and time.monotonic() < end:
            time.sleep(0.1)
        (first,) = [run for run in runs if run.poll() is None]
        assert first.stdout.readline() == "held\n"
        assert all(run is first or "StoppedError" in run.stderr.read() for run in runs)
    finally:
        for run in runs:
            run.kill()
            run.communicate()


def test_a_task_without_its_driver_sees_whether_the_lease_is_still_its_runs(root: list[str]):
    with lease.hold(lake(root, 60), TABLE) as held:
        assert lease.is_held(storage(root), held.token)
        assert not lease.is_held(storage(root), "f")
        write(root, seconds=60)
        assert not lease.is_held(storage(root), held.token)
    storage(root).delete("lease.json")
    assert not lease.is_held(storage(root), "f")
