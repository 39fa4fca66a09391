"""raft-spark emr submit against EMR Serverless and S3 on loopback: once, followed to its end, and told what came of it."""

import gzip
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from click.testing import CliRunner, Result

from conftest import ROOT
from raft_spark.cli.main import main
from raft_spark.common import background
from raft_spark.emr import driver_logs, release, upload
from raft_spark.errors import ConfigError
from raft_spark.stages import registry
from support import loopback_emr
from support.loopback_emr import Service

RUN = "00frun1"
ROLE = "arn:aws:iam::123456789012:role/raft-spark-job"
LOG = f"applications/00f1abcdefgh2345/jobs/{RUN}"


@pytest.fixture
def emr(monkeypatch: pytest.MonkeyPatch, s3: str) -> Iterator[Service]:
    with loopback_emr.serving() as service:
        monkeypatch.setenv("AWS_ENDPOINT_URL_EMR_SERVERLESS", service.url)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3)
        monkeypatch.setattr(background, "FIRST_PAUSE", 0.05)
        monkeypatch.setattr(driver_logs, "PAUSES", (0.0,))
        yield service


@pytest.fixture
def bucket(s3: str) -> Any:
    found = boto3.resource("s3", endpoint_url=s3).Bucket(f"emr-{uuid.uuid4()}")
    found.create()
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A release of files that say nothing."""
    folder = tmp_path / "release"
    kinds = [f"{kind}-{machine}.tar.gz" for kind in ("environment", "hub") for machine in ("x86_64", "aarch64")]
    for path in (*(f"jobs/{job}.py" for job in registry.JOBS), *kinds):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(f"{path} {tmp_path}")
    (folder / "conf").mkdir()
    shutil.copy(ROOT / "conf/default.toml", folder / "conf")
    release.seal(folder, "1.0.0", {})
    return folder


@pytest.fixture
def settings(bucket: Any, folder: Path) -> list[str]:
    """The flags of a refresh that EMR can run."""
    assignments = (
        f"lake.root=s3://{bucket.name}/lake",
        f"articles.source=s3://{bucket.name}/pubmedqa",
        'endpoints.mine={kind="bedrock", model="us.amazon.nova-lite-v1:0"}',
        "completions.endpoint=mine",
        "emr.application_id=00f1abcdefgh2345",
        f"emr.role_arn={ROLE}",
        f"emr.code=s3://{bucket.name}/code",
        f"emr.logs=s3://{bucket.name}/logs",
        "emr.vcpu_hour=0.05",
        "emr.gb_hour=0.01",
    )
    return ["--release", str(folder), *(part for assignment in assignments for part in ("--set", assignment))]


def call(*words: str, settings: list[str]) -> Result:
    given = settings if words[0] == "submit" else settings[2:]
    return CliRunner().invoke(main, ["emr", *words, *given], env={"COLUMNS": "200"})


def test_a_run_is_started_followed_and_priced(emr: Service, settings: list[str], folder: Path):
    emr.states = ("SUBMITTED", "SCHEDULED", "RUNNING", "RUNNING", "SUCCESS")
    done = call("submit", "refresh", settings=settings)
    assert done.exit_code == 0, done.output
    assert "3 executors x 4 cores = 12 tasks" in done.output
    assert f"run {RUN} started" in done.output
    assert re.findall(r"\d\d:\d\d:\d\d (\w+), ", done.output) == ["SCHEDULED", "RUNNING", "SUCCESS"]
    assert (
        "billed 2.00 vCPU-hours, 8.00 GB-hours, 0.50 GB-hours of disk above 20 GB: $0.18 at the prices of [emr], of 2026-06"
        in done.output
    )
    dry = call("submit", "refresh", "--dry-run", settings=settings)
    assert {"applicationId": "00f1abcdefgh2345", **emr.runs[RUN].sent} == json.loads(dry.output)


def test_the_release_is_uploaded_once_whole_and_its_list_last(
    emr: Service, settings: list[str], bucket: Any, folder: Path
):
    first = call("submit", "refresh", settings=settings)
    name = json.loads((folder / "release.json").read_text())["name"]
    there = {thing.key: (thing.last_modified, thing.size) for thing in bucket.objects.all()}
    files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    assert sorted(there) == sorted(f"code/{name}/{path}" for path in files)
    assert re.findall(r"uploading s3://\S+/([^/\s]+), ", first.output)[-1] == "release.json"
    second = call("submit", "refresh", settings=settings)
    assert "uploading" not in second.output
    assert f"release {name}: already uploaded" in second.output
    assert there == {thing.key: (thing.last_modified, thing.size) for thing in bucket.objects.all()}


def test_an_object_that_is_another_one_is_never_replaced(emr: Service, settings: list[str], bucket: Any, folder: Path):
    name = json.loads((folder / "release.json").read_text())["name"]
    other = bucket.put_object(Key=f"code/{name}/jobs/base.py", Body=b"another")
    done = call("submit", "refresh", settings=settings)
    assert done.exit_code == 2
    assert "has 7 bytes, and" in done.output
    assert "objects of a release are never replaced" in done.output
    assert other.get()["Body"].read() == b"another"
    assert emr.runs == {}


def test_an_upload_that_was_cut_off_goes_on_where_it_was(emr: Service, settings: list[str], bucket: Any, folder: Path):
    name = json.loads((folder / "release.json").read_text())["name"]
    bucket.put_object(Key=f"code/{name}/jobs/base.py", Body=(folder / "jobs/base.py").read_bytes())
    done = call("submit", "base", settings=settings)
    assert done.exit_code == 0, done.output
    uploaded = [line for line in done.output.splitlines() if line.startswith("uploading")]
    assert not any("jobs/base.py" in line for line in uploaded)
    assert any("jobs/refresh.py" in line for line in uploaded)


@pytest.mark.parametrize(("of_the_other", "sent"), [(b"print(1)", 0), (b"something else", None)])
def test_of_two_who_upload_at_once_the_second_replaces_nothing(
    bucket: Any, tmp_path: Path, s3: str, of_the_other: bytes, sent: int | None
):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs/base.py").write_bytes(b"print(1)")
    whole = release.seal(tmp_path, "1.0.0", {})
    client = boto3.client("s3", endpoint_url=s3)
    there = bucket.Object("code/jobs/base.py")

    def faster(**_: object) -> None:
        there.put(Body=of_the_other) if not list(bucket.objects.all()) else None

    client.meta.events.register("before-call.s3.PutObject", faster)
    if sent is None:
        with pytest.raises(ConfigError, match=r"has 14 bytes, and .* has 8; objects of a release are never replaced"):
            upload.upload_release(client, whole, f"s3://{bucket.name}/code", print)
    else:
        assert (
            upload.upload_release(client, whole, f"s3://{bucket.name}/code", print)
            == (tmp_path / "release.json").stat().st_size
        )
    assert there.get()["Body"].read() == of_the_other


# Once


def test_a_double_click_is_one_run_also_before_it_is_listed(emr: Service, settings: list[str]):
    emr.states = ("RUNNING",)
    emr.is_listing = False
    for _ in range(2):
        assert call("submit", "refresh", "--no-wait", settings=settings).exit_code == 0
    assert list(emr.runs) == [RUN]


def test_a_retried_step_follows_the_run_that_goes_on(emr: Service, settings: list[str]):
    emr.states = ("RUNNING",)
    call("submit", "refresh", "--no-wait", settings=settings)
    emr.runs[RUN].states = ["RUNNING", "RUNNING", "SUCCESS"]
    done = call("submit", "refresh", settings=settings)
    assert done.exit_code == 0, done.output
    assert f"run {RUN} exists already: no other run was started" in done.output
    assert list(emr.runs) == [RUN]


def test_tomorrows_refresh_with_the_same_settings_is_another_run(emr: Service, settings: list[str]):
    for _ in range(3):
        assert call("submit", "refresh", settings=settings).exit_code == 0
    assert len(emr.runs) == 3


def test_a_run_of_last_year_that_is_listed_no_more_is_not_taken_for_todays(emr: Service, settings: list[str]):
    call("submit", "refresh", settings=settings)
    emr.is_listing = False
    emr.runs[RUN].created_at -= 365 * 86_400
    done = call("submit", "refresh", settings=settings)
    assert "run 00frun2 started" in done.output
    assert list(emr.runs) == [RUN, "00frun2"]


def test_other_settings_are_another_run_at_the_same_time(emr: Service, settings: list[str]):
    emr.states = ("RUNNING",)
    call("submit", "refresh", "--no-wait", settings=settings)
    call("submit", "refresh", "--no-wait", settings=[*settings, "--set", "base.seed=1"])
    assert len(emr.runs) == 2


def test_a_token_of_ones_own_is_one_run_ever_and_tells_its_end_again(emr: Service, settings: list[str]):
    emr.states = ("FAILED",)
    for _ in range(2):
        assert call("submit", "refresh", "--token", "build-77", settings=settings).exit_code == 7
    assert list(emr.runs) == [RUN]
    assert emr.tokens == {"build-77": RUN}


def test_a_token_that_emr_does_not_take_is_refused(emr: Service, settings: list[str]):
    done = call("submit", "refresh", "--token", "build 77", settings=settings)
    assert done.exit_code == 2
    assert "at most 64 letters, digits and ._-" in done.output
    assert emr.asked == []


# Refused before anything is uploaded


def test_missing_settings_are_named_before_anything_is_asked(emr: Service, folder: Path):
    done = call("submit", "refresh", "--release", str(folder), settings=[])
    assert done.exit_code == 2
    assert "emr.application_id, emr.role_arn, emr.code must be set" in done.output
    assert emr.asked == []


def test_a_dry_run_contacts_nothing(emr: Service, settings: list[str], bucket: Any):
    done = call("submit", "refresh", "--dry-run", settings=settings)
    assert done.exit_code == 0
    assert json.loads(done.output)["name"] == "raft-spark-refresh"
    assert emr.asked == []
    assert list(bucket.objects.all()) == []


def test_an_application_of_another_release_is_refused_before_the_upload(emr: Service, settings: list[str], bucket: Any):
    emr.application = {"releaseLabel": "emr-7.14.0", "architecture": "ARM64"}
    done = call("submit", "refresh", settings=settings)
    assert done.exit_code == 2
    assert "runs emr-7.14.0 on arm64, the settings say emr-spark-8.1.0 on x86_64" in done.output
    assert list(bucket.objects.all()) == []


def test_an_application_that_is_not_there_is_one_sentence(emr: Service, settings: list[str]):
    done = call("status", "00fnothere", settings=settings)
    assert done.exit_code == 2
    assert "run 00fnothere cannot be read" in done.output
    assert "ResourceNotFoundException" in done.output


def test_a_dry_run_needs_no_release_and_names_missing_settings_first(
    settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    done = call("submit", "refresh", "--dry-run", settings=[])
    assert done.exit_code == 2
    assert "emr.application_id, emr.role_arn, emr.code must be set" in done.output
    assert "emr package" not in done.output
    whole = call("submit", "refresh", "--dry-run", settings=settings[2:])
    assert whole.exit_code == 0, whole.output
    assert "there is no release in build/release; the arguments name raft-spark-" in whole.stderr
    document = json.loads(whole.stdout)
    assert document["jobDriver"]["sparkSubmit"]["entryPoint"].endswith("-UNBUILT/jobs/refresh.py")
    assert call("submit", "refresh", settings=settings[2:]).exit_code == 3


def test_batch_jobs_that_outlive_the_driver_are_refused_and_a_small_driver_is_advised(
    emr: Service, settings: list[str]
):
    role = 'endpoints.mine.role_arn="arn:aws:iam::123456789012:role/batch"'
    batch = [*settings, "--set", "completions.mode=batch", "--set", role]
    done = call("submit", "completions", "--dry-run", settings=batch)
    assert done.exit_code == 2
    assert (
        "emr.timeout_minutes is 720, but batch jobs may take 24 hours (completions.batch.timeout_hours); "
        "set emr.timeout_minutes to at least 1500"
    ) in done.output
    assert call("submit", "dataset", "--dry-run", settings=batch).exit_code == 0  # it asks nobody
    done = call("submit", "completions", settings=[*batch, "--set", "emr.timeout_minutes=1500"])
    assert done.exit_code == 0, done.output
    assert (
        "batch jobs may take 24 hours, in which the driver waits: $8.64" in done.output
    )  # 24 * (4 * 0.05 + 16 * 0.01)
    assert "for $2.16 in 24 hours and not $8.64: emr.driver_cores = 1, emr.driver_memory_gb = 4" in done.output
    small = ["--set", "emr.driver_cores=1", "--set", "emr.driver_memory_gb=4", "--set", "emr.timeout_minutes=1500"]
    done = call("submit", "completions", settings=[*batch, *small])
    assert "in which the driver waits: $2.16" in done.output
    assert "is enough to wait" not in done.output


def test_disk_above_20_gb_is_billed(emr: Service, settings: list[str]):
    done = call("submit", "base", settings=[*settings, "--set", "emr.disk_gb_hour=0.5"])
    # 2 * 0.05 + 8 * 0.01 + 0.5 * 0.5
    assert (
        "billed 2.00 vCPU-hours, 8.00 GB-hours, 0.50 GB-hours of disk above 20 GB: $0.43 at the prices" in done.output
    )


def test_a_release_that_is_not_there_is_one_sentence(emr: Service, settings: list[str], tmp_path: Path):
    done = call("submit", "refresh", "--release", str(tmp_path / "none"), settings=settings[2:])
    assert done.exit_code == 3
    assert "is no release" in done.output


# Another double of the service


def test_a_second_double_of_the_service_is_asked_the_same_way(
    emr: Service, settings: list[str], s3: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_ENDPOINT_URL_EMR_SERVERLESS", s3)
    client = boto3.client("emr-serverless")
    at = client.create_application(
        releaseLabel="emr-7.13.0",
        type="SPARK",
        name="raft-spark",
        maximumCapacity={"cpu": "12 vCPU", "memory": "100 GB"},
    )["applicationId"]
    client.start_job_run(applicationId=at, executionRoleArn=ROLE)  # it does not list what has no run
    own = (f"emr.application_id={at}", "emr.label=emr-7.13.0", 'emr.tags={team="data"}')
    done = call("submit", "base", settings=[*settings, *(part for text in own for part in ("--set", text))])
    assert done.exit_code == 0, done.output
    assert "note: the application may use 12 vCPUs, and the settings ask for 16" in done.output
    run_id = re.search(r"run (\w+) (started|exists already)", done.output)[1]  # it knows the day of a run, not the time
    run = client.get_job_run(applicationId=at, jobRunId=run_id)["jobRun"]
    assert (run["name"], run["state"], run["tags"]["team"]) == ("raft-spark-base", "SUCCESS", "data")
    assert "environment-x86_64.tar.gz#environment" in run["jobDriver"]["sparkSubmit"]["sparkSubmitParameters"]


# How it ends


def log(bucket: Any, path: str, *lines: str, name: str = "stderr") -> None:
    text = gzip.compress("".join(f"{line}\n" for line in lines).encode())
    bucket.put_object(Key=f"logs/{LOG}/{path}/SPARK_DRIVER/{name}.gz".replace("//", "/"), Body=text)


def test_a_failed_run_prints_its_reason_the_ends_of_both_logs_and_where_to_look(
    emr: Service, settings: list[str], bucket: Any
):
    """spark-submit joins Python's standard error into standard output: the reason is in stdout.gz."""
    emr.states = ("RUNNING", "FAILED")
    log(bucket, "", "InputError: [table] base is missing", *(f"out {number}" for number in range(100)), name="stdout")
    jvm = "org.apache.spark.SparkUserAppException: User application exited with 3"
    log(bucket, "", *(f"jvm {number}" for number in range(100)), jvm)
    done = call("submit", "completions", settings=settings)
    assert done.exit_code == 7
    lines = done.output.splitlines()
    first = lines.index("reason: InputError: [table] base is missing")
    folder = f"s3://{bucket.name}/logs/{LOG}/SPARK_DRIVER"
    assert lines[first + 1 : first + 3] == [f"last lines of {folder}/stdout.gz:", "out 60"]
    assert lines[first + 42 : first + 44] == [f"last lines of {folder}/stderr.gz:", "jvm 61"]
    assert lines[first + 82] == jvm
    assert "out 59\n" not in done.output
    assert "dashboard: https://p-00frun1.emrappui.example/" in done.output
    assert f"RunError run {RUN} FAILED: Job failed, please check the logs" in done.output


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["InputError: it is missing", "py4j.protocol.Py4JNetworkError: Answer from Java side is empty"], "InputError: it is missing"),
        (
            ["Traceback (most recent call last):", '  File "a.py", line 3', "ModuleNotFoundError: No module named 'raft_spark'"],
            "ModuleNotFoundError: No module named 'raft_spark'",
        ),
        (
            ['{"time": "t", "level": "error", "message": "GateError: growth is 9 %", "exit_status": 6}', '{"level": "info", "message": "ValueError: no"}'],
            "GateError: growth is 9 %",
        ),
        (['{"level": "critical", "message": "KeyError: \'a\'", "traceback": "..."}', "{broken"], "KeyError: 'a'"),
        (["java.lang.OutOfMemoryError: Java heap space", "bye"], "java.lang.OutOfMemoryError: Java heap space"),
        (["26/11/28 19:01:36 INFO all is well", '{"level": "warning", "message": "OSError: slow"}', "[1]"], ""),
    ],
)  # fmt: skip
def test_the_reason_of_a_failure_is_found_in_a_log(lines: list[str], reason: str):
    assert driver_logs.read_lines(lines).reason == reason


def test_where_standard_output_gives_no_reason_the_jvm_may(emr: Service, settings: list[str], bucket: Any):
    emr.states = ("FAILED",)
    log(bucket, "attempts/2", "Started", name="stdout")
    log(bucket, "attempts/2", 'Exception in thread "main" java.lang.OutOfMemoryError: Java heap space')
    log(bucket, "attempts/1", "InputError: of the first attempt", name="stdout")
    done = call("submit", "base", settings=settings)
    assert 'reason: Exception in thread "main" java.lang.OutOfMemoryError: Java heap space\n' in done.output
    assert "of the first attempt" not in done.output


def test_of_several_attempts_the_last_ones_log_is_printed(emr: Service, settings: list[str], bucket: Any):
    emr.states = ("FAILED",)
    log(bucket, "attempts/1", "the first")
    log(bucket, "attempts/2", "the second")
    bucket.put_object(Key=f"logs/{LOG}/attempts/2/SPARK_EXECUTOR_1/stderr.gz", Body=b"")
    done = call("submit", "base", settings=settings)
    assert "the second" in done.output
    assert "the first" not in done.output


def test_a_log_that_is_cut_off_or_missing_is_no_failure_of_its_own(emr: Service, settings: list[str], bucket: Any):
    emr.states = ("FAILED",)
    done = call("submit", "base", settings=settings)
    assert done.exit_code == 7
    assert "holds no log of the driver" in done.output
    text = gzip.compress(os.urandom(100).hex().encode() + b"\n")
    bucket.put_object(Key=f"logs/{LOG}/SPARK_DRIVER/stderr.gz", Body=text[:-20])
    done = call("status", RUN, settings=settings)
    assert done.exit_code == 7
    assert "(the log ends here, in the middle of a line)" in done.output


def test_attempts_are_counted(emr: Service, settings: list[str]):
    emr.states = ("RUNNING",)
    flags = [*settings, "--set", "emr.attempts=3"]
    call("submit", "base", "--no-wait", settings=flags)
    emr.runs[RUN].attempt = 2
    assert re.search(r"RUNNING, 0\.0 minutes, attempt 2 of 3", call("status", RUN, settings=flags).output)


def test_a_cancelled_run_ends_as_what_was_stopped(emr: Service, settings: list[str]):
    emr.states = ("RUNNING",)
    call("submit", "base", "--no-wait", settings=settings)
    assert call("cancel", RUN, settings=settings).exit_code == 0
    done = call("status", RUN, "--wait", settings=settings)
    assert done.exit_code == 5
    assert f"StoppedError run {RUN} CANCELLED" in done.output


def test_a_service_that_stumbles_is_asked_again(emr: Service, settings: list[str]):
    emr.states = ("RUNNING",)
    call("submit", "base", "--no-wait", settings=settings)
    emr.runs[RUN].states = ["RUNNING", "SUCCESS"]
    emr.refuses["GET"] = 5  # more than the SDK's own attempts
    assert call("status", RUN, "--wait", settings=settings).exit_code == 0


def test_ctrl_c_without_a_terminal_leaves_the_run_alone_and_says_how_to_follow_it(emr: Service, settings: list[str]):
    emr.states = ("RUNNING",)

    def interrupt() -> None:
        while sum(asked.endswith(f"GET /applications/00f1abcdefgh2345/jobruns/{RUN}") for asked in emr.asked) < 3:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    done = call("submit", "base", settings=settings)
    assert done.exit_code == 130
    assert f"run {RUN} continues; follow it, with the same settings: raft-spark emr status {RUN} --wait" in done.output
    assert "interrupted" not in done.output
    assert emr.runs[RUN].states == ["RUNNING"]


def test_ctrl_c_in_a_terminal_asks_and_a_yes_cancels(emr: Service, settings: list[str]):
    emr.states = ("RUNNING",)
    person, terminal = pty.openpty()
    command = [sys.executable, "-c", "from raft_spark.cli.main import main; main()", "emr", "submit", "base", *settings]
    started = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, cwd=ROOT)
    os.close(terminal)
    until(person, rb"RUNNING, 0")
    started.send_signal(signal.SIGINT)
    until(person, rb"Cancel run 00frun1\? Otherwise it continues \[y/N\]")
    os.write(person, b"y\n")
    until(person, rb"CANCELLED: it is CANCELLED")
    assert started.wait(30) == 5
    os.close(person)


def until(person: int, words: bytes) -> None:
    """Read a terminal until it has said something."""
    said = b""
    while not re.search(words, said):
        said += os.read(person, 4096)
