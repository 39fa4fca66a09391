"""Rehearse a release on each Spark line: check imports, run each stage, lose a worker, refresh, and check all tables."""

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
from rehearsal import checks, driver, machine, services, spark_submit
from rehearsal.driver import Driver, RehearsalError
from rehearsal.machine import LINES, Cluster, Line, Machine
from rehearsal.services import BUCKET, Services

STAGES = ("articles", "base", "completions", "dataset")
JOBS_WITH_REQUESTS = ("completions", "refresh")  # a refresh of an empty lake runs all stages
IMPORT_REPORT = f"s3://{BUCKET}/import_report.py"
SLOW = 300  # milliseconds an answer takes, so that there is time to kill a worker
WORKER_LOST_AT = 0.3  # share of all calls


@dataclass(frozen=True)
class ClusterRun:
    """A Spark line with its machine, its cluster, and the settings and release to rehearse."""

    here: Machine
    cluster: Cluster
    conf: config.Config
    release: Release
    drivers: list[Driver] = field(default_factory=list)

    def document(self, job: str) -> dict[str, Any]:
        """Return the arguments of StartJobRun that would be sent to EMR Serverless."""
        return job_run.build(self.conf, job, [], self.release)

    def command(self, sent: Mapping[str, Any]) -> spark_submit.Command:
        """Derive the spark-submit command that does the same on this machine."""
        added = {key: value for key, (value, _) in self.here.additions(self.cluster.url).items()}
        return spark_submit.command(sent, added)

    def start_job(self, job: str, name: str = "") -> Driver:
        """Start a job; give a `name` if it is started more than once."""
        return self.start_driver(name or job, self.command(self.document(job)))

    def start_driver(self, name: str, command: spark_submit.Command) -> Driver:
        """Start a driver, which is killed when the cluster ends."""
        self.drivers.append(driver.start(self.here, name, command))
        return self.drivers[-1]


def rehearse(release: Release, labels: Iterable[str], rows: int, folder: Path, jobs: Sequence[str] = STAGES) -> None:
    """Rehearse a release with `rows` articles: run `jobs`, which build the dataset, then a refresh.

    Raises RehearsalError at the first problem.
    """
    folder.mkdir(parents=True)
    with services.start_services(release, rows) as aws_services:
        click.echo(
            f"{release.name} and {rows} articles are in {aws_services.s3}; the teacher is {aws_services.teacher}"
        )
        started_at = time.monotonic()
        first, grown = services.local_runs(folder / "local", rows)
        print_result(
            "local runs", time.monotonic() - started_at, "with the package of this environment, on a local disk"
        )
        for line in (line for line in LINES if line.label in labels):
            with start_cluster(aws_services, line, folder / line.spark) as run:
                click.echo(f"\n{line.label}: Spark {line.spark} and Python on loopback")
                print_differences(run)
                check_imports(run)
                build_dataset(run, aws_services, rows, jobs)
                check_tables(run.conf, first)
                refresh(run, aws_services, rows)
                check_tables(run.conf, grown)


@contextmanager
def start_cluster(aws_services: Services, line: Line, folder: Path) -> Iterator[ClusterRun]:
    """Start a cluster for emr.max_executors executors, and stop all its processes after the block."""
    conf = aws_services.settings(line)
    here, count = machine.create(folder, line, aws_services.aws), conf.emr.max_executors
    cluster = Cluster(here, count * conf.emr.executor_cores, count * (conf.emr.executor_memory_gb + 1))
    run = ClusterRun(here, cluster, conf, aws_services.release)
    try:
        yield run
    finally:
        for each in run.drivers:
            each.kill()
        cluster.end()
        machine.delete_unpacked(folder)


def print_differences(run: ClusterRun) -> None:
    """Print what differs from EMR Serverless, with the reason."""
    for what, reason in run.command(run.document(STAGES[0])).omitted.items():
        click.echo(f"  left out  {what}: {reason}")
    for key, value in run.here.aws.items():
        click.echo(
            f"  added     {key}={value}: in the environment of driver and executors, where EMR puts a role's keys"
        )
    for key, (value, reason) in run.here.additions(run.cluster.url).items():
        click.echo(f"  added     {key}={value}: {reason}")


def check_imports(run: ClusterRun) -> None:
    """Submit a job that reports where its packages come from; all must come from the archives."""
    sent = run.document(STAGES[0])
    job_driver = {**sent["jobDriver"]["sparkSubmit"], "entryPoint": IMPORT_REPORT, "entryPointArguments": []}
    command = run.command({**sent, "jobDriver": {"sparkSubmit": job_driver}})
    output, seconds = run.start_driver("imports", command).result()
    for role, report in [("driver", output["driver"]), *(("executor", each) for each in output["executors"])]:
        if modules := checks.foreign_modules(report, command.archives, run.here.line.home):
            msg = f"the {role} has packages that do not come from the archive: {', '.join(modules)}"
            raise RehearsalError(msg)
    executors = len({each["folder"] for each in output["executors"]})
    print_result("imports", seconds, f"all packages come from the archive, in the driver and in {executors} executors")


def build_dataset(run: ClusterRun, aws_services: Services, rows: int, jobs: Sequence[str]) -> None:
    """Build the dataset, and kill the worker while requests are sent to the teacher."""
    aws_services.set_latency(SLOW)
    for job in jobs:
        started = run.start_job(job)
        if job in JOBS_WITH_REQUESTS:
            wait_until(lambda: aws_services.calls() >= rows * WORKER_LOST_AT, started)
            run.cluster.replace_worker()
        output, seconds = started.result()
        note = f"; the worker was lost, {aws_services.calls() - rows} calls more" if job in JOBS_WITH_REQUESTS else ""
        print_result(job, seconds, f"version {output.get('version') or output['after']['dataset']}{note}")
        machine.delete_unpacked(run.here.folder)


def refresh(run: ClusterRun, aws_services: Services, rows: int) -> None:
    """Refresh with a larger source, which may only ask about new articles; then refresh again, which must do nothing."""
    with services.new_articles(rows) as new:
        aws_services.set_latency(0)
        output, seconds = run.start_job("refresh", "refresh-grown").result()
        if (output["outcome"], aws_services.calls()) != ("published", new):
            msg = f"the outcome of the refresh is {output['outcome']!r}, with {aws_services.calls()} calls for {new} new articles"
            raise RehearsalError(msg)
        print_result(
            "refresh",
            seconds,
            f"version {output['after']['dataset']}; {new} new articles with one call each, one article withdrawn",
        )
        machine.delete_unpacked(run.here.folder)
        output, seconds = run.start_job("refresh", "refresh-again").result()
        if output["outcome"] != "nothing new" or aws_services.calls() != new:
            msg = f"the outcome of a refresh without changes is {output['outcome']!r}"
            raise RehearsalError(msg)
        print_result("refresh", seconds, "nothing new")
        machine.delete_unpacked(run.here.folder)


def wait_until(is_reached: Callable[[], bool], run: Driver) -> None:
    """Wait for a condition while a driver runs. Raises RehearsalError when the driver ends before."""
    while not is_reached():
        if run.process.poll() is not None:
            run.result()
            msg = f"{run.name} ended before the worker could be killed"
            raise RehearsalError(msg)
        time.sleep(0.1)


def check_tables(conf: config.Config, expected: Mapping[str, Any]) -> None:
    """Compare the tables with their manifests and with the local run."""
    if found := checks.file_problems(conf.lake):
        msg = f"tables are incomplete: {'; '.join(found)}"
        raise RehearsalError(msg)
    print_result("tables", 0, "every file matches its manifest, and every file is in a manifest")
    if checks.digests(conf) != expected:
        msg = f"the dataset in {conf.lake.root} differs from the local run's"
        raise RehearsalError(msg)
    print_result("dataset", 0, "byte for byte the same as in the local run")


def print_result(what: str, seconds: float, note: str) -> None:
    """Print one line."""
    took = f"{seconds:6.1f} s" if seconds else " " * 8
    click.echo(f"  {what:<12}{took}  {note}")
