"""emr/stack.yaml: it is one, it is closed, and it makes what is wanted. No cloud: see template.py."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import botocore.session
import pytest
from botocore import xform_name

from support.template import BATCH_ROLE, BUCKET, ENDPOINT, FILE, HERE, JOB_ROLE, MODEL, SECRET, WORKSPACE, Template, of


@pytest.mark.row
def test_the_template_is_one():
    linter = Path(sys.executable).with_name("cfn-lint")
    done = subprocess.run([linter, FILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.row
def test_it_is_deployed_without_a_bucket_to_put_it_in_first():
    assert len(FILE.read_bytes()) <= 51_200


@pytest.mark.row
def test_the_bucket_is_closed():
    template = of("bedrock")
    bucket = template.properties("Bucket")
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    [only] = template.properties("BucketPolicy")["PolicyDocument"]["Statement"]
    assert (only["Effect"], only["Principal"], only["Action"]) == ("Deny", "*", "s3:*")
    assert only["Resource"] == [BUCKET, f"{BUCKET}/*"]
    assert only["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert "LoggingConfiguration" not in bucket
    kept = of("bedrock", AccessLogBucket="logs").properties("Bucket")["LoggingConfiguration"]
    assert kept == {"DestinationBucketName": "logs", "LogFilePrefix": "raft-spark/"}
    assert template.resources["Bucket"]["DeletionPolicy"] == "Retain"


@pytest.mark.row
def test_what_was_overwritten_and_what_was_interrupted_does_not_stay():
    rules = {rule["Id"]: rule for rule in of("bedrock").properties("Bucket")["LifecycleConfiguration"]["Rules"]}
    assert rules["deleted-and-overwritten"]["NoncurrentVersionExpiration"] == {"NoncurrentDays": 30}
    assert rules["interrupted-uploads"]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}


DOORS = ("s3", "logs", "sagemaker.runtime", "bedrock-runtime", "bedrock", "secretsmanager", "aps-workspaces", "glue")


def doors(template: Template) -> set[str]:
    resources = [
        found["Properties"] for found in template.resources.values() if found["Type"] == "AWS::EC2::VPCEndpoint"
    ]
    return {door["ServiceName"].removeprefix("com.amazonaws.us-east-1.") for door in resources}


@pytest.mark.row
@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"Teacher": "sagemaker", "TeacherArns": ENDPOINT}, {"s3", "logs", "sagemaker.runtime"}),
        ({"Teacher": "bedrock", "TeacherArns": MODEL}, {"s3", "logs", "bedrock-runtime"}),
        ({"Teacher": "bedrock-batch", "TeacherArns": MODEL}, {"s3", "logs", "bedrock-runtime", "bedrock"}),
        ({"Teacher": "other", "SecretArn": SECRET}, {"s3", "logs", "secretsmanager"}),
        ({"Teacher": "other", "PrometheusWorkspaceArn": WORKSPACE}, {"s3", "logs", "aps-workspaces"}),
        ({"Teacher": "other", "CatalogDatabase": "raft_spark"}, {"s3", "logs", "glue"}),
        ({"Teacher": "bedrock-batch", "SecretArn": SECRET, "MakeEndpoints": "no"}, set()),
    ],
)
def test_the_network_reaches_what_a_run_asks_and_no_more(parameters, expected):
    assert doors(Template(**parameters)) == expected


@pytest.mark.row
def test_workers_run_in_the_network_that_is_given_or_made():
    template = of("bedrock")
    assert template.properties("Application")["NetworkConfiguration"]["SubnetIds"] == ["FirstSubnet", "SecondSubnet"]
    blocks = [template.properties(name)["CidrBlock"] for name in ("FirstSubnet", "SecondSubnet")]
    assert blocks == ["10.86.0.0/21", "10.86.8.0/21"]
    given = of("bedrock", VpcId="vpc-1", SubnetIds="subnet-1,subnet-2", RouteTableIds="rtb-1")
    assert given.properties("Application")["NetworkConfiguration"]["SubnetIds"] == ["subnet-1", "subnet-2"]
    assert given.properties("S3Door")["RouteTableIds"] == ["rtb-1"]
    assert {name for name in given.resources if name in {"Vpc", "Routes", "FirstSubnet"}} == set()


@pytest.mark.row
def test_what_is_not_wanted_is_not_made():
    bare = set(Template(Teacher="other").resources)
    assert bare.isdisjoint(
        {"Timer", "TimerRole", "Missed", "MissedAlarm", "DollarsAlarm", "Budget", "BatchRole", "Catalog"}
    )
    whole = set(of("bedrock-batch").resources)
    assert {"Timer", "TimerRole", "Missed", "MissedAlarm", "DollarsAlarm", "Budget", "BatchRole", "Catalog"} <= whole


@pytest.mark.row
def test_a_schedule_starts_the_refresh_and_keeps_what_it_missed():
    template = of("bedrock")
    target = template.properties("Timer")["Target"]
    assert target["Arn"] == f"arn:aws:states:{HERE}:stateMachine:raft-spark-refresh"
    assert target["DeadLetterConfig"] == {"Arn": "Missed.Arn"}
    assert template.properties("Missed")["SqsManagedSseEnabled"] is True


@pytest.mark.row
def test_alarms_reach_the_topic():
    template = of("bedrock")
    alarms = {
        name: found["Properties"] for name, found in template.resources.items() if found["Type"].endswith("::Alarm")
    }
    topic = f"arn:aws:sns:{HERE}:Alarms"
    assert {name: alarm["AlarmActions"] for name, alarm in alarms.items()} == {
        "RefreshAlarm": [topic],
        "MissedAlarm": [topic],
        "FailedShareAlarm": [topic],
        "DollarsAlarm": [topic],
    }
    for name, metric, threshold in (("FailedShareAlarm", "failed_share", 0.05), ("DollarsAlarm", "dollars", 20)):
        alarm = alarms[name]
        assert (alarm["Namespace"], alarm["MetricName"], alarm["Threshold"]) == ("RaftSpark", metric, threshold)
        assert alarm["Dimensions"] == [{"Name": "stage", "Value": "completions"}]
    assert {
        person["Address"]
        for told in template.properties("Budget")["NotificationsWithSubscribers"]
        for person in told["Subscribers"]
    } == {topic}


@pytest.mark.row
def test_every_exception_of_the_scan_has_its_reason():
    skipped = [
        skip
        for found in of("bedrock").resources.values()
        for skip in found.get("Metadata", {}).get("checkov", {}).get("skip", [])
    ]
    assert skipped
    assert all(len(skip["comment"].split()) > 5 for skip in skipped)


@pytest.mark.row
def test_every_parameter_says_what_it_is_and_has_its_place():
    raw = of("bedrock").raw
    groups = raw["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    assert sorted(name for group in groups for name in group["Parameters"]) == sorted(raw["Parameters"])
    assert [name for name, declared in raw["Parameters"].items() if len(declared["Description"].split()) < 4] == []


@pytest.mark.row
def test_the_dashboard_is_one():
    widgets = json.loads(of("bedrock").properties("Dashboard")["DashboardBody"])["widgets"]
    assert [widget["properties"]["title"] for widget in widgets] == [
        "Refreshes",
        "Workers",
        "Share of requests that failed",
        "Dollars an hour",
    ]


@pytest.mark.row
def test_the_command_that_splits_costs_is_one_of_the_service():
    words = of("bedrock").outputs()["CostAllocation"].split()
    assert words[:3] == ["aws", "emr-serverless", "update-application"]
    members = (
        botocore.session.get_session()
        .get_service_model("emr-serverless")
        .operation_model("UpdateApplication")
        .input_shape.members
    )
    options = {"--" + xform_name(name, "-"): shape for name, shape in members.items()}
    assert {word for word in words if word.startswith("--")} <= set(options)
    assert words[-2:] == ["--job-level-cost-allocation-configuration", "enabled=true"]
    assert "enabled" in options[words[-2]].members


@pytest.mark.row
def test_the_settings_that_it_gives_are_read_as_settings():
    told = tomllib.loads(of("bedrock").outputs()["Settings"])
    assert told["lake"] == {"root": "s3://bucket/lake"}
    assert told["emr"] == {
        "application_id": "00fabc123def4567",
        "role_arn": JOB_ROLE,
        "code": "s3://bucket/code",
        "logs": "s3://bucket/logs",
        "log_group": "/aws/emr-serverless/raft-spark",
        "label": "emr-spark-8.1.0",
        "architecture": "x86_64",
    }
    other = of("bedrock", ReleaseLabel="emr-7.14.0", Architecture="ARM64").outputs()["Settings"]
    assert 'label = "emr-7.14.0"\narchitecture = "arm64"' in other
    assert of("bedrock-batch").outputs()["BatchRoleArn"] == BATCH_ROLE
