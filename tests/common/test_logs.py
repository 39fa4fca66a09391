"""What a run says to a machine: one JSON object a line, metrics as CloudWatch takes them, lineage as OpenLineage does."""

import dataclasses
import datetime as dt
import json
import logging
import re
import sys
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from botocore.session import Session
from click.testing import CliRunner

from raft_spark import __version__, config
from raft_spark.cli.main import main
from raft_spark.common import logs
from raft_spark.errors import ConfigError, EndpointError, InputError, StoppedError
from raft_spark.lake import tables
from raft_spark.monitoring import cloudwatch, progress, run_state
from raft_spark.monitoring.run_state import Run
from raft_spark.stages import base, registry, runner

pytestmark = pytest.mark.row

ID = "20261122T202130.123456Z-1a2b3c4d-5e6f"
UNITS = Session().get_service_model("cloudwatch").shape_for("StandardUnit").enum


@pytest.fixture(autouse=True)
def _said_here_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave logging as it was."""
    root, package = logging.getLogger(), logging.getLogger("raft_spark")
    before = package.level
    monkeypatch.setattr(root, "handlers", [each for each in root.handlers if not isinstance(each, logs.LineHandler)])
    monkeypatch.setattr(logs, "_context", {"stage": "", "run_id": ""})
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    yield
    logging.captureWarnings(capture=False)
    package.setLevel(before)


def said(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Return what was said: every line must be a whole JSON object."""
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def run(**more: object) -> Run:
    return Run(ID, "teacher", "m", "2026-11-22T20:21:30+00:00", "2026-11-22T20:22:00+00:00", 100, **more)


def settled(tmp_path, *assignments: str) -> config.Config:
    return config.load(assignments=[f"lake.root={tmp_path / 'lake'}", "log.format=json", *assignments])


# Lines


def test_a_line_is_one_json_object_with_the_stage_and_the_run(capsys):
    logs.configure("json", stage="base", run_id=ID)
    logging.getLogger("raft_spark.monitoring.progress").info(
        "drawing: %d of 8\nafter 30 s", 3, extra=logs.fields(done=3, total=8)
    )
    (line,) = said(capsys)
    assert abs(dt.datetime.fromisoformat(line.pop("time")).timestamp() - time.time()) < 60
    assert line == {
        "level": "info",
        "logger": "raft_spark.monitoring.progress",
        "stage": "base",
        "run_id": ID,
        "message": "drawing: 3 of 8\nafter 30 s",
        "done": 3,
        "total": 8,
    }


def test_a_person_reads_the_sentence_alone(capsys):
    logs.configure("text", stage="base", run_id=ID)
    logging.getLogger("raft_spark.monitoring.progress").info("drawing: 3 of 8", extra=logs.fields(done=3, total=8))
    assert capsys.readouterr().err == "drawing: 3 of 8\n"


def test_the_last_form_holds_and_nothing_is_said_twice(capsys):
    for form in ("text", "json", "json"):
        logs.configure(form)
    logging.getLogger("raft_spark").info("once")
    assert [line["message"] for line in said(capsys)] == ["once"]


def test_what_others_warn_of_is_a_line_too_and_what_they_chat_is_not(capsys):
    logs.configure("json", stage="base")
    logging.getLogger("botocore.credentials").info("found credentials")
    logging.getLogger("urllib3").warning("connection lost")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("this will go", FutureWarning, stacklevel=1)
    lines = said(capsys)
    assert [(line["level"], line["logger"], line["stage"]) for line in lines] == [
        ("warning", "urllib3", "base"),
        ("warning", "py.warnings", "base"),
    ]
    assert "FutureWarning: this will go" in lines[1]["message"]


def test_an_error_that_nobody_caught_is_one_line_with_its_traceback(capsys):
    logs.configure("json", stage="base")
    try:
        [].pop()
    except IndexError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    (line,) = said(capsys)
    assert (line["level"], line["message"]) == ("critical", "IndexError: pop from empty list")
    assert line["traceback"].startswith("Traceback (most recent call last):")
    assert line["traceback"].endswith("IndexError: pop from empty list")


def test_a_standard_error_that_is_gone_ends_no_run(monkeypatch, tmp_path):
    logs.configure("json")
    with (tmp_path / "closed").open("w") as gone:
        pass
    monkeypatch.setattr(sys, "stderr", gone)
    logging.getLogger("raft_spark").warning("to nobody")


# Metrics


def check_embedded(line: dict[str, Any]) -> dict[str, float]:
    """Hold a line against the specification of the embedded metric format; return its metrics."""
    assert set(line["_aws"]) == {"Timestamp", "CloudWatchMetrics"}
    assert isinstance(line["_aws"]["Timestamp"], int)
    assert (
        abs(line["_aws"]["Timestamp"] / 1000 - time.time()) < 3600
    )  # milliseconds; at most 2 hours ahead, 14 days ago
    found = {}
    for directive in line["_aws"]["CloudWatchMetrics"]:
        assert set(directive) == {"Namespace", "Dimensions", "Metrics"}
        assert re.fullmatch(r"[\w./#:-]{1,255}", directive["Namespace"])
        assert 1 <= len(directive["Metrics"]) <= 100
        assert directive["Dimensions"]
        for names in directive["Dimensions"]:
            assert 1 <= len(names) <= 30
            for name in names:  # a target member at the root, text that CloudWatch takes
                assert isinstance(line[name], str)
                assert re.fullmatch(r"[ -~]{1,1024}", line[name])
        for metric in directive["Metrics"]:
            assert {"Name"} <= set(metric) <= {"Name", "Unit", "StorageResolution"}
            assert 1 <= len(metric["Name"]) <= 1024
            assert metric["Unit"] in UNITS
            values = line[metric["Name"]]
            assert 1 <= len(values if isinstance(values, list) else [values]) <= 100
            for value in values if isinstance(values, list) else [values]:
                assert type(value) in {int, float}
                assert abs(value) < 2**360
            found[metric["Name"]] = values
        assert len(found) == len(directive["Metrics"])
    assert len(json.dumps(line)) < 256_000
    return found


def test_a_line_with_metrics_says_what_cloudwatch_asks_for():
    line = cloudwatch.embedded_metrics({"rows": 40, "seconds": 1.5, "failed_share": 0.25}, "base")
    assert check_embedded(line) == {"rows": 40, "seconds": 1.5, "failed_share": 0.25}
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    assert directive == {
        "Namespace": "RaftSpark",
        "Dimensions": [["stage"]],
        "Metrics": [
            {"Name": "rows", "Unit": "Count"},
            {"Name": "seconds", "Unit": "Seconds"},
            {"Name": "failed_share", "Unit": "None"},
        ],
    }
    assert line["stage"] == "base"


def test_what_an_endpoint_did_is_told_by_stage_and_by_both():
    line = cloudwatch.embedded_metrics({"answered": 3}, "completions", "teacher")
    check_embedded(line)
    assert line["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [["stage"], ["stage", "endpoint"]]
    assert (line["stage"], line["endpoint"]) == ("completions", "teacher")


def test_a_run_tells_what_it_has_added_and_the_share_that_failed_so_far():
    before = run(
        answered=40, failed={"timeout": 2}, calls=50, throttled=6, prompt_tokens=900, completion_tokens=90, dollars=0.5
    )
    now = run(
        answered=70,
        failed={"timeout": 2, "filtered": 8},
        calls=90,
        throttled=7,
        prompt_tokens=1600,
        completion_tokens=170,
        dollars=0.8,
        possible_dollars=0.25,
    )
    assert cloudwatch.difference(before, now) == {
        "asked": 38,
        "answered": 30,
        "calls": 40,
        "throttles": 1,
        "prompt_tokens": 700,
        "completion_tokens": 80,
        "failed": 8,
        "failed_filtered": 8,
        "failed_timeout": 0,
        "dollars": 0.3,
        "possible_dollars": 0.25,
        "failed_share": 0.125,
    }


def test_before_a_request_has_ended_no_share_is_told():
    assert "failed_share" not in cloudwatch.difference(run(), run(calls=3))


def within(seconds: float, lines: list[dict[str, Any]], count: int, capsys) -> None:
    end = time.monotonic() + seconds
    while len(lines) < count and time.monotonic() < end:
        time.sleep(0.01)
        lines += said(capsys)


def stopped_while_it_asks(lines: list[dict[str, Any]], capsys) -> None:
    now = run()
    with progress.show_run(lambda: now, "8 tasks"):
        now = run(answered=30, calls=40, throttled=10, dollars=0.25)
        within(20, lines, 4, capsys)
        now = run(answered=45, failed={"filtered": 15}, calls=80, throttled=20, dollars=1.0)
        raise StoppedError("enough")


def test_a_run_that_asks_tells_its_metrics_every_30_seconds_and_at_its_end(capsys, monkeypatch):
    assert progress.LOG_EVERY == 30
    monkeypatch.setattr(progress, "LOG_EVERY", 0.05)
    logs.configure("json", stage="completions", run_id=ID)
    lines: list[dict[str, Any]] = []
    with pytest.raises(StoppedError):
        stopped_while_it_asks(lines, capsys)
    lines += said(capsys)
    assert [line["message"] for line in lines[:1]] == ["8 tasks"]
    assert lines[-1]["message"].startswith("60 of 100 asked · 15 filtered failed")
    assert (lines[-1]["run_id"], lines[-1]["done"], lines[-1]["total"]) == (ID, 60, 100)
    sums: Counter[str] = Counter()
    for line in lines[1:]:
        sums.update(check_embedded(line))
    assert {name: sums[name] for name in ("asked", "answered", "failed", "failed_filtered", "calls", "throttles")} == {
        "asked": 60,
        "answered": 45,
        "failed": 15,
        "failed_filtered": 15,
        "calls": 80,
        "throttles": 20,
    }
    assert sums["dollars"] == pytest.approx(1.0)
    assert lines[-1]["failed_share"] == 0.25


def test_more_answers_than_requests_leave_no_time():
    series = (run_state.Point(0, 0, 0, 0, 0, 0, 0, 0), run_state.Point(10, 110, 0, 110, 0, 0, 0, 0))
    assert progress.status_line(run(answered=110, series=series)).endswith(
        "11.0 requests/s · 0 tokens/s · window 0, 0 open · 0:00:00 left"
    )


# The end of a stage


def version(conf: config.Config, run_id: str = ID, **more: Any) -> tables.Version:
    basis = {"table": "base", "inputs": {"articles": "v7"}, "counts": {"rows": {"train": 30, "test": 4}}} | more
    own = {"id": run_id, "identity": "i", "files": (), "settings": {}, "code": "1", "run_id": run_id}
    return tables.Version(**basis, **own, created_at="2026-11-22T20:21:30+00:00")


def ending(ended: tables.Version | BaseException, run_id: str = ID, table: str = "base") -> registry.Stage:
    """Return a stage that opens a version and ends so."""

    def stage(conf: config.Config) -> tables.Version:
        logs.set_context(run_id=run_id)
        if isinstance(ended, BaseException):
            raise ended
        return ended

    return dataclasses.replace(registry.find(table), run=stage)


def test_a_stage_that_ends_well_tells_its_rows_and_seconds(capsys, tmp_path):
    conf = settled(tmp_path)
    runner.run(ending(version(conf)), conf)
    line = said(capsys)[0]
    assert (line["state"], line["stage"], line["run_id"]) == ("finished", "base", ID)
    assert re.fullmatch(r"base finished after 0\.\d s", line["message"])
    told = check_embedded(line)
    assert 0 <= told.pop("seconds") < 5
    assert told == {"errors": 0, "rows": 34}


@pytest.mark.parametrize(
    ("table", "counts", "rows"),
    [
        ("articles", {"articles": 9, "quarantined": 2, "duplicates": 3, "source": "sample:14:0"}, (9, 5)),
        ("completions", {"answered": 8, "failed": 1}, (8, 0)),
        ("dataset", {"kept": {"train": 6, "test": 1}, "rejected": {"truncated": 2}}, (7, 2)),
    ],
)
def test_every_stage_tells_the_rows_it_wrote_and_rejected(capsys, tmp_path, table: str, counts: Any, rows: Any):
    conf = settled(tmp_path, "articles.source=sample:14")
    runner.run(ending(version(conf, table=table, counts=counts), table=table), conf)
    told = check_embedded(said(capsys)[0])
    assert (told["rows"], told.get("rejected", 0)) == rows


def test_a_stage_with_nothing_to_do_tells_no_rows_and_no_lineage(capsys, tmp_path):
    conf = settled(tmp_path)
    runner.run(ending(version(conf), run_id=""), conf)
    (line,) = said(capsys)
    assert set(check_embedded(line)) == {"seconds", "errors"}


@pytest.mark.parametrize(
    ("error", "state", "errors", "event"),
    [
        (EndpointError("refuses: status 401"), "failed", 1, "FAIL"),
        (KeyError("a bug"), "failed", 1, "FAIL"),
        (StoppedError("max_minutes"), "stopped", 0, "ABORT"),
        (KeyboardInterrupt(), "stopped", 0, "ABORT"),
    ],
)
def test_a_stage_that_ends_badly_tells_so_too(
    capsys, tmp_path, error: BaseException, state: str, errors: int, event: str
):
    with pytest.raises(type(error)):
        runner.run(ending(error), settled(tmp_path))
    ended, start, end = said(capsys)
    assert (ended["state"], check_embedded(ended)["errors"]) == (state, errors)
    assert [line["openlineage"]["eventType"] for line in (start, end)] == ["START", event]


def test_the_final_error_of_a_job_is_a_line_with_its_exit_status(capsys, tmp_path):
    root = f"lake.root={tmp_path / 'lake'}"
    with pytest.raises(SystemExit) as ended:
        runner.run_job(partial(runner.run, registry.BASE), ["--set", root, "--set", "log.format=json"])
    lines = said(capsys)
    assert ended.value.code == 3
    assert check_embedded(lines[0])["errors"] == 1
    assert lines[-1]["message"].startswith("InputError: ")
    assert "holds no table 'articles'" in lines[-1]["message"]
    assert (lines[-1]["level"], lines[-1]["error"], lines[-1]["exit_status"]) == ("error", "InputError", 3)
    assert len(lines) == 2  # it did not begin a version: no lineage


def test_the_command_line_says_its_error_as_a_line_too(tmp_path):
    flags = ["--set", f"lake.root={tmp_path / 'lake'}", "--set", "log.format=json"]
    done = CliRunner().invoke(main, ["base", *flags])
    assert (done.exit_code, done.stdout) == (3, "")
    last = json.loads(done.stderr.splitlines()[-1])
    assert (last["error"], last["exit_status"], last["stage"]) == ("InputError", 3, "base")


def test_to_a_person_a_job_says_its_error_and_nothing_else(capsys, tmp_path):
    with pytest.raises(SystemExit):
        runner.run_job(base.run, ["--set", f"lake.root={tmp_path / 'lake'}"])
    assert re.fullmatch(r"InputError: .* holds no table 'articles'; .*\n", capsys.readouterr().err)
    with pytest.raises(ConfigError):
        config.load(assignments=["log.format=xml"])


# Lineage


def check_event(event: dict[str, Any]) -> None:
    """Hold an event against OpenLineage's own schema, 2-0-2: what is required, and of which kind."""
    assert {"run", "job", "eventTime", "producer", "schemaURL"} <= set(event)
    assert set(event) <= {"run", "job", "eventTime", "producer", "schemaURL", "eventType", "inputs", "outputs"}
    assert event["eventType"] in {"START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"}
    assert dt.datetime.fromisoformat(event["eventTime"]).tzinfo
    assert str(uuid.UUID(event["run"]["runId"])) == event["run"]["runId"]
    assert set(event["job"]) >= {"namespace", "name"}
    datasets = [*event["inputs"], *event["outputs"]]
    for dataset in datasets:
        assert {"namespace", "name"} <= set(dataset) <= {"namespace", "name", "facets", "inputFacets", "outputFacets"}
    held = [event["run"], *datasets]
    for facets in [each.get(kind, {}) for each in held for kind in ("facets", "outputFacets")]:
        assert all({"_producer", "_schemaURL"} <= set(facet) for facet in facets.values())


def lineage(capsys) -> list[dict[str, Any]]:
    events = [line["openlineage"] for line in said(capsys) if "openlineage" in line]
    for event in events:
        check_event(event)
    return events


def named(dataset: dict[str, Any]) -> tuple[str, str, str]:
    return dataset["namespace"], dataset["name"], dataset["facets"]["version"]["datasetVersion"]


def test_lineage_names_the_versions_read_and_written_as_openlineage_does(capsys, tmp_path):
    conf = config.load(assignments=["lake.root=s3://bucket/some/lake", "log.format=json"])
    runner.run(ending(version(conf)), conf)
    start, end = lineage(capsys)
    assert (start["eventType"], start["inputs"], start["outputs"]) == ("START", [], [])
    assert (end["eventType"], start["run"]["runId"]) == ("COMPLETE", end["run"]["runId"])
    assert end["job"] == {"namespace": "raft-spark", "name": "base"}
    assert end["producer"] == f"pkg:generic/raft-spark@{__version__}"
    assert [named(each) for each in end["inputs"]] == [("s3://bucket", "some/lake/articles", "v7")]
    (written,) = end["outputs"]
    assert named(written) == ("s3://bucket", "some/lake/base", ID)
    assert written["outputFacets"]["outputStatistics"]["rowCount"] == 34


@pytest.mark.parametrize(
    ("source", "state", "name"),
    [
        ("sample:14", "sample:14:3", ("raft-spark", "sample:14", "3")),
        ("hf:own/data/conf", "hf:own/data/conf@1f2e", ("https://huggingface.co", "datasets/own/data/conf", "1f2e")),
        ("s3://in/a/*.parquet", "s3://in/a/*.parquet@77", ("s3://in", "a/*.parquet", "77")),
        ("/data/in", "/data/in@77", ("file", "/data/in", "77")),
    ],
)
def test_lineage_of_articles_begins_at_their_source(capsys, tmp_path, source: str, state: str, name: Any):
    conf = settled(tmp_path, f'articles.source="{source}"', 'spark."spark.openlineage.namespace"="medicine"')
    counts = {"articles": 9, "quarantined": 2, "duplicates": 3, "source": state}
    runner.run(ending(version(conf, table="articles", inputs={}, counts=counts), table="articles"), conf)
    end = lineage(capsys)[-1]
    assert end["job"]["namespace"] == "medicine"
    assert [named(each) for each in end["inputs"]] == [name]
    assert named(end["outputs"][0]) == ("file", str(tmp_path / "lake/articles"), ID)


def test_lineage_of_a_run_that_failed_says_why(capsys, tmp_path):
    with pytest.raises(InputError):
        runner.run(ending(InputError("another run published")), settled(tmp_path))
    end = lineage(capsys)[-1]
    told = end["run"]["facets"]["errorMessage"]
    assert (told["message"], told["programmingLanguage"]) == ("InputError: another run published", "PYTHON")
