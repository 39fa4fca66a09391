"""The refresh of emr/stack.yaml, run for real by moto's interpreter of state machines: how it ends, and what it says and starts."""

import itertools
import json
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from moto import mock_aws
from moto.stepfunctions.parser.asl.component.common.retry import retrier_decl
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service import state_task_service_factory

from conftest import ROOT
from raft_spark import config
from raft_spark.emr import job_run, step_functions
from raft_spark.emr.release import Release, ReleaseFile
from raft_spark.errors import ConfigError
from support.emr_sync import JobRuns, Sdk
from support.template import Template

DETAILS = (
    "Job failed, please check complete logs in configured logging destination. ExitCode: {}. Last few exceptions: ..."
)
FILES = ("jobs/refresh.py", "environment-x86_64.tar.gz", "environment-aarch64.tar.gz")
RELEASE = Release(Path("unread"), "raft-spark-1-0a", "1", tuple(ReleaseFile(path, 1, "") for path in FILES))


def built(*assignments: str) -> dict[str, Any]:
    """Return the document of a refresh with the settings that the stack gives."""
    settings = tomllib.loads(Template().outputs()["Settings"])
    given = [
        f"{section}.{key}={json.dumps(value)}" for section, keys in settings.items() for key, value in keys.items()
    ]
    teacher = ['endpoints.nova={kind="bedrock", model="amazon.nova-lite-v1:0"}', "completions.endpoint=nova"]
    more = ["articles.source=s3://bucket/articles", 'emr.tags={costCenter="lower"}']
    return job_run.build(config.load(assignments=[*given, *teacher, *more, *assignments]), "refresh", (), RELEASE)


DOCUMENT = built()
numbers = itertools.count()


@dataclass(frozen=True)
class Ended:
    """An execution that has ended: its status, cause, the states it went through, and the message that the topic got."""

    status: str
    cause: str
    path: list[str]
    message: str


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The bucket, an application, the topic with a queue behind it; nothing of other tests is touched."""
    environment = dict(os.environ)
    monkeypatch.setattr(state_task_service_factory, "StateTaskServiceUnsupported", JobRuns)
    monkeypatch.setattr(state_task_service_factory, "StateTaskServiceAwsSdk", Sdk)
    monkeypatch.setattr(JobRuns, "ends", [])
    monkeypatch.setattr(JobRuns, "documents", [])
    waits: list[float] = []
    monkeypatch.setattr(retrier_decl, "time", SimpleNamespace(sleep=waits.append))
    mock = mock_aws(config={"stepfunctions": {"execute_state_machine": True}})
    mock.start(reset=False)
    number = next(numbers)
    client = {name: boto3.client(name, region_name="us-east-1") for name in ("s3", "sns", "sqs", "emr-serverless")}
    made = client["emr-serverless"].create_application(name="raft-spark", type="SPARK", releaseLabel="emr-7.14.0")
    topic = client["sns"].create_topic(Name=f"alarms-{number}")["TopicArn"]
    queue = client["sqs"].create_queue(QueueName=f"heard-{number}")["QueueUrl"]
    client["sns"].subscribe(
        TopicArn=topic, Protocol="sqs", Endpoint=f"arn:aws:sqs:us-east-1:123456789012:heard-{number}"
    )
    client["s3"].create_bucket(Bucket=f"bucket-{number}")
    whole = {**DOCUMENT, "applicationId": made["applicationId"]}
    yield SimpleNamespace(
        client=client,
        number=number,
        topic=topic,
        queue=queue,
        bucket=f"bucket-{number}",
        document=whole,
        waits=waits,
    )
    mock.stop(remove_data=False)
    os.environ.clear()
    os.environ.update(environment)


def put(cloud: SimpleNamespace, text: str) -> None:
    cloud.client["s3"].put_object(Bucket=cloud.bucket, Key="code/refresh.json", Body=text.encode())


def ran(cloud: SimpleNamespace, *ends: tuple[str, str], **parameters: int) -> Ended:
    """Run the state machine to its end, with runs that end like this."""
    JobRuns.ends.extend(ends)
    text = Template(**{"WaitSeconds": 1} | parameters).properties("Refresh")["DefinitionString"]
    text = text.replace('"bucket"', f'"{cloud.bucket}"').replace(
        "arn:aws:sns:us-east-1:123456789012:Alarms", cloud.topic
    )
    machines = boto3.client("stepfunctions", region_name="us-east-1")
    role = "arn:aws:iam::123456789012:role/RefreshRole"
    made = machines.create_state_machine(name=f"refresh-{next(numbers)}", definition=text, roleArn=role)
    arn = machines.start_execution(stateMachineArn=made["stateMachineArn"], input="{}", name="one")["executionArn"]
    execution = _ended(machines, arn)
    events = machines.get_execution_history(executionArn=arn)["events"]
    entered = [event["stateEnteredEventDetails"]["name"] for event in events if "stateEnteredEventDetails" in event]
    heard = cloud.client["sqs"].receive_message(QueueUrl=cloud.queue).get("Messages", [])
    message = json.loads(heard[0]["Body"])["Message"] if heard else ""
    return Ended(execution["status"], execution.get("cause", ""), entered, message)


def _ended(machines: Any, arn: str) -> dict[str, Any]:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        execution = machines.describe_execution(executionArn=arn)
        if execution["status"] != "RUNNING":
            return execution
        time.sleep(0.05)
    raise AssertionError("the execution does not end")


def test_a_run_that_ends_well_is_all_there_is(cloud):
    put(cloud, json.dumps(step_functions.parameters(cloud.document)))
    ended = ran(cloud, ("SUCCESS", ""))
    assert (ended.status, ended.path, ended.message) == ("SUCCEEDED", ["Read", "Refresh"], "")


def test_the_run_is_started_as_its_document_says_but_for_what_emr_does_unsaid(cloud):
    put(cloud, json.dumps(step_functions.parameters(cloud.document)))
    ran(cloud, ("SUCCESS", ""))
    unsaid = {"mode": "BATCH", "retryPolicy": {"maxAttempts": 1}}
    assert [{**sent, **unsaid} for sent in JobRuns.documents] == [cloud.document]


def test_a_run_that_fails_is_tried_again(cloud):
    put(cloud, json.dumps(step_functions.parameters(cloud.document)))
    ended = ran(cloud, ("FAILED", DETAILS.format(137)), ("SUCCESS", ""))
    assert ended.status == "SUCCEEDED"
    assert ended.path == ["Read", "Refresh", "Judge", "Wait", "Count", "Refresh"]
    assert ended.message == ""


def test_after_the_last_attempt_somebody_is_told_why(cloud):
    put(cloud, json.dumps(step_functions.parameters(cloud.document)))
    again = ("FAILED", DETAILS.format(4))
    ended = ran(cloud, again, again, again, Attempts=3)
    assert ended.status == "FAILED"
    assert ended.path == ["Read", *["Refresh", "Judge", "Wait", "Count"] * 2, "Refresh", "Judge", "Tell", "Failed"]
    assert "ExitCode: 4." in ended.message
    assert "ExitCode: 4." in ended.cause


@pytest.mark.parametrize("status", [2, 3, 5, 6])
def test_what_no_other_run_would_mend_or_a_limit_has_ended_is_not_tried_again(cloud, status):
    put(cloud, json.dumps(step_functions.parameters(cloud.document)))
    ended = ran(cloud, ("FAILED", DETAILS.format(status)), Attempts=3)
    assert (ended.status, ended.path) == ("FAILED", ["Read", "Refresh", "Judge", "Tell", "Failed"])
    assert f"ExitCode: {status}." in ended.message


def test_a_run_that_takes_too_long_is_given_up(cloud):
    put(cloud, json.dumps(step_functions.parameters(cloud.document)))
    ended = ran(cloud, ("RUNNING", ""), MaximumSeconds=1)
    assert (ended.status, ended.path) == ("FAILED", ["Read", "Refresh", "Tell", "Failed"])
    assert "States.Timeout" in ended.message


def test_a_run_that_cannot_be_started_is_tried_again_and_told(cloud):
    put(cloud, json.dumps(step_functions.parameters({**cloud.document, "applicationId": "00gone"})))
    ended = ran(cloud)
    assert ended.path == ["Read", "Refresh", "Judge", "Wait", "Count", "Refresh", "Judge", "Tell", "Failed"]
    assert "EMRServerless.ResourceNotFoundException" in ended.message


def test_a_document_that_is_not_there_is_told_after_three_more_looks(cloud):
    ended = ran(cloud)
    assert (ended.status, ended.path) == ("FAILED", ["Read", "Tell", "Failed"])
    assert cloud.waits == [5, 10, 20]
    assert "NoSuchKey" in ended.message


def test_a_document_that_is_none_is_told(cloud):
    put(cloud, "{")
    ended = ran(cloud)
    assert (ended.status, ended.path) == ("FAILED", ["Read", "Tell", "Failed"])


def test_who_cannot_be_told_changes_nothing(cloud):
    cloud.client["sns"].delete_topic(TopicArn=cloud.topic)
    ended = ran(cloud)
    assert (ended.status, ended.path) == ("FAILED", ["Read", "Tell", "Failed"])


# --- the document, in the words of Step Functions


@pytest.mark.row
def test_names_begin_with_a_capital_and_a_persons_own_keys_stay():
    converted = step_functions.parameters(DOCUMENT)
    assert converted["JobDriver"]["SparkSubmit"]["EntryPoint"] == "s3://bucket/code/raft-spark-1-0a/jobs/refresh.py"
    logs = converted["ConfigurationOverrides"]["MonitoringConfiguration"]
    assert logs["S3MonitoringConfiguration"] == {"LogUri": "s3://bucket/logs/"}
    assert converted["Tags"] == DOCUMENT["tags"]
    assert converted["Tags"]["costCenter"] == "lower"


@pytest.mark.row
def test_all_that_the_state_machine_hands_on_is_there():
    definition = json.loads(Template().properties("Refresh")["DefinitionString"])
    handed = {name.removesuffix(".$") for name in definition["States"]["Refresh"]["Parameters"]}
    assert (
        set(step_functions.parameters(built("emr.logs=", "emr.log_group=")))
        == set(step_functions.parameters(DOCUMENT))
        == handed
    )


@pytest.mark.row
@pytest.mark.parametrize(
    ("setting", "said"),
    [("emr.attempts=3", "emr.attempts is 3"), ("emr.flex=true", "emr.flex is true")],
)
def test_what_cannot_be_handed_on_is_refused(setting, said):
    with pytest.raises(ConfigError, match=said):
        step_functions.parameters(built(setting))


def run(text: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "raft_spark.emr.step_functions"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.row
def test_the_command_writes_what_the_state_machine_reads():
    done = run(json.dumps(DOCUMENT))
    assert done.returncode == 0
    assert json.loads(done.stdout) == step_functions.parameters(DOCUMENT)


@pytest.mark.row
@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "3",
        "{}",
        "[" * 100_000,
        '{"jobDriver": 3}',
        json.dumps({**DOCUMENT, "retryPolicy": {"maxAttempts": 2}}),
        json.dumps({**DOCUMENT, "retryPolicy": {"maxAttempts": "two"}}),
        json.dumps({**DOCUMENT, "retryPolicy": None}),
        json.dumps({**DOCUMENT, "flexExecution": True}),
        json.dumps({**DOCUMENT, "retries": 3}),
        json.dumps({**DOCUMENT, "jobDriver": {"sparkSubmit": {"entryPoint": ["a"]}}}),
        json.dumps({"ApplicationId": "00a", "ExecutionRoleArn": "arn"}),  # already converted
    ],
)
def test_the_command_writes_nothing_when_there_is_nothing_to_write(text):
    done = run(text)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ConfigError: ")
    assert len(done.stderr.splitlines()) == 1
