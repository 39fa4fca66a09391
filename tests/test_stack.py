"""emr/stack.yaml: it is one, it is closed, and its roles may do what the code does and nothing else. No cloud: see template.py."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, unquote

import boto3
import botocore.session
import pyarrow.fs
import pytest
from botocore import xform_name
from werkzeug.serving import WSGIRequestHandler

from conftest import ROOT
from raft_spark.files import Place
from template import APPLICATION, FILE, HERE, Need, Template, is_allowed, listed, without

BUCKET = "arn:aws:s3:::bucket"
ENDPOINT = f"arn:aws:sagemaker:{HERE}:endpoint/llama-3-1-8b"
MODEL = "arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-lite-v1:0"
SECRET = f"arn:aws:secretsmanager:{HERE}:secret:teacher-AbCdEf"
WORKSPACE = f"arn:aws:aps:{HERE}:workspace/ws-1"
JOB = f"arn:aws:bedrock:{HERE}:model-invocation-job/abcdef123456"
GROUP = f"arn:aws:logs:{HERE}:log-group:/aws/emr-serverless/raft-spark"
RUN = f"{APPLICATION}/jobruns/00fxyz987"
BATCH_ROLE, JOB_ROLE = (f"arn:aws:iam::123456789012:role/{name}" for name in ("BatchRole", "JobRole"))
TEACHERS = {"sagemaker": ENDPOINT, "bedrock": MODEL, "bedrock-batch": MODEL, "other": ""}


def of(teacher: str, **parameters: object) -> Template:
    """Return the template with all that can be had beside a teacher."""
    more = {"SecretArn": SECRET, "PrometheusWorkspaceArn": WORKSPACE, "Schedule": "rate(7 days)", "AlarmEmail": "a@b.c"}
    money = {"MaximumDollars": 20, "MonthlyBudget": 500}
    return Template(**{"Teacher": teacher, "TeacherArns": TEACHERS[teacher]} | more | money | parameters)


def get(path: str) -> Need:
    return Need("s3:GetObject", f"{BUCKET}/{path}")


def put(path: str) -> Need:
    return Need("s3:PutObject", f"{BUCKET}/{path}")


def listing(prefix: str) -> Need:
    return Need("s3:ListBucket", BUCKET, {"s3:prefix": prefix})


MISSING = Need("s3:ListBucket", BUCKET)  # what S3 asks for before it says that there is no such object
POINTER, PART, ANSWERS = (
    "lake/base/current.json",
    "lake/base/versions/1/data/part-0.parquet",
    "lake/completions/data/x.parquet",
)
ABORTED = Need("s3:AbortMultipartUpload", f"{BUCKET}/{PART}")
DELETED = Need("s3:DeleteObject", f"{BUCKET}/{ANSWERS}")

# What each call of the code asks of IAM: pyarrow's of a lake (files, parts, batch) and a source (source, hub) ...
FILES = {
    "open_input_stream": [get(POINTER), get("articles/2026.jsonl"), MISSING],
    "open_input_file": [get(PART), get("articles/2026.parquet")],
    "open_output_stream": [put(PART), ABORTED],
    "copy_files": [put(PART), ABORTED],
    "get_file_info": [get(PART), MISSING, listing("lake/completions/data/"), listing("articles/")],
    "delete_file": [DELETED, put("lake/completions/data/")],  # an empty object stands for the folder
    "delete_dir": [listing("lake/articles/versions/1/"), DELETED, put("lake/articles/versions/")],
    "delete_dir_contents": [listing("lake/articles/hub/"), DELETED],
    "create_dir": [],  # never of a bucket, see hub
}
# ... boto3's, of an operation's name in Python ...
LAKE = {"put_object": [put(POINTER)], "get_object": [get(POINTER), MISSING]}
SAGEMAKER = {"invoke_endpoint": [Need("sagemaker:InvokeEndpoint", ENDPOINT)]}
BEDROCK = {name: [Need("bedrock:InvokeModel", MODEL)] for name in ("converse", "invoke_model")}
BATCHES = {
    "list_model_invocation_jobs": [Need("bedrock:ListModelInvocationJobs", "*")],
    "get_model_invocation_job": [Need("bedrock:GetModelInvocationJob", JOB)],
    "create_model_invocation_job": [
        Need("bedrock:CreateModelInvocationJob", MODEL),
        Need("bedrock:CreateModelInvocationJob", JOB),
        Need("bedrock:TagResource", JOB),
        Need("iam:PassRole", BATCH_ROLE, {"iam:PassedToService": "bedrock.amazonaws.com"}),
    ],
}
KEY = {"get_secret_value": [Need("secretsmanager:GetSecretValue", SECRET)]}
# ... and what EMR Serverless and Spark do in the job's name.
EMR = {
    "EMR fetches a release": [get("code/raft-spark-1-0a/jobs/refresh.py"), listing("code/raft-spark-1-0a/")],
    "Spark reads a table": [get(PART), listing("lake/base/versions/1/data/")],
    "EMR writes logs to S3": [put("logs/applications/00fabc123def4567/jobs/00fxyz987/SPARK_DRIVER/stdout.gz")],
    "EMR writes to CloudWatch": [
        Need("logs:DescribeLogGroups", f"arn:aws:logs:{HERE}:log-group:"),
        Need("logs:CreateLogGroup", GROUP),
        Need("logs:CreateLogStream", GROUP),
        Need("logs:DescribeLogStreams", GROUP),
        Need("logs:PutLogEvents", f"{GROUP}:log-stream:driver"),
    ],
    "EMR writes metrics": [Need("aps:RemoteWrite", WORKSPACE)],
}
ASKING = {"sagemaker": SAGEMAKER, "bedrock": BEDROCK, "bedrock-batch": BEDROCK | BATCHES, "other": {}}
ALWAYS = FILES | LAKE | KEY | EMR

# What a role cannot do without a statement.
READS = {"open_input_stream", "open_input_file", "get_file_info", "get_object"}
WRITES = {"open_output_stream", "copy_files", "put_object"}
DELETES = {"delete_file", "delete_dir", "delete_dir_contents"}
LISTS = {"open_input_stream", "get_file_info", "get_object", "delete_dir", "delete_dir_contents"}
NEEDED = {
    "ReadCode": {"EMR fetches a release"},
    "ReadArticles": {"open_input_stream", "open_input_file"},
    "KeepTables": READS | WRITES | DELETES | {"Spark reads a table"},
    "ListFolders": LISTS | {"EMR fetches a release", "Spark reads a table"},
    "WriteLogs": {"EMR writes logs to S3"},
    "WriteLogGroup": {"EMR writes to CloudWatch"},
    "FindLogGroup": {"EMR writes to CloudWatch"},
    "ReadKey": {"get_secret_value"},
    "WritePrometheus": {"EMR writes metrics"},
}
NEEDED_TO_ASK = {
    "sagemaker": {"AskSageMaker": {"invoke_endpoint"}},
    "bedrock": {"AskBedrock": {"converse", "invoke_model"}},
    "bedrock-batch": {
        "AskBedrock": {"converse", "invoke_model"},
        "BatchOfModel": {"create_model_invocation_job"},
        "KeepBatches": {"create_model_invocation_job", "get_model_invocation_job"},
        "FindBatches": {"list_model_invocation_jobs"},
        "HandOverBatchRole": {"create_model_invocation_job"},
    },
    "other": {},
}

# What the other roles do, and whoever submits (raft_spark/emr).
PASSED = {"iam:PassedToService": "emr-serverless.amazonaws.com"}
STARTED = [
    Need("emr-serverless:StartJobRun", APPLICATION),
    Need("emr-serverless:TagResource", RUN),
    Need("iam:PassRole", JOB_ROLE, PASSED),
]
RELEASE = "code/raft-spark-1-0a/release.json"
SUBMITTED = {
    "start_job_run": STARTED,
    "get_application": [Need("emr-serverless:GetApplication", APPLICATION)],
    "list_job_runs": [Need("emr-serverless:ListJobRuns", APPLICATION)],
    "get_job_run": [Need("emr-serverless:GetJobRun", RUN)],
    "cancel_job_run": [Need("emr-serverless:CancelJobRun", RUN)],
    "get_dashboard_for_job_run": [Need("emr-serverless:GetDashboardForJobRun", RUN)],
    "head_object": [get(RELEASE), MISSING],
    "put_object": [put(RELEASE)],
    "get_object": [get("logs/applications/00fabc123def4567/jobs/00fxyz987/SPARK_DRIVER/stderr.gz")],
    "list_objects_v2": [listing("logs/applications/00fabc123def4567/jobs/00fxyz987/SPARK_DRIVER/")],
    "progress, show, path": [get("lake/completions/runs/1.json"), listing("lake/completions/runs/")],
    "start a refresh": [Need("states:StartExecution", f"arn:aws:states:{HERE}:stateMachine:raft-spark-refresh")],
}
RULE = f"arn:aws:events:{HERE}:rule/StepFunctionsGetEventsForEMRServerlessJobRule"
DELIVERIES = ("CreateLogDelivery", "GetLogDelivery", "UpdateLogDelivery", "DeleteLogDelivery", "ListLogDeliveries")
POLICIES = ("PutResourcePolicy", "DescribeResourcePolicies", "DescribeLogGroups")
REFRESHED = {
    "read the document": [get("code/refresh.json")],
    "start the job": [
        *STARTED,
        Need("events:PutRule", RULE),
        Need("events:PutTargets", RULE),
        Need("events:DescribeRule", RULE),
    ],
    "follow the job": [Need("emr-serverless:GetJobRun", RUN), Need("emr-serverless:CancelJobRun", RUN)],
    "tell": [Need("sns:Publish", f"arn:aws:sns:{HERE}:Alarms")],
    "log": [Need(f"logs:{name}", "*") for name in (*DELIVERIES, *POLICIES)],
}
STATEMENTS = [
    *((teacher, "JobRole", ALWAYS | ASKING[teacher], NEEDED | NEEDED_TO_ASK[teacher]) for teacher in TEACHERS),
    (
        "bedrock",
        "SubmitterPolicy",
        SUBMITTED,
        {
            "StartJobs": {"start_job_run", "get_application", "list_job_runs"},
            "FollowJobs": {"start_job_run", "get_job_run", "cancel_job_run", "get_dashboard_for_job_run"},
            "HandOverJobRole": {"start_job_run"},
            "PutReleases": {"head_object", "put_object"},
            "ReadResults": {"get_object", "progress, show, path"},
            "ListFolders": {"head_object", "list_objects_v2", "progress, show, path"},
            "StartRefresh": {"start a refresh"},
        },
    ),
    (
        "bedrock",
        "RefreshRole",
        REFRESHED,
        {
            "ReadDocument": {"read the document"},
            "StartJob": {"start the job"},
            "FollowJob": {"start the job", "follow the job"},
            "HandOverJobRole": {"start the job"},
            "HearOfJob": {"start the job"},
            "Tell": {"tell"},
            "LogDelivery": {"log"},
        },
    ),
    (
        "bedrock-batch",
        "BatchRole",
        {
            "read requests": [
                get("lake/completions/batches/1/input/a.jsonl"),
                listing("lake/completions/batches/1/input/"),
            ],
            "write answers": [put("lake/completions/batches/1/output/job/a.jsonl.out")],
            "answer": [Need("bedrock:InvokeModel", MODEL)],
        },
        {
            "ReadRequests": {"read requests"},
            "ListRequests": {"read requests"},
            "WriteAnswers": {"write answers"},
            "AskModels": {"answer"},
        },
    ),
    (
        "bedrock",
        "TimerRole",
        {
            "start a refresh": SUBMITTED["start a refresh"],
            "keep what was missed": [Need("sqs:SendMessage", "Missed.Arn")],
        },
        {"StartRefresh": {"start a refresh"}, "KeepMissed": {"keep what was missed"}},
    ),
]
roles = pytest.mark.parametrize(("teacher", "role", "calls", "needed"), STATEMENTS)


def denied(statements: list, calls: dict) -> set[str]:
    return {name for name, needs in calls.items() if not all(is_allowed(statements, need) for need in needs)}


@pytest.mark.row
@roles
def test_a_role_may_do_all_that_it_has_to(teacher, role, calls, needed):
    assert denied(list(of(teacher).statements(role).values()), calls) == set()


@pytest.mark.row
@roles
def test_without_a_statement_these_calls_fail(teacher, role, calls, needed):
    statements = of(teacher).statements(role)
    assert {sid: denied(without(statements, sid), calls) for sid in statements} == needed


@pytest.mark.row
@roles
def test_no_statement_allows_an_action_that_no_call_needs(teacher, role, calls, needed):
    statements = of(teacher).statements(role)
    actions = [(sid, action) for sid, statement in statements.items() for action in listed(statement["Action"])]
    assert [pair for pair in actions if not denied(without(statements, *pair), calls)] == []


@pytest.mark.row
@pytest.mark.parametrize("teacher", TEACHERS)
def test_a_job_may_not_do_what_no_job_does(teacher):
    statements = list(of(teacher).statements("JobRole").values())
    for need in (
        put("code/raft-spark-1-0a/jobs/refresh.py"),
        put("articles/2026.jsonl"),
        get("logs/anything"),
        get("elsewhere/x"),
        Need("s3:GetObject", "arn:aws:s3:::another/lake/x"),
        listing("logs/"),
        listing(""),
        Need("s3:DeleteObject", f"{BUCKET}/code/refresh.json"),
        Need("s3:DeleteObjectVersion", f"{BUCKET}/{PART}"),
        Need("sagemaker:InvokeEndpoint", f"{ENDPOINT}-other"),
        Need("bedrock:InvokeModel", "arn:aws:bedrock:us-east-1::foundation-model/dearer"),
        Need("secretsmanager:GetSecretValue", f"arn:aws:secretsmanager:{HERE}:secret:other-AbCdEf"),
        Need("iam:PassRole", JOB_ROLE, {"iam:PassedToService": "bedrock.amazonaws.com"}),
        Need("iam:PassRole", BATCH_ROLE, {"iam:PassedToService": "ec2.amazonaws.com"}),
        Need("emr-serverless:StartJobRun", APPLICATION),
    ):
        assert not is_allowed(statements, need), need


@pytest.mark.row
def test_only_that_teacher_may_be_asked_that_was_chosen():
    asking = {"AskSageMaker", "AskBedrock", "BatchOfModel", "KeepBatches", "FindBatches", "HandOverBatchRole"}
    found = {teacher: asking & set(of(teacher).statements("JobRole")) for teacher in TEACHERS}
    assert found == {teacher: set(needed) for teacher, needed in NEEDED_TO_ASK.items()}


@pytest.mark.row
def test_everything_is_allowed_by_name_unless_a_comment_says_why_not():
    lines = FILE.read_text().splitlines()
    wild = [number for number, line in enumerate(lines) if re.search(r"Resource: (\"\*\"|.*log-group:\*)", line)]
    begins = [max(begin for begin in range(number) if "- Sid:" in lines[begin]) for number in wild]
    assert [lines[begin].split()[-1] for begin in begins] == ["FindLogGroup", "FindBatches", "LogDelivery"]
    assert all(lines[begin - 1].strip().startswith("#") for begin in begins)
    for teacher, role, *_ in STATEMENTS:
        statements = of(teacher).statements(role)
        stars = {sid for sid, statement in statements.items() if "*" in listed(statement["Resource"])}
        assert stars <= {"FindBatches", "LogDelivery"}
        assert [
            action for statement in statements.values() for action in listed(statement["Action"]) if "*" in action
        ] == []


@pytest.mark.row
def test_roles_are_taken_by_one_service_for_this_account_only():
    resources = of("bedrock-batch").resources
    trusted = {}
    for name, found in resources.items():
        if found["Type"] == "AWS::IAM::Role":
            [statement] = found["Properties"]["AssumeRolePolicyDocument"]["Statement"]
            conditions = statement["Condition"]
            assert conditions["StringEquals"] == {"aws:SourceAccount": "123456789012"}
            source = conditions["ArnLike"]["aws:SourceArn"]
            trusted[name] = (statement["Principal"]["Service"].removesuffix(".amazonaws.com"), source)
    assert trusted == {
        "JobRole": ("emr-serverless", [APPLICATION, f"{APPLICATION}/*"]),
        "BatchRole": ("bedrock", f"arn:aws:bedrock:{HERE}:model-invocation-job/*"),
        "RefreshRole": ("states", f"arn:aws:states:{HERE}:stateMachine:raft-spark-refresh"),
        "TimerRole": ("scheduler", f"arn:aws:scheduler:{HERE}:schedule-group/default"),
    }


# --- the code makes no other calls


def modules(*, of_job: bool) -> Iterator[ast.Module]:
    """Parse the modules that run in a job, or those of whoever submits; the fake model server is neither."""
    for path in sorted((ROOT / "raft_spark").rglob("*.py")):
        if (path.parent.name == "emr") != of_job and not path.stem.startswith("fake"):
            yield ast.parse(path.read_text())


def words(tree: ast.Module) -> set[str]:
    """Return all names of attributes and all texts: an operation is called by one or named by the other."""
    nodes = list(ast.walk(tree))
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return attributes | {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def services(tree: ast.Module) -> Iterator[str]:
    """Yield the services whose clients are opened."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in {"client", "resource", "Door", "connect"}:
                yield node.args[0].value


def operations(*, of_job: bool) -> set[str]:
    trees = list(modules(of_job=of_job))
    model = botocore.session.get_session().get_service_model
    opened = {service for tree in trees for service in services(tree)}
    known = {xform_name(name) for service in opened for name in model(service).operation_names}
    return known & {word for tree in trees for word in words(tree)}


@pytest.mark.row
def test_the_table_has_every_service_and_call_of_a_job():
    assert {service for tree in modules(of_job=True) for service in services(tree)} == {
        "s3",
        "sagemaker-runtime",
        "bedrock-runtime",
        "bedrock",
        "secretsmanager",
    }
    assert operations(of_job=True) == set(LAKE | SAGEMAKER | BEDROCK | BATCHES | KEY)


@pytest.mark.row
def test_the_table_has_every_call_on_files():
    known = {name for name in (*dir(pyarrow.fs.FileSystem), *dir(pyarrow.fs)) if re.fullmatch("[a-z]+(_[a-z]+)+", name)}
    called = known & {word for tree in modules(of_job=True) for word in words(tree)}
    assert called - {"type_name"} == set(FILES)


@pytest.mark.row
def test_the_table_has_every_call_of_whoever_submits():
    assert operations(of_job=False) <= set(SUBMITTED)


# --- the stack itself


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


DOORS = ("s3", "logs", "sagemaker.runtime", "bedrock-runtime", "bedrock", "secretsmanager", "aps-workspaces")


def doors(template: Template) -> set[str]:
    made = [found["Properties"] for found in template.resources.values() if found["Type"] == "AWS::EC2::VPCEndpoint"]
    return {door["ServiceName"].removeprefix("com.amazonaws.us-east-1.") for door in made}


@pytest.mark.row
@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"Teacher": "sagemaker", "TeacherArns": ENDPOINT}, {"s3", "logs", "sagemaker.runtime"}),
        ({"Teacher": "bedrock", "TeacherArns": MODEL}, {"s3", "logs", "bedrock-runtime"}),
        ({"Teacher": "bedrock-batch", "TeacherArns": MODEL}, {"s3", "logs", "bedrock-runtime", "bedrock"}),
        ({"Teacher": "other", "SecretArn": SECRET}, {"s3", "logs", "secretsmanager"}),
        ({"Teacher": "other", "PrometheusWorkspaceArn": WORKSPACE}, {"s3", "logs", "aps-workspaces"}),
        ({"Teacher": "bedrock-batch", "SecretArn": SECRET, "MakeEndpoints": "no"}, set()),
    ],
)
def test_the_network_reaches_what_a_run_asks_and_no_more(parameters, expected):
    assert doors(Template(**parameters)) == expected


@pytest.mark.row
def test_workers_run_in_the_network_that_is_given_or_made():
    made = of("bedrock")
    assert made.properties("Application")["NetworkConfiguration"]["SubnetIds"] == ["FirstSubnet", "SecondSubnet"]
    blocks = [made.properties(name)["CidrBlock"] for name in ("FirstSubnet", "SecondSubnet")]
    assert blocks == ["10.86.0.0/21", "10.86.8.0/21"]
    given = of("bedrock", VpcId="vpc-1", SubnetIds="subnet-1,subnet-2", RouteTableIds="rtb-1")
    assert given.properties("Application")["NetworkConfiguration"]["SubnetIds"] == ["subnet-1", "subnet-2"]
    assert given.properties("S3Door")["RouteTableIds"] == ["rtb-1"]
    assert {name for name in given.resources if name in {"Vpc", "Routes", "FirstSubnet"}} == set()


@pytest.mark.row
def test_what_is_not_wanted_is_not_made():
    bare = set(Template(Teacher="other").resources)
    assert bare.isdisjoint({"Timer", "TimerRole", "Missed", "MissedAlarm", "DollarsAlarm", "Budget", "BatchRole"})
    whole = set(of("bedrock-batch").resources)
    assert {"Timer", "TimerRole", "Missed", "MissedAlarm", "DollarsAlarm", "Budget", "BatchRole"} <= whole


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


# --- what is asked of S3, seen on the wire


def needed(method: str, target: str) -> Need:
    """Return what a request asks of IAM (S3's user guide, "Required permissions for Amazon S3 API operations")."""
    path, _, query = target.partition("?")
    asked = dict(parse_qsl(query, keep_blank_values=True))
    bucket, _, key = unquote(path).lstrip("/").partition("/")
    if not key and method in {"GET", "HEAD"}:
        return Need(
            "s3:ListBucket", f"arn:aws:s3:::{bucket}", {"s3:prefix": asked["prefix"]} if "prefix" in asked else {}
        )
    if "delete" in asked:
        return Need("s3:DeleteObject", f"arn:aws:s3:::{bucket}/lake/any")
    actions = {
        "GET": "GetObject",
        "HEAD": "GetObject",
        "PUT": "PutObject",
        "POST": "PutObject",
        "DELETE": "DeleteObject",
    }
    aborts = method == "DELETE" and "uploadId" in asked
    return Need("s3:AbortMultipartUpload" if aborts else f"s3:{actions[method]}", f"arn:aws:s3:::{bucket}/{key}")


def test_what_a_lake_asks_of_s3_is_allowed(s3, monkeypatch):
    seen: list[Need] = []
    record = lambda handler, *_: seen.append(needed(handler.command, handler.path))  # noqa: E731 - a line
    boto3.client("s3", endpoint_url=s3).create_bucket(Bucket="bucket")
    monkeypatch.setattr(WSGIRequestHandler, "log_request", record)
    lake = Place("s3://bucket/lake", s3).at("base")
    assert lake.read("current.json") is None
    assert lake.swap("current.json", b"1", None)
    assert lake.swap("current.json", b"2", b"1")
    assert lake.read("current.json") == b"2"
    lake.write("versions/1/data/part-0.parquet", b"x" * 20_000_000)
    lake.write("versions/2/data/part-0.parquet", b"y")
    assert lake.at("versions").is_folder
    assert len(lake.at("versions").list(deep=False)) == 0
    lake.delete("versions/1/data/part-0.parquet")
    lake.delete("versions/2")
    assert [found.path for found in lake.list()] == ["current.json"]
    statements = list(of("bedrock").statements("JobRole").values())
    assert {need.action.removeprefix("s3:") for need in seen} >= {
        "GetObject",
        "PutObject",
        "DeleteObject",
        "ListBucket",
    }
    assert [need for need in seen if not is_allowed(statements, need)] == []
