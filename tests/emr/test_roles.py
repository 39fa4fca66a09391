"""The roles of emr/stack.yaml may do what the code does and nothing else: tables of calls, which the code is compared with."""

import ast
import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, unquote

import boto3
import botocore.session
import pyarrow.fs
import pytest
from botocore import xform_name
from werkzeug.serving import WSGIRequestHandler

from conftest import ROOT
from raft_spark.lake.filesystem import Storage
from support.template import (
    APPLICATION,
    BATCH_ROLE,
    BUCKET,
    ENDPOINT,
    FILE,
    GLUE,
    GROUP,
    HERE,
    JOB,
    JOB_ROLE,
    MODEL,
    RUN,
    SECRET,
    TABLE,
    TEACHERS,
    WORKSPACE,
    Need,
    is_allowed,
    listed,
    of,
    without,
)


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
    "get_file_info": [get(PART), MISSING, listing("lake/completions/data/"), listing("articles/")],
    "delete_file": [DELETED, put("lake/completions/data/")],  # an empty object stands for the folder
    "delete_dir": [listing("lake/articles/versions/1/"), DELETED, put("lake/articles/versions/")],
    "delete_dir_contents": [listing("lake/articles/hub/"), DELETED],
    "create_dir": [],  # never of a bucket, see hub
}
# ... boto3's, of an operation's name in Python ...
UPLOADS = {"upload_file": [put(PART), ABORTED]}  # a method of boto3's client and not of S3
LAKE = {"put_object": [put(POINTER)], "get_object": [get(POINTER), MISSING]}
SAGEMAKER = {
    "invoke_endpoint": [Need("sagemaker:InvokeEndpoint", ENDPOINT)],
    "invoke_endpoint_async": [Need("sagemaker:InvokeEndpointAsync", ENDPOINT)],
}
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
ALWAYS = FILES | UPLOADS | LAKE | GLUE | KEY | EMR

# What a role cannot do without a statement.
READS = {"open_input_stream", "open_input_file", "get_file_info", "get_object"}
WRITES = {"open_output_stream", "upload_file", "put_object"}
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
    "KeepCatalog": set(GLUE),
    "WritePrometheus": {"EMR writes metrics"},
}
NEEDED_TO_ASK = {
    "sagemaker": {"AskSageMaker": {"invoke_endpoint", "invoke_endpoint_async"}},
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
        Need("sagemaker:InvokeEndpointAsync", f"{ENDPOINT}-other"),
        Need("bedrock:InvokeModel", "arn:aws:bedrock:us-east-1::foundation-model/dearer"),
        Need("secretsmanager:GetSecretValue", f"arn:aws:secretsmanager:{HERE}:secret:other-AbCdEf"),
        Need("glue:GetTable", f"arn:aws:glue:{HERE}:table/another/base"),
        Need("glue:DeleteTable", TABLE),
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
    assert [lines[begin].split()[-1] for begin in begins] == [
        "FindLogGroup",
        "FindBatches",
        "ReachLogs",
        "ReachBatches",
        "LogDelivery",
    ]
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
    """Parse the modules that run in a job, or those of whoever submits; the fake model server and `students` are neither."""
    for path in sorted((ROOT / "raft_spark").rglob("*.py")):
        package = path.relative_to(ROOT / "raft_spark").parts[:-1]
        if "cli" in package:
            continue
        if ("emr" in package) != of_job and "students" not in package and "fake" not in package:
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
            if name in {"client", "create_client", "resource", "AwsConnection", "open_client", "connect"}:
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


# --- what is asked of S3, seen on the wire


def needed(method: str, target: str) -> Need:
    """Return what a request asks of IAM (S3's user guide, "Required permissions for Amazon S3 API operations")."""
    path, _, query = target.partition("?")
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    bucket, _, key = unquote(path).lstrip("/").partition("/")
    if not key and method in {"GET", "HEAD"}:
        return Need(
            "s3:ListBucket",
            f"arn:aws:s3:::{bucket}",
            {"s3:prefix": parameters["prefix"]} if "prefix" in parameters else {},
        )
    if "delete" in parameters:
        return Need("s3:DeleteObject", f"arn:aws:s3:::{bucket}/lake/any")
    actions = {
        "GET": "GetObject",
        "HEAD": "GetObject",
        "PUT": "PutObject",
        "POST": "PutObject",
        "DELETE": "DeleteObject",
    }
    aborts = method == "DELETE" and "uploadId" in parameters
    return Need("s3:AbortMultipartUpload" if aborts else f"s3:{actions[method]}", f"arn:aws:s3:::{bucket}/{key}")


def test_what_a_lake_asks_of_s3_is_allowed(s3, monkeypatch):
    seen: list[Need] = []
    record = lambda handler, *_: seen.append(needed(handler.command, handler.path))  # noqa: E731 - a line
    boto3.client("s3", endpoint_url=s3).create_bucket(Bucket="bucket")
    monkeypatch.setattr(WSGIRequestHandler, "log_request", record)
    lake = Storage("s3://bucket/lake", s3).at("base")
    assert lake.read("current.json") is None
    assert lake.compare_and_swap("current.json", b"1", None)
    assert lake.compare_and_swap("current.json", b"2", b"1")
    assert lake.read("current.json") == b"2"
    lake.write("versions/1/data/part-0.parquet", b"x" * 20_000_000)
    lake.write("versions/2/data/part-0.parquet", b"y")
    assert lake.at("versions").is_folder
    assert len(lake.at("versions").list(recursive=False)) == 0
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
