"""emr/stack.yaml: it is one, it is closed, and it makes what is wanted. No cloud: see template.py."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import botocore.session
import pytest
from botocore import xform_name

from support.template import (
    BATCH_ROLE,
    BUCKET,
    ENDPOINT,
    FILE,
    HERE,
    JOB_ROLE,
    MODEL,
    SECRET,
    WORKSPACE,
    Need,
    Template,
    is_allowed,
    listed,
    of,
)

COMPONENT = f"arn:aws:sagemaker:{HERE}:inference-component/llama-3-1-8b-1"
PROFILE = f"arn:aws:bedrock:{HERE}:inference-profile/us.amazon.nova-lite-v1:0"
IMPORTED = f"arn:aws:bedrock:{HERE}:imported-model/abcdef123456"
EVERYWHERE = "arn:aws:bedrock:::foundation-model/amazon.nova-2-lite-v1:0"


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


@pytest.mark.row
def test_what_holds_data_is_kept_when_the_stack_goes_and_can_be_taken_back():
    """RetainExceptOnCreate: a creation that is rolled back leaves no empty bucket behind."""
    template = of("bedrock")
    kept = {name: found for name, found in template.resources.items() if "DeletionPolicy" in found}
    assert {name: (found["DeletionPolicy"], found["UpdateReplacePolicy"]) for name, found in kept.items()} == {
        "Bucket": ("RetainExceptOnCreate", "Retain"),
        "Catalog": ("RetainExceptOnCreate", "Retain"),
    }
    assert "BucketName" not in template.properties("Bucket")
    assert of("bedrock", BucketName="raft-spark-bucket-1").properties("Bucket")["BucketName"] == "raft-spark-bucket-1"
    again = of("bedrock", MakeCatalog="no")
    assert "Catalog" not in again.resources
    assert "KeepCatalog" in again.statements("JobRole")
    assert "CatalogDoor" in again.resources
    changes = botocore.session.get_session().get_service_model("cloudformation").operation_model("CreateChangeSet")
    assert "ImportExistingResources" in changes.input_shape.members


@pytest.mark.row
def test_the_zones_of_the_new_network_can_be_chosen():
    chosen = of("bedrock", FirstZone="us-east-1c", SecondZone="us-east-1d")
    assert [chosen.properties(f"{name}Subnet")["AvailabilityZone"] for name in ("First", "Second")] == [
        "us-east-1c",
        "us-east-1d",
    ]
    assert of("bedrock").properties("SecondSubnet")["AvailabilityZone"] == "us-east-1b"
    two = ["FirstZone and SecondZone must be two zones."]
    assert of("bedrock", FirstZone="us-east-1c").refusals() == two
    assert of("bedrock", SecondZone="us-east-1c").refusals() == two
    assert of("bedrock", FirstZone="us-east-1c", SecondZone="us-east-1c").refusals() == two
    assert of("bedrock", FirstZone="use1-az4", SecondZone="us-east-1c").refusals() == ["FirstZone"]
    assert chosen.refusals() == []


@pytest.mark.row
@pytest.mark.parametrize(
    ("parameters", "refused"),
    [
        ({"Teacher": "sagemaker", "SageMakerArns": ENDPOINT}, []),
        ({"Teacher": "sagemaker", "SageMakerArns": f"{ENDPOINT},{COMPONENT}", "BedrockArns": MODEL}, []),
        ({"Teacher": "bedrock", "BedrockArns": f"{MODEL},{PROFILE},{IMPORTED},{EVERYWHERE}"}, []),
        ({"Teacher": "bedrock-batch", "BedrockArns": MODEL}, []),
        ({"Teacher": "other"}, []),
        ({"Teacher": "other", "BedrockArns": MODEL}, []),
        ({"Teacher": "bedrock", "BedrockArns": "foo"}, ["BedrockArns"]),
        ({"Teacher": "bedrock", "BedrockArns": "*"}, ["BedrockArns"]),
        ({"Teacher": "bedrock", "BedrockArns": f"{MODEL},*"}, ["BedrockArns"]),
        ({"Teacher": "bedrock", "BedrockArns": "arn:aws:bedrock:*::foundation-model/*"}, ["BedrockArns"]),
        ({"Teacher": "bedrock", "BedrockArns": ENDPOINT}, ["BedrockArns"]),
        ({"Teacher": "sagemaker", "SageMakerArns": MODEL}, ["SageMakerArns"]),
        ({"Teacher": "sagemaker", "SageMakerArns": f"{ENDPOINT}*"}, ["SageMakerArns"]),
        ({"Teacher": "sagemaker"}, ["SageMakerArns must name the endpoint of the teacher."]),
        ({"Teacher": "sagemaker", "BedrockArns": MODEL}, ["SageMakerArns must name the endpoint of the teacher."]),
        ({"Teacher": "bedrock", "SageMakerArns": ENDPOINT}, ["BedrockArns must name the models of the teacher."]),
        ({"Teacher": "bedrock-batch"}, ["BedrockArns must name the models of the teacher."]),
    ],
)
def test_the_models_must_be_arns_and_fit_the_teacher(parameters: dict[str, str], refused: list[str]):
    assert Template(**parameters).refusals() == refused


@pytest.mark.row
def test_what_was_overwritten_and_what_was_interrupted_does_not_stay():
    rules = {rule["Id"]: rule for rule in of("bedrock").properties("Bucket")["LifecycleConfiguration"]["Rules"]}
    assert rules["deleted-and-overwritten"]["NoncurrentVersionExpiration"] == {"NoncurrentDays": 30}
    assert rules["interrupted-uploads"]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}


ANOTHER = {
    "S3Door": "arn:aws:s3:::another-bucket/lake/x",
    "LogsDoor": "arn:aws:logs:us-east-1:999999999999:log-group:/aws/emr-serverless/raft-spark",
    "SageMakerDoor": f"{ENDPOINT}-other",
    "BedrockDoor": "arn:aws:bedrock:us-east-1::foundation-model/dearer",
    "SecretDoor": "arn:aws:secretsmanager:us-east-1:999999999999:secret:teacher-AbCdEf",
    "PrometheusDoor": "arn:aws:aps:us-east-1:999999999999:workspace/ws-1",
    "CatalogDoor": "arn:aws:glue:us-east-1:999999999999:table/raft_spark/base",
}


@pytest.mark.row
@pytest.mark.parametrize("teacher", ["sagemaker", "bedrock-batch"])
def test_a_door_lets_jobs_do_what_they_may_and_reach_nothing_elsewhere(teacher: str):
    template = of(teacher)
    found = {name: each["Properties"] for name, each in template.resources.items() if name.endswith("Door")}
    roles = [each for each in template.statements("JobRole").values() if listed(each["Action"]) != ["iam:PassRole"]]
    services = {"s3": "S3Door", "logs": "LogsDoor", "sagemaker": "SageMakerDoor", "bedrock": "BedrockDoor", "secretsmanager": "SecretDoor", "aps": "PrometheusDoor", "glue": "CatalogDoor"}  # fmt: skip
    for statement in roles:
        for action in listed(statement["Action"]):
            is_batch = action != "bedrock:InvokeModel" and action.startswith("bedrock:")
            door = "BatchDoor" if is_batch else services[action.partition(":")[0]]
            context = {"aws:PrincipalArn": JOB_ROLE} if is_batch else {}
            [allows, *_] = found[door]["PolicyDocument"]["Statement"]
            for resource in listed(statement["Resource"]):
                assert is_allowed([allows], Need(action, resource, context)), (door, action, resource)
                assert is_batch or not is_allowed([allows], Need(action, ANOTHER[door], context)), (door, action)
    for name in found:
        assert found[name]["PolicyDocument"]["Statement"][0]["Principal"] == "*", name


@pytest.mark.row
def test_in_your_own_network_the_door_to_s3_stays_open_for_others_but_not_for_jobs():
    own = of("bedrock", VpcId="vpc-1", SubnetIds="subnet-1,subnet-2", RouteTableIds="rtb-1")
    allows, denies = own.properties("S3Door")["PolicyDocument"]["Statement"]
    assert (allows["Effect"], allows["Resource"]) == ("Allow", "*")
    assert (denies["Effect"], denies["NotResource"]) == ("Deny", [BUCKET, f"{BUCKET}/*"])
    assert denies["Condition"] == {"ArnEquals": {"aws:PrincipalArn": JOB_ROLE}}


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
        ({"Teacher": "sagemaker", "SageMakerArns": ENDPOINT}, {"s3", "logs", "sagemaker.runtime"}),
        ({"Teacher": "bedrock", "BedrockArns": MODEL}, {"s3", "logs", "bedrock-runtime"}),
        ({"Teacher": "bedrock-batch", "BedrockArns": MODEL}, {"s3", "logs", "bedrock-runtime", "bedrock"}),
        (
            {"Teacher": "sagemaker", "SageMakerArns": ENDPOINT, "BedrockArns": MODEL},
            {"s3", "logs", "sagemaker.runtime", "bedrock-runtime"},
        ),
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
def test_workers_reach_aws_over_either_family_of_addresses():
    rules = of("bedrock").properties("Workers")["SecurityGroupEgress"]
    assert [(rule.get("CidrIp"), rule.get("CidrIpv6"), rule["FromPort"]) for rule in rules] == [
        ("0.0.0.0/0", None, 443),
        (None, "::/0", 443),
    ]


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
