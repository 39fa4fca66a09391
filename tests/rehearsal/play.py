"""The play: for each line a cluster, a soundcheck, each stage as its own StartJobRun, a lost worker, a refresh, the checks."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from raft_spark import config
from raft_spark.emr import job_run
from raft_spark.emr.release import Release
from rehearsal import checks, derived, driver, machine
from rehearsal import stand as stands
from rehearsal.driver import Driver, RehearsalError
from rehearsal.machine import LINES, Cluster, Line, Machine
from rehearsal.stand import BUCKET, Stand

STAGES = ("articles", "base", "completions", "dataset")
ASKING = ("completions", "refresh")  # a refresh of an empty lake runs all stages
SOUNDCHECK = f"s3://{BUCKET}/soundcheck.py"
SLOW = 300  # milliseconds of an answer: time to lose a worker
LOST_AT = 0.3  # of all calls


@dataclass(frozen=True)
class Scene:
    """One line of Spark: its machine and cluster, and the settings of what is rehearsed there."""

    here: Machine
    cluster: Cluster
    conf: config.Config
    release: Release
    drivers: list[Driver] = field(default_factory=list)

    def document(self, job: str) -> dict[str, Any]:
        """Return what would be sent to EMR Serverless."""
        return job_run.build(self.conf, job, [], self.release)

    def command(self, sent: Mapping[str, Any]) -> derived.Command:
        """Derive the spark-submit that does the same here."""
        added = {key: value for key, (value, _) in self.here.additions(self.cluster.url).items()}
        return derived.command(sent, added)

    def started(self, job: str, name: str = "") -> Driver:
        """Start a job; `name` where it is started more than once."""
        return self.driven(name or job, self.command(self.document(job)))

    def driven(self, name: str, command: derived.Command) -> Driver:
        """Start a driver, which does not outlive the scene."""
        self.drivers.append(driver.started(self.here, name, command))
        return self.drivers[-1]


def rehearse(release: Release, labels: Iterable[str], rows: int, folder: Path, jobs: Sequence[str] = STAGES) -> None:
    """Rehearse a release with so many articles; `jobs` make the dataset, which is refreshed then.

    Raises RehearsalError at the first thing that is wrong.
    """
    folder.mkdir(parents=True)
    with stands.standing(release, rows) as there:
        click.echo(f"{release.name} and {rows} articles are in {there.s3}; the teacher is {there.teacher}")
        begun = time.monotonic()
        first, grown = stands.local_runs(folder / "local", rows)
        told("local runs", time.monotonic() - begun, "by the package in this environment, on a local disk")
        for line in (line for line in LINES if line.label in labels):
            with scene(there, line, folder / line.spark) as played:
                click.echo(f"\n{line.label}: Spark {line.spark} and Python on loopback")
                differences(played)
                soundcheck(played)
                made(played, there, rows, jobs)
                checked(played.conf, first)
                refresh(played, there, rows)
                checked(played.conf, grown)


@contextmanager
def scene(there: Stand, line: Line, folder: Path) -> Iterator[Scene]:
    """Start a cluster that has room for as many executors as the settings ask for; nothing of it is left after the block."""
    conf = there.settings(line)
    here, count = machine.made(folder, line, there.aws), conf.emr.max_executors
    cluster = Cluster(here, count * conf.emr.executor_cores, count * (conf.emr.executor_memory_gb + 1))
    played = Scene(here, cluster, conf, there.release)
    try:
        yield played
    finally:
        for one in played.drivers:
            one.kill()
        cluster.end()
        machine.swept(folder)


def differences(played: Scene) -> None:
    """Say what is not as it would be on EMR Serverless, and why."""
    for what, reason in played.command(played.document(STAGES[0])).left_out.items():
        click.echo(f"  left out  {what}: {reason}")
    for key, value in played.here.aws.items():
        click.echo(
            f"  added     {key}={value}: in the environment of driver and executors, where EMR puts a role's keys"
        )
    for key, (value, reason) in played.here.additions(played.cluster.url).items():
        click.echo(f"  added     {key}={value}: {reason}")


def soundcheck(played: Scene) -> None:
    """Submit a job that tells where packages come from; nothing may come from another place than the archives."""
    sent = played.document(STAGES[0])
    asked = {**sent["jobDriver"]["sparkSubmit"], "entryPoint": SOUNDCHECK, "entryPointArguments": []}
    command = played.command({**sent, "jobDriver": {"sparkSubmit": asked}})
    said, seconds = played.driven("soundcheck", command).result()
    for who, process in [("driver", said["driver"]), *(("executor", one) for one in said["executors"])]:
        if found := checks.strangers(process, command.archives, played.here.line.home):
            msg = f"the {who} has packages from elsewhere than the archive: {', '.join(found)}"
            raise RehearsalError(msg)
    places = len({one["folder"] for one in said["executors"]})
    told("soundcheck", seconds, f"all packages come from the archive, in the driver and in {places} executors")


def made(played: Scene, there: Stand, rows: int, jobs: Sequence[str]) -> None:
    """Make the dataset; the worker is lost while the teacher is asked."""
    there.answers_after(SLOW)
    for job in jobs:
        started = played.started(job)
        if job in ASKING:
            until(lambda: there.calls() >= rows * LOST_AT, started)
            played.cluster.lose_the_worker()
        said, seconds = started.result()
        note = f"; the worker was lost, {there.calls() - rows} calls more" if job in ASKING else ""
        told(job, seconds, f"version {said.get('version') or said['after']['dataset']}{note}")
        machine.swept(played.here.folder)


def refresh(played: Scene, there: Stand, rows: int) -> None:
    """Refresh after the source has grown, which asks for what is new alone; and again, which does nothing."""
    with stands.grown(rows) as new:
        there.answers_after(0)
        said, seconds = played.started("refresh", "refresh-grown").result()
        if (said["outcome"], there.calls()) != ("published", new):
            msg = f"the refresh says {said['outcome']!r} and asked {there.calls()} times for {new} new articles"
            raise RehearsalError(msg)
        told(
            "refresh", seconds, f"version {said['after']['dataset']}; {new} articles are new and asked for, one is gone"
        )
        machine.swept(played.here.folder)
        said, seconds = played.started("refresh", "refresh-again").result()
        if said["outcome"] != "nothing new" or there.calls() != new:
            msg = f"the refresh of what is not new says {said['outcome']!r}"
            raise RehearsalError(msg)
        told("refresh", seconds, "nothing new")
        machine.swept(played.here.folder)


def until(come: Callable[[], bool], run: Driver) -> None:
    """Wait until something has come, while a driver runs; one that fails before says why."""
    while not come():
        if run.process.poll() is not None:
            run.result()
            msg = f"{run.name} ended before it could be disturbed"
            raise RehearsalError(msg)
        time.sleep(0.1)


def checked(conf: config.Config, expected: Mapping[str, Any]) -> None:
    """Check what came out against the manifests and against the local run."""
    if found := checks.faults(conf.lake):
        msg = f"tables are not whole: {'; '.join(found)}"
        raise RehearsalError(msg)
    told("tables", 0, "every file is what its manifest says, and no file is in none")
    if checks.digests(conf) != expected:
        msg = f"the dataset in {conf.lake.root} differs from the local run's"
        raise RehearsalError(msg)
    told("dataset", 0, "byte for byte that of the local run")


def told(what: str, seconds: float, note: str) -> None:
    """Say one line."""
    took = f"{seconds:6.1f} s" if seconds else " " * 8
    click.echo(f"  {what:<12}{took}  {note}")
