"""Credentials of AWS: sources that are late, fail, expire or are wrong, as a call to a model sees them."""

import json
import socket
import stat
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import boto3
import pytest

from raft_spark.config import Endpoint
from raft_spark.endpoints import connect, credentials
from raft_spark.endpoints.base import Client, Reply, Request
from support import metadata_service
from support.loopback_aws import Server, serve
from support.metadata_service import Metadata

VARIABLES = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_PROFILE"),
    *("AWS_ENDPOINT_URL", "AWS_EC2_METADATA_DISABLED", "AWS_EC2_METADATA_SERVICE_ENDPOINT"),
    *("AWS_METADATA_SERVICE_NUM_ATTEMPTS", "AWS_METADATA_SERVICE_TIMEOUT", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
    *("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN", "AWS_BEARER_TOKEN_BEDROCK"),
)
ANSWER = {"choices": [{"message": {"content": "It does."}, "finish_reason": "stop"}]}


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as loopback:
        loopback.answers(ANSWER)
        yield loopback


@pytest.fixture
def instance(environment) -> Iterator[Metadata]:
    with metadata_service.serve() as metadata:
        environment.setenv("AWS_EC2_METADATA_DISABLED", "false")
        environment.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url)
        yield metadata


@pytest.fixture
def container(environment) -> Iterator[Metadata]:
    with metadata_service.serve() as metadata:
        environment.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{metadata.url}/keys")
        yield metadata


@pytest.fixture
def client(server) -> Iterator[Client]:
    conf = Endpoint(kind="sagemaker", endpoint_name="e", region="us-east-1", codec="openai", url=server.url)
    with closing(connect(conf, 16, 10.0)) as client:
        yield client


def ask(client: Client) -> Reply:
    return client.ask(Request([{"role": "user", "content": "Why?"}], "m", {"max_tokens": 5}))


def write_profile(access_key: str, folder: Path) -> None:
    (folder / "credentials").write_text(f"[default]\naws_access_key_id={access_key}\naws_secret_access_key=secret\n")


# --- a source that is late or fails


@pytest.mark.parametrize("faults", [[3.0], [0, 3.0], [0, 0, 3.0], [0, -500], [0, 0, -500], [0, 0, -404, -429]])
def test_one_late_or_failed_answer_of_the_metadata_service_is_borne(client, instance, faults):
    instance.faults = faults
    assert ask(client).completion == "It does."


@pytest.mark.parametrize("fault", [-500, -503])
def test_one_failed_answer_of_a_containers_service_is_borne(client, container, fault):
    container.faults = [fault]
    assert ask(client).completion == "It does."


def test_a_metadata_service_that_fails_is_unavailable_until_it_is_back(client, server, instance):
    instance.always = -500
    reply = ask(client)
    assert reply.error_class == "unavailable"
    assert not reply.is_cut_off
    assert reply.error == (
        "no answer: the AWS credentials cannot be read: Error when retrieving credentials from "
        "the instance metadata service: it does not answer, or this machine has no role"
    )
    asked = len(instance.seen)
    assert ask(client).error_class == "unavailable"
    assert len(instance.seen) == asked  # a pause lies between two tries
    instance.always = 0
    time.sleep(credentials.PAUSE_SECONDS)
    assert ask(client).completion == "It does."
    assert len(server.seen) == 1


def test_a_metadata_service_that_fails_for_long_is_refused(client, instance, monkeypatch):
    monkeypatch.setattr(credentials, "PATIENCE_SECONDS", 1.0)
    instance.always = -500
    assert ask(client).error_class == "unavailable"
    time.sleep(credentials.PAUSE_SECONDS)
    reply = ask(client)
    assert reply.error_class == "refused"
    assert "the instance metadata service" in reply.error


def test_a_machine_without_a_metadata_service_is_refused_at_once(client, environment):
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    environment.setenv("AWS_EC2_METADATA_DISABLED", "false")
    environment.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)
    reply = ask(client)
    assert reply.error_class == "refused"
    assert reply.error.startswith("no AWS credentials were found: ")


@pytest.mark.parametrize("where", ["environment", "profile"])
def test_the_users_own_number_of_attempts_is_kept(client, environment, instance, tmp_path, where):
    if where == "environment":
        environment.setenv("AWS_METADATA_SERVICE_NUM_ATTEMPTS", "1")
    else:
        (tmp_path / "config").write_text("[default]\nmetadata_service_num_attempts = 1\n")
    instance.always = -500
    ask(client)
    assert instance.seen == ["/latest/api/token", metadata_service.ROLE]


def test_a_failed_refresh_keeps_the_credentials_that_are_still_valid(client, server, container):
    container.valid_minutes = 5  # botocore refreshes them before every call
    assert ask(client).completion == "It does."
    container.always = -500
    asked = len(container.seen)
    assert [ask(client).completion for _ in range(3)] == ["It does."] * 3
    assert len(container.seen) > asked
    assert server.access_keys == ["ASIAFIRST"] * 4


def test_new_credentials_are_used_after_a_refresh(client, server, container):
    container.valid_minutes = 5
    ask(client)
    container.access_key = "ASIASECOND"
    ask(client)
    assert server.access_keys == ["ASIAFIRST", "ASIASECOND"]


# --- credentials that have expired


def test_a_profile_that_was_rotated_is_read_again(client, server, tmp_path):
    write_profile("AKIAFIRST", tmp_path)
    assert ask(client).completion == "It does."
    server.expired = {"AKIAFIRST"}
    write_profile("AKIASECOND", tmp_path)
    assert ask(client).completion == "It does."
    assert ask(client).completion == "It does."
    assert server.access_keys == ["AKIAFIRST", "AKIAFIRST", "AKIASECOND", "AKIASECOND"]


def test_expired_credentials_without_others_are_refused_after_one_call(client, server, tmp_path):
    write_profile("AKIAFIRST", tmp_path)
    server.expired = {"AKIAFIRST"}
    error = "ExpiredTokenException: The security token included in the request is expired"
    assert ask(client) == Reply(error_class="refused", error=error)
    assert server.access_keys == ["AKIAFIRST"]
    write_profile("AKIASECOND", tmp_path)
    assert ask(client).completion == "It does."


def test_others_that_have_expired_too_are_refused(client, server, tmp_path):
    write_profile("AKIAFIRST", tmp_path)
    assert ask(client).completion == "It does."
    server.expired = {"AKIAFIRST", "AKIASECOND"}
    write_profile("AKIASECOND", tmp_path)
    assert ask(client).error_class == "refused"
    assert server.access_keys == ["AKIAFIRST", "AKIAFIRST", "AKIASECOND"]


def test_many_threads_read_the_chain_again_together(client, server, tmp_path):
    write_profile("AKIAFIRST", tmp_path)
    ask(client)
    server.expired = {"AKIAFIRST"}
    write_profile("AKIASECOND", tmp_path)
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda _: ask(client), range(64)))
    assert {reply.completion for reply in replies} == {"It does."}


def test_the_expired_credentials_of_an_instance_are_fetched_again(client, server, instance):
    assert ask(client).completion == "It does."
    server.expired = {"ASIAFIRST"}
    instance.access_key = "ASIASECOND"
    assert ask(client).completion == "It does."


def test_an_expired_web_identity_is_assumed_again(client, server, environment, tmp_path, s3):
    (tmp_path / "token").write_text("header.body.signature")
    environment.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    environment.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/teacher")
    environment.setenv("AWS_ENDPOINT_URL_STS", s3)
    environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
    assert ask(client).completion == "It does."
    server.expired = set(server.access_keys)
    assert ask(client).completion == "It does."
    first, again, second = server.access_keys
    assert first == again != second


# --- a credential_process


@pytest.fixture
def process(tmp_path) -> Path:
    """Return the file from which a credential_process reads what to print; it fails without one."""
    script, keys = tmp_path / "give", tmp_path / "keys.json"
    script.write_text(f"#!{sys.executable}\nprint(open({str(keys)!r}).read())\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {script}\n")
    return keys


def keys_of_process(access_key: str) -> str:
    return json.dumps({"Version": 1, "AccessKeyId": access_key, "SecretAccessKey": "secret"})


def test_a_process_that_fails_is_unavailable_at_first(client, process):
    reply = ask(client)
    assert reply.error_class == "unavailable"
    assert "custom-process" in reply.error
    process.write_text(keys_of_process("AKIAFIRST"))
    time.sleep(credentials.PAUSE_SECONDS)
    assert ask(client).completion == "It does."


def test_a_process_is_run_again_after_its_credentials_expired(client, server, process):
    process.write_text(keys_of_process("AKIAFIRST"))
    ask(client)
    server.expired = {"AKIAFIRST"}
    process.write_text(keys_of_process("AKIASECOND"))
    assert ask(client).completion == "It does."


@pytest.mark.parametrize("printed", ["no JSON", "[]", '{"Version": 1}', '{"Version": 1, "AccessKeyId": "AKIAFIRST"}'])
def test_a_process_that_prints_something_else_is_an_error(client, process, printed):
    process.write_text(printed)
    assert ask(client).error_class in {"unavailable", "refused"}


def test_a_process_that_is_not_there_is_refused(client, tmp_path):
    (tmp_path / "config").write_text("[default]\ncredential_process = /gone/give\n")
    reply = ask(client)
    assert reply.error_class == "refused"
    assert reply.error.startswith("a source of AWS credentials failed: [Errno 2] No such file or directory: ")


@pytest.mark.parametrize("config", ["credential_process = /gone/give", "region = us-east-1"])
def test_a_secret_without_aws_credentials_is_refused(server, tmp_path, config):
    (tmp_path / "config").write_text(f"[default]\n{config}\n")
    fields = {"url": f"{server.url}/v1", "model": "m", "region": "us-east-1", "api_key_secret": "key"}
    with closing(connect(Endpoint(kind="openai", **fields), 1, 5.0)) as client:
        reply = ask(client)
    assert reply.error_class == "refused"
    assert reply.error.startswith("the secret key, named by api_key_secret, cannot be read: ")


def test_a_secret_is_read_although_the_metadata_service_is_late_once(server, environment, instance, s3):
    environment.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", s3)
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "endpoint_url": s3}
    store = boto3.client("secretsmanager", region_name="us-east-1", **keys)
    store.create_secret(Name="late", SecretString="sk-0123456789")
    instance.faults = [0, 3.0]
    fields = {"url": f"{server.url}/v1", "model": "m", "region": "us-east-1", "api_key_secret": "late"}
    with closing(connect(Endpoint(kind="openai", **fields), 1, 5.0)) as client:
        assert ask(client).completion == "It does."
    assert server.seen[0][1]["authorization"] == "Bearer sk-0123456789"


# --- credentials that a person must change


@pytest.mark.parametrize(("profile", "command"), [("", "`aws sso login`"), ("work", "`aws sso login --profile work`")])
def test_a_missing_sso_login_names_the_command(client, environment, tmp_path, profile, command):
    section = f"profile {profile}" if profile else "default"
    account = "sso_account_id = 123456789012\nsso_role_name = Reader\n"
    where = "sso_start_url = https://example.awsapps.com/start\nsso_region = us-east-1\n"
    (tmp_path / "config").write_text(f"[{section}]\nsso_session = s\n{account}[sso-session s]\n{where}")
    if profile:
        environment.setenv("AWS_PROFILE", profile)
    reply = ask(client)
    assert reply.error_class == "refused"
    assert command in reply.error


def test_an_expired_sso_login_of_the_older_form_names_the_command(client, environment, tmp_path):
    account = "sso_account_id = 123456789012\nsso_role_name = Reader\n"
    where = "sso_start_url = https://example.awsapps.com/start\nsso_region = us-east-1\n"
    (tmp_path / "config").write_text(f"[profile old]\n{account}{where}")
    environment.setenv("AWS_DEFAULT_PROFILE", "old")
    reply = ask(client)
    assert reply.error_class == "refused"
    assert "`aws sso login --profile old`" in reply.error


@pytest.mark.parametrize("value", ["sec\nret", "secret\n", " secret", "sec ret", "sec\rret", "sécret"])
@pytest.mark.parametrize(
    ("variable", "part"),
    [
        ("AWS_ACCESS_KEY_ID", "access key"),
        ("AWS_SECRET_ACCESS_KEY", "secret key"),
        ("AWS_SESSION_TOKEN", "session token"),
    ],
)
def test_a_credential_that_cannot_be_sent_is_refused(client, server, environment, variable, part, value):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        environment.setenv(name, "fake")
    environment.setenv(variable, value)
    error = (
        f"the AWS {part} from env holds a space, a line break or another character that no key has; correct it there"
    )
    assert ask(client) == Reply(error_class="refused", error=error)
    assert server.seen == []


def test_a_bearer_token_that_cannot_be_sent_is_refused(server, environment):
    environment.setenv("AWS_BEARER_TOKEN_BEDROCK", "bedrock-api\nkey")
    conf = Endpoint(kind="bedrock", model="m", region="us-east-1", url=server.url)
    with closing(connect(conf, 1, 5.0)) as client:
        reply = ask(client)
    assert reply.error_class == "refused"
    assert reply.error.startswith("the AWS bearer token from AWS_BEARER_TOKEN_BEDROCK holds ")
    assert server.seen == []
