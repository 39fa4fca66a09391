"""The dress rehearsal with a complete release, a broken archive, a lost worker and a killed driver."""

import platform
import random
import re
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import boto3
import pytest

from raft_spark.emr import driver_logs
from raft_spark.emr.release import MACHINES, Release
from rehearsal import checks, machine, scenario, services
from rehearsal.driver import Driver, RehearsalError
from rehearsal.machine import LINES, Line
from rehearsal.scenario import STAGES, ClusterRun
from rehearsal.services import BUCKET, Services

pytestmark = pytest.mark.spark
ROWS = 200


@pytest.fixture
def release_(made: tuple[Release, str]) -> Release:
    return made[0]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("line", "jobs"),
    [
        (LINES[0], ["refresh"]),  # all stages in one job
        (LINES[0], STAGES),
        (LINES[1], STAGES),
    ],
    ids=["one job", *(line.label for line in LINES)],
)
def test_what_would_be_sent_to_emr_runs_with_nothing_but_the_release_and_survives_a_lost_worker(
    release_: Release, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: Line, jobs: Sequence[str]
):
    scenario.rehearse(release_, [line.label], ROWS, tmp_path / "rehearsal", jobs)
    said = capsys.readouterr().out
    assert "all packages come from the archive, in the driver and in " in said
    assert "the worker was lost" in said
    assert "byte for byte the same as in the local run" in said


@pytest.fixture
def aws_services(release_: Release) -> Iterator[Services]:
    with services.start_services(release_, ROWS) as running:
        yield running


def without(archive: Path, package: str, to: Path) -> Path:
    """Pack an archive again, without one package."""
    with tarfile.open(archive) as whole, tarfile.open(to, "w:gz", compresslevel=1) as broken:
        for member in whole:
            if not member.name.removeprefix("./").startswith(package):
                broken.addfile(member, whole.extractfile(member))
    return to


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("package", "complaint"),
    [
        ("pydantic_core", "ConfigError: the package pydantic-core is not installed; package the job again"),
        ("raft_spark", "ModuleNotFoundError: No module named 'raft_spark'"),
    ],
)
def test_an_archive_that_lacks_a_package_ends_the_job_with_its_name(
    aws_services: Services, tmp_path: Path, package: str, complaint: str
):
    with scenario.start_cluster(aws_services, LINES[0], tmp_path / "run") as run:
        command = run.command(run.document("articles"))
        archive = aws_services.release.folder / command.archives["environment"].rpartition("/")[2]
        boto3.client("s3").upload_file(str(without(archive, package, tmp_path / "broken")), BUCKET, "broken.tar.gz")
        broken = {"environment": f"s3://{BUCKET}/broken.tar.gz"}
        with pytest.raises(RehearsalError, match=f"articles failed .*{complaint}"):
            run.start_driver("articles", replace(command, archives=broken)).result()


@pytest.mark.timeout(300)
def test_an_archive_for_the_other_machine_ends_the_job_with_both_names(aws_services: Services, tmp_path: Path):
    own = platform.machine()
    other = next(machine for machine in MACHINES.values() if machine != own)
    with scenario.start_cluster(aws_services, LINES[0], tmp_path / "run") as run:
        command = run.command(run.document("articles"))
        archives = {name: address.replace(own, other) for name, address in command.archives.items()}
        started = run.start_driver("articles", replace(command, archives=archives))
        with pytest.raises(
            RehearsalError, match=rf"articles failed .*is built for \S*{other}, but this is Python .* on {own}"
        ):
            started.result()
    started.store_logs(f"s3://{BUCKET}/logs/applications/00a/jobs/00r")
    conf = run.conf.model_copy(update={"emr": run.conf.emr.model_copy(update={"logs": f"s3://{BUCKET}/logs"})})
    reason, *rest = driver_logs.tail(conf, {"applicationId": "00a", "jobRunId": "00r", "state": "FAILED"})
    assert re.fullmatch(rf"reason: ConfigError: .*is built for \S*{other}, but this is Python .* on {own}.*", reason)
    assert [line for line in rest if "last lines of" in line] == [
        f"last lines of s3://{BUCKET}/logs/applications/00a/jobs/00r/SPARK_DRIVER/{name}.gz:"
        for name in ("stdout", "stderr")
    ]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("line", LINES, ids=lambda line: line.spark)
def test_a_lost_worker_and_a_killed_driver_in_every_stage_and_a_refresh_end_in_the_same_dataset(
    aws_services: Services, tmp_path: Path, line: Line
):
    chance = random.Random(line.spark)
    first, grown = services.local_runs(tmp_path / "local", ROWS)
    aws_services.set_latency(scenario.SLOW)
    with scenario.start_cluster(aws_services, line, tmp_path / "run") as run:
        for stage in STAGES:
            disturb_and_repeat(run, stage, chance)
        assert checks.file_problems(run.conf.lake) == []
        assert checks.digests(run.conf) == first
        with services.new_articles(ROWS):
            disturb_and_repeat(run, "refresh", chance)
        assert checks.file_problems(run.conf.lake) == []
        assert checks.digests(run.conf) == grown


def disturb_and_repeat(run: ClusterRun, job: str, chance: random.Random) -> None:
    """Kill the worker while executors run, and the driver while those of another worker do; then let the job run in peace."""
    run = run.start_job(job)
    for kill in (run.cluster.replace_worker, run.kill):
        before = executors(run)
        wait(lambda before=before: executors(run) - before, run)
        time.sleep(chance.uniform(0, 4))
        kill()
    run.start_job(job, f"{job}-again").result()
    machine.delete_unpacked(run.here.folder)


def executors(run: ClusterRun) -> set[Path]:
    """The folders of executors that have unpacked the archive."""
    return set(run.cluster.folder.glob("app-*/*/environment/raft_spark"))


def wait(come: Callable[[], object], run: Driver) -> None:
    """Wait until something has come, or the run has ended all by itself."""
    while run.process.poll() is None and not come():
        time.sleep(0.1)
