"""Each job runs under spark-submit with the installed package."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyspark
import pytest

from conftest import ROOT, Settle
from raft_spark import config, endpoints
from raft_spark.stages import articles, base, registry
from support.fake_server import behave

FEW = ("--conf", "spark.sql.shuffle.partitions=2")
STAGES = ("articles", "base", "completions", "dataset")


def submit(
    stage: str, lake: Path, *assignments: str, flags: Sequence[str] = FEW, address: str = "127.0.0.1"
) -> subprocess.CompletedProcess[str]:
    spark_home = Path(pyspark.__file__).parent
    sets = [f"lake.root={lake}", "articles.source=sample:150", "completions.endpoint=fake", *assignments]
    settings = [part for assignment in sets for part in ("--set", assignment)]
    command = [
        str(spark_home / "bin/spark-submit"),
        "--master",
        "local[2]",
        *flags,
        str(ROOT / f"jobs/{stage}.py"),
        *settings,
    ]
    environment = {
        **os.environ,
        "SPARK_HOME": str(spark_home),
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": address,
    }
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500, check=False)


@dataclass(frozen=True)
class EventLog:
    """Where each application that gets the flags leaves its event log, until it is read."""

    folder: Path

    @property
    def flags(self) -> list[str]:
        self.folder.mkdir(exist_ok=True)
        settings = {"enabled": "true", "dir": str(self.folder), "compress": "false"}
        return [part for key, value in settings.items() for part in ("--conf", f"spark.eventLog.{key}={value}")]

    def read(self) -> tuple[str, set[str]]:
        """Return the application's name and the descriptions of its jobs."""
        logs = [path for path in self.folder.rglob("*local-*") if path.is_file() and not path.name.startswith(".")]
        events = [json.loads(line) for path in logs for line in path.read_text().splitlines()]
        shutil.rmtree(self.folder)
        (begun,) = (event for event in events if event["Event"] == "SparkListenerApplicationStart")
        jobs = [event["Properties"] for event in events if event["Event"] == "SparkListenerJobStart"]
        return begun["App Name"], {each["spark.job.description"] for each in jobs}


@pytest.mark.parametrize("stages", [STAGES[:1], pytest.param(STAGES, marks=pytest.mark.slow)])
def test_every_job_runs_under_spark_submit_and_tells_its_version_name_and_jobs(tmp_path: Path, stages: Sequence[str]):
    lake, log = tmp_path / "lake", EventLog(tmp_path / "events")
    for stage in stages:
        done = submit(stage, lake, "log.format=json", flags=(*FEW, *log.flags))
        assert done.returncode == 0, done.stderr[-2000:]
        *lines, result = map(json.loads, done.stdout.splitlines())  # Spark joins standard error: all lines are JSON
        assert result["table"] == stage
        assert {line["stage"] for line in lines} == {stage}
        (ended,) = (line for line in lines if "state" in line)
        assert (ended["state"], ended["run_id"], ended["rows"]) == ("finished", result["version"], 150)
        assert [line["openlineage"]["eventType"] for line in lines if "openlineage" in line] == ["START", "COMPLETE"]
        name, jobs = log.read()
        assert name == f"raft-spark-{stage}"
        assert stage != "articles" or jobs == {"articles: check records", "articles: write"}
    done = submit("refresh", lake, flags=(*FEW, *log.flags, "--name", "mine"))  # which does what is left to do
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1])["outcome"] == ("nothing new" if stages == STAGES else "published")
    assert stages == STAGES or log.read()[0] == "mine"
    assert {path.stem for path in (ROOT / "jobs").glob("*.py")} == {*registry.JOBS}


@pytest.mark.slow
def test_the_job_of_evaluation_runs_under_spark_submit_too(tmp_path: Path):
    for stage in ("articles", "evaluation"):
        done = submit(stage, tmp_path, "articles.test_share=0.4", "evaluation.students=fake", "evaluation.rows=3")
        assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["table"], result["counts"]["articles"], result["counts"]["answers"]) == ("evaluation", 3, 3 * 8)


NO_NAME = ("--conf", "spark.driver.host=driver.invalid", "--conf", "spark.driver.bindAddress=127.0.0.1")


@pytest.mark.slow
def test_requests_are_sent_by_a_driver_with_an_ipv6_address_and_by_one_that_no_task_reaches(settled: Settle):
    conf = settled("articles.source=sample:60", "articles.validation_share=0", "articles.test_share=0")
    articles.run(conf)
    base.run(conf)
    lake = Path(conf.lake.root)
    for temperature, address, flags, is_reached in (
        (0.1, "[::1]", FEW, True),
        (0.2, "::1%lo", FEW, True),
        (0.3, "127.0.0.1", (*FEW, *NO_NAME), False),
    ):
        done = submit("completions", lake, f"completions.temperature={temperature}", flags=flags, address=address)
        assert done.returncode == 0, done.stdout[-2000:]
        counts = json.loads(done.stdout.splitlines()[-1])["counts"]
        assert [counts[name] for name in ("asked", "answered", "calls", "missing")] == [60, 60, 60, 0]
        assert ("this task keeps a static share of the limits" in done.stdout + done.stderr) != is_reached
    with endpoints.serving(config.load().endpoints["fake"]) as refusing:
        behave(refusing.url, status=401)
        url = f"endpoints.fake.url={refusing.url}"
        done = submit("completions", lake, url, "completions.temperature=0.4", flags=(*FEW, *NO_NAME))
    assert done.returncode == 4, done.stdout[-2000:]
    assert "EndpointError: endpoint 'fake' refuses: status 401" in done.stdout


def test_a_job_with_a_wrong_setting_ends_with_one_sentence_and_its_status(tmp_path: Path):
    done = submit("base", tmp_path, "base.distractor=1")
    assert done.returncode == 2
    assert (
        "ConfigError: base.distractor is not a setting (did you mean distractors?)" in done.stdout + done.stderr
    )  # spark-submit joins the two
    assert "Traceback" not in done.stdout + done.stderr  # spark-submit joins the two


def test_a_job_is_at_most_25_lines():
    assert all(len(path.read_text().splitlines()) <= 25 for path in (ROOT / "jobs").glob("*.py"))
