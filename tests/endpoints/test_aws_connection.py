"""Signed calls: the same requests as boto3's, to the same addresses, with signatures that botocore confirms."""

import json
import re
from collections.abc import Iterator
from contextlib import closing, suppress
from urllib.parse import urlsplit

import botocore.session
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError
from botocore.parsers import create_parser

from raft_spark.config import Endpoint
from raft_spark.endpoints import connect
from raft_spark.endpoints.aws_connection import AwsCall, SignedSender, parse_error
from raft_spark.endpoints.base import Reply, Request
from raft_spark.endpoints.credentials import Keys
from raft_spark.endpoints.http import HttpResponse
from support import aws_model
from support.loopback_aws import Server, serve

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Für 5 µg? 漢"}]
ARN = "arn:aws:bedrock:us-east-1:123456789012:imported-model/abcdefghijkl"
PROFILE = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2c3"
KEYS = Keys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "IQoJb3JpZ2luX2VjEXAMPLE//////////wEaCXVz")
# what boto3 adds for its own statistics, and what differs between any two calls
OF_THE_SDK = {"user-agent", "amz-sdk-invocation-id", "amz-sdk-request", "x-amz-date", "authorization", "content-length"}


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as loopback:
        yield loopback


@pytest.fixture(autouse=True)
def credentials(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS.secret_key)
    monkeypatch.setenv("AWS_SESSION_TOKEN", KEYS.token)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    return monkeypatch


def sagemaker(url: str = "", **more: object) -> Endpoint:
    fields = {"kind": "sagemaker", "endpoint_name": "teacher-1", "region": "us-east-1", "codec": "openai"}
    return Endpoint(**{**fields, "url": url, **more})


def bedrock(url: str = "", **more: object) -> Endpoint:
    return Endpoint(**{"kind": "bedrock", "model": "m", "region": "us-east-1", "url": url, **more})


def ask(conf: Endpoint, model: str = "m") -> tuple[Reply, Request]:
    request = Request(MESSAGES, model, {"temperature": 0.0, "top_p": 0.5, "max_tokens": 5})
    with closing(connect(conf, 2, 5.0)) as client:
        return client.ask(request), request


def by_boto3(service: str, operation: str, url: str, **arguments: object) -> None:
    """Send the same call by botocore's own client. Its answer does not matter."""
    assert aws_model.problems(service, operation, arguments) == []
    client = botocore.session.get_session().create_client(service, region_name="us-east-1", endpoint_url=url)
    with closing(client), suppress(ClientError):
        getattr(client, re.sub(r"(?<!^)(?=[A-Z])", "_", operation).lower())(**arguments)


def same(server: Server) -> bool:
    """Compare the two requests that a server has seen."""
    (path, headers, body), (other_path, other_headers, other_body) = server.seen
    ours, theirs = ({k: v for k, v in sent.items() if k not in OF_THE_SDK} for sent in (headers, other_headers))
    assert path == other_path
    assert ours == theirs
    assert json.loads(body) == json.loads(other_body)
    return True


# --- the requests are those of boto3


@pytest.mark.parametrize("more", [{}, {"inference_component": "part-1"}, {"route": "/v1/chat/completions"}])
def test_invoke_endpoint_is_sent_as_boto3_sends_it(server, more):
    _, request = ask(sagemaker(server.url, **more))
    component, route = more.get("inference_component"), more.get("route")
    by_boto3(
        "sagemaker-runtime",
        "InvokeEndpoint",
        server.url,
        EndpointName="teacher-1",
        ContentType="application/json",
        Accept="application/json",
        InferenceId=request.key,
        Body=server.seen[0][2],
        **({"InferenceComponentName": component} if component else {}),
        **({"CustomAttributes": f"route={route}"} if route else {}),
    )
    assert same(server)


@pytest.mark.parametrize("model", ["us.amazon.nova-lite-v1:0", PROFILE, ARN])
@pytest.mark.parametrize("tier", ["", "flex"])
def test_converse_is_sent_as_boto3_sends_it(server, model, tier):
    _, request = ask(bedrock(server.url, service_tier=tier, request_metadata={"team": "raft +=/"}), model)
    by_boto3(
        "bedrock-runtime",
        "Converse",
        server.url,
        modelId=model,
        system=[{"text": "Be brief."}],
        messages=[{"role": "user", "content": [{"text": "Für 5 µg? 漢"}]}],
        inferenceConfig={"maxTokens": 5, "temperature": 0.0, "topP": 0.5},
        requestMetadata={"team": "raft +=/", "key": request.key},
        **({"serviceTier": {"type": tier}} if tier else {}),
    )
    assert same(server)


@pytest.mark.parametrize("more", [{}, {"service_tier": "priority", "request_metadata": {"team": "raft"}}])
def test_invoke_model_is_sent_as_boto3_sends_it(server, more):
    _, request = ask(bedrock(server.url, codec="openai", **more), ARN)
    by_boto3(
        "bedrock-runtime",
        "InvokeModel",
        server.url,
        modelId=ARN,
        contentType="application/json",
        accept="application/json",
        body=server.seen[0][2],
        **(
            {"serviceTier": "priority", "requestMetadata": json.dumps({"team": "raft", "key": request.key})}
            if more
            else {}
        ),
    )
    assert same(server)


def test_a_url_with_a_path_keeps_it(server):
    ask(bedrock(f"{server.url}/gateway"), ARN)
    by_boto3(
        "bedrock-runtime",
        "Converse",
        f"{server.url}/gateway",
        modelId=ARN,
        messages=[{"role": "user", "content": [{"text": "Why?"}]}],
    )
    assert (
        server.seen[0][0]
        == server.seen[1][0]
        == f"/gateway/model/{ARN.replace(':', '%3A').replace('/', '%2F')}/converse"
    )


# --- the signatures are valid


@pytest.mark.parametrize("conf", [sagemaker(), bedrock(), bedrock(codec="openai")])
def test_botocore_confirms_the_signature(server, conf):
    ask(conf.model_copy(update={"url": server.url}), ARN)
    ((path, headers, body),) = server.seen
    found = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/(\d{8})/us-east-1/(\w+)/aws4_request, SignedHeaders=([\w;-]+), Signature=(\w+)",
        headers["authorization"],
    )
    day, service, names, signature = found.groups()
    assert headers["x-amz-date"].startswith(day)
    assert service == conf.kind
    assert {"host", "x-amz-date", "x-amz-security-token", "content-type"} <= set(names.split(";"))
    request = AWSRequest("POST", server.url + path, {name: headers[name] for name in names.split(";")}, body)
    request.context["timestamp"] = headers["x-amz-date"]
    signer = SigV4Auth(KEYS, service, "us-east-1")
    text = signer.string_to_sign(request, signer.canonical_request(request))
    assert signer.signature(text, request) == signature


def test_a_bearer_token_of_bedrock_takes_precedence(server, credentials):
    credentials.setenv("AWS_BEARER_TOKEN_BEDROCK", "bedrock-api-key-0123456789")
    ask(bedrock(server.url))
    ask(sagemaker(server.url))
    tokens = [headers["authorization"] for _, headers, _ in server.seen]
    assert tokens[0] == "Bearer bedrock-api-key-0123456789"
    assert tokens[1].startswith("AWS4-HMAC-SHA256 ")
    assert "x-amz-security-token" not in server.seen[0][1]


def test_a_bearer_token_needs_no_credentials(server, credentials):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        credentials.delenv(name)
    credentials.setenv("AWS_BEARER_TOKEN_BEDROCK", "bedrock-api-key-0123456789")
    ask(bedrock(server.url))
    assert server.seen[0][1]["authorization"] == "Bearer bedrock-api-key-0123456789"


# --- the addresses are those of boto3


def address_of_boto3(service: str, region: str, operation: str, **arguments: object) -> str:
    sent = []
    client = botocore.session.get_session().create_client(service, region_name=region)

    def stop(request, **_: object):
        sent.append(request.url)
        raise ConnectionAbortedError

    client.meta.events.register("before-send", stop)
    with closing(client), suppress(ConnectionAbortedError):
        getattr(client, operation)(**arguments)
    return sent[0]


@pytest.mark.row
@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1", "cn-north-1", "us-gov-west-1", "ap-southeast-7"])
@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"AWS_USE_FIPS_ENDPOINT": "true"},
        {"AWS_USE_DUALSTACK_ENDPOINT": "true"},
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:4566"},
        {
            "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": "https://vpce-1.example.com",
            "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": "http://h:1/p",
        },
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:4566", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
    ],
)
def test_the_address_is_the_one_of_boto3(credentials, region, environment):
    for name, value in environment.items():
        credentials.setenv(name, value)
    body = b"{}"
    invoked = address_of_boto3("sagemaker-runtime", region, "invoke_endpoint", EndpointName="e", Body=body)
    sender = SignedSender("sagemaker-runtime", sagemaker(region=region), 1)
    assert sender.url + AwsCall("invoke_endpoint", "e", {}, body).path == invoked
    conversed = address_of_boto3("bedrock-runtime", region, "converse", modelId=ARN, messages=[])
    sender = SignedSender("bedrock-runtime", bedrock(region=region), 1)
    assert sender.url + AwsCall("converse", ARN, {}, body).path == conversed


@pytest.mark.row
def test_the_setting_comes_before_the_environment(credentials):
    credentials.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", "https://vpce-1.example.com")
    assert SignedSender("bedrock-runtime", bedrock("http://127.0.0.1:9/"), 1).url == "http://127.0.0.1:9"


# --- errors are read as botocore reads them


@pytest.mark.row
@pytest.mark.parametrize("status", [301, 400, 403, 404, 424, 429, 500, 503])
@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"x-amzn-ErrorType": "ThrottlingException:http://internal.amazon.com/coral/"}, b'{"message": "Slow"}'),
        ({"X-Amzn-Errortype": "com.amazon#ValidationException"}, b'{"Message": "Wrong"}'),
        ({}, b'{"__type": "com.amazon.coral.service#ExpiredTokenException", "message": "Old"}'),
        ({}, b'{"code": "AccessDenied", "message": "No"}'),
        ({}, b'{"Code": "AccessDenied", "Message": "No"}'),
        ({}, b'{"message": "No code"}'),
        ({}, b"not JSON"),
        ({"Retry-After": "7"}, b"{}"),
    ],
)
def test_an_error_is_read_as_botocore_reads_it(status, headers, body):
    lower = {name.lower(): value for name, value in headers.items()}
    theirs = create_parser("rest-json").parse({"status_code": status, "headers": lower, "body": body}, None)
    ours = parse_error(HttpResponse(status, headers, body))
    assert ours["Error"] == theirs["Error"]
    assert ours["ResponseMetadata"]["HTTPStatusCode"] == theirs["ResponseMetadata"]["HTTPStatusCode"] == status
    assert ours["ResponseMetadata"]["HTTPHeaders"] == theirs["ResponseMetadata"]["HTTPHeaders"] == lower


@pytest.mark.row
@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (b"", "502", "Bad Gateway"),
        (b"<!DOCTYPE html><html>Oh</html>", "502", "Bad Gateway"),
        (b"[1]", "502", "[1]"),
        (b'"text"', "502", "text"),
        (b'{"message": null, "code": 5}', "5", ""),
        (b"\xff\xfe", "502", "\ufffd\ufffd"),
    ],
)
def test_an_error_of_another_form_is_read_too(body, code, message):
    assert parse_error(HttpResponse(502, {}, body))["Error"] == {"Code": code, "Message": message}


def test_a_redirection_says_where_to(server):
    server.answers(b"", 307, Location="https://elsewhere.example.com/")
    reply, _ = ask(bedrock(server.url))
    error = "307: the server redirects to https://elsewhere.example.com/; set url to that address"
    assert reply == Reply(error_class="refused", error=error)


# --- against moto


def test_an_endpoint_of_moto_answers(s3):
    answer = {"choices": [{"message": {"content": "It does."}, "finish_reason": "stop"}]}
    result = {"Body": json.dumps(answer), "ContentType": "application/json", "InvokedProductionVariant": "all"}
    request = urlsplit(s3)
    import urllib.request

    body = json.dumps({"account_id": "123456789012", "region": "us-east-1", "results": [result]}).encode()
    at = f"http://{request.netloc}/moto-api/static/sagemaker/endpoint-results"
    urllib.request.urlopen(urllib.request.Request(at, body, {"Content-Type": "application/json"})).close()
    reply, _ = ask(sagemaker(s3))
    assert reply == Reply("It does.", "stop")
