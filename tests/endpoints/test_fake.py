"""The fake endpoint: real HTTP and boto3 clients against its process."""

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import pairwise
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import ROOT
from raft_spark import config
from raft_spark.config import Endpoint
from raft_spark.endpoints import serving

MODEL = "arn:aws:bedrock:us-east-1:123456789012:imported-model/a1b2c3"
QUESTION = "Water boils at 100 degrees. Ice melts. It rains."
NO_LIMITS = {
    "latency_ms": 0,
    "jitter": 0,
    "tail_share": 0,
    "capacity": 0,
    "requests_per_second": 0,
    "retry_after": 1,
    "container": "tgi",
    "echo": False,
}
ONCE = Config(
    retries={"total_max_attempts": 1},
    connect_timeout=5,
    read_timeout=5,
    inject_host_prefix=False,
    max_pool_connections=60,
)


@pytest.fixture(scope="module")
def server():
    with serving(Endpoint(kind="fake")) as endpoint:
        yield endpoint.url.removesuffix("/v1")


@pytest.fixture
def fake(server):
    call_admin(server, "behave", {})
    call_admin(server, "manner", NO_LIMITS)
    call_admin(server, "calls", method="DELETE")
    return server


@contextmanager
def aws(service, url):
    session = boto3.Session("fake", "fake", region_name="us-east-1")
    with closing(session.client(service, endpoint_url=url, config=ONCE)) as client:
        yield client


@contextmanager
def raw(url):
    """Send a completions call; yield the socket on which its answer comes."""
    sent = b'{"model": "m", "prompt": "A"}'
    with closing(socket.create_connection(("127.0.0.1", urlsplit(url).port), timeout=5)) as caller:
        caller.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n" % len(sent) + sent)
        yield caller


@pytest.fixture(scope="module")
def sagemaker(server):
    with aws("sagemaker-runtime", server) as client:
        yield client


@pytest.fixture(scope="module")
def bedrock(server):
    with aws("bedrock-runtime", server) as client:
        yield client


def call_admin(url, route, body=None, method=None):
    sent = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{url}/{route}", sent, method=method), timeout=10) as answer:
        return json.load(answer)


def invoke(client, body, **more):
    answer = client.invoke_endpoint(EndpointName="e", ContentType="application/json", Body=json.dumps(body), **more)
    return json.loads(answer["Body"].read())


def generate(client, **parameters):
    return invoke(
        client, {"inputs": QUESTION, "parameters": {"return_full_text": False, "details": True, **parameters}}
    )


def converse(client, text=QUESTION, **more):
    return client.converse(modelId=MODEL, messages=[{"role": "user", "content": [{"text": text}]}], **more)


def model(client, body):
    return json.loads(client.invoke_model(modelId=MODEL, body=json.dumps(body))["body"].read())


def chat(url, text=QUESTION, **headers):
    """Return status, headers and body of a chat call; the names of headers have _ for -."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)
    with closing(connection):
        sent = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]})
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", "/v1/chat/completions", sent, named)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def content(answer):
    return json.loads(answer[2])["choices"][0]["message"]["content"]


def fails(call):
    with pytest.raises(ClientError) as failure:
        call()
    return failure.value.response


def test_tgi_answers_a_list_of_one(fake, sagemaker):
    (answer,) = generate(sagemaker)
    assert re.fullmatch(r"Water boils at 100 degrees\. Ice melts\. \[[0-9a-f]{8}\]", answer["generated_text"])
    assert (answer["details"]["finish_reason"], answer["details"]["generated_tokens"]) == ("eos_token", 8)


def test_tgi_returns_the_prompt_and_no_details_by_default(fake, sagemaker):
    (answer,) = invoke(sagemaker, {"inputs": QUESTION})
    assert answer["generated_text"].startswith(QUESTION + "Water boils at 100 degrees. Ice melts. [")
    assert set(answer) == {"generated_text"}


def test_tgi_stops_at_max_new_tokens(fake, sagemaker):
    (answer,) = generate(sagemaker, max_new_tokens=2)
    assert answer["generated_text"] == "Water boils"
    assert (answer["details"]["finish_reason"], answer["details"]["generated_tokens"]) == ("length", 2)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"temperature": 0.0}, "`temperature` must be strictly positive"),
        ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"top_p": 0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
    ],
)
def test_tgi_is_as_strict_as_the_real_one(fake, sagemaker, parameters, words):
    failure = fails(lambda: generate(sagemaker, **parameters))
    assert (failure["Error"]["Code"], failure["OriginalStatusCode"]) == ("ModelError", 422)
    assert json.loads(failure["OriginalMessage"]) == {
        "error": f"Input validation error: {words}",
        "error_type": "validation",
    }


def test_lmi_answers_an_object_of_30_tokens_by_default(fake, sagemaker):
    call_admin(fake, "manner", {"container": "lmi"})
    answer = invoke(sagemaker, {"inputs": "word " * 40, "parameters": {"details": True, "temperature": 0.0}})
    assert answer["generated_text"] == " ".join(["word"] * 30)
    assert (answer["details"]["finish_reason"], answer["details"]["generated_tokens"]) == ("length", 30)


def test_a_prompt_in_the_llama_template_is_answered_from_its_last_turn(fake, sagemaker):
    prompt = (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        f"<|start_header_id|>user<|end_header_id|>\n\n{QUESTION}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    (answer,) = invoke(sagemaker, {"inputs": prompt, "parameters": {"return_full_text": False}})
    assert answer["generated_text"].startswith("Water boils at 100 degrees. Ice melts. [")


@pytest.mark.parametrize(
    "ask", [lambda to, body: invoke(to["sagemaker"], body), lambda to, body: model(to["bedrock"], body)]
)
def test_openai_bodies_are_accepted_by_all(fake, sagemaker, bedrock, ask):
    to = {"sagemaker": sagemaker, "bedrock": bedrock}
    chatted = ask(to, {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 2})
    assert chatted["choices"][0]["message"]["content"] == "Water boils"
    completed = ask(to, {"prompt": QUESTION, "max_tokens": 2})
    assert (completed["choices"][0]["text"], completed["choices"][0]["finish_reason"]) == ("Water boils", "length")
    assert completed["usage"] == {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}


def test_converse_answers(fake, bedrock):
    answer = converse(bedrock, system=[{"text": "Be brief."}])
    (block,) = answer["output"]["message"]["content"]
    assert block["text"].startswith("Water boils at 100 degrees. Ice melts. [")
    assert (answer["stopReason"], answer["usage"]) == (
        "end_turn",
        {"inputTokens": 11, "outputTokens": 8, "totalTokens": 19},
    )
    assert converse(bedrock, inferenceConfig={"maxTokens": 2})["stopReason"] == "max_tokens"


def test_llama_answers_in_its_own_schema(fake, bedrock):
    assert model(bedrock, {"prompt": QUESTION, "max_gen_len": 2}) == {
        "generation": "Water boils",
        "prompt_token_count": 9,
        "generation_token_count": 2,
        "stop_reason": "length",
    }


def test_converse_is_as_strict_as_the_real_one(fake, bedrock):
    for bad in (lambda: converse(bedrock, " "), lambda: converse(bedrock, inferenceConfig={"temperature": 1.5})):
        assert fails(bad)["Error"]["Code"] == "ValidationException"


def test_an_invalid_body_is_refused_by_each_service(fake, sagemaker, bedrock):
    failure = fails(lambda: sagemaker.invoke_endpoint(EndpointName="e", Body=b"no JSON"))
    assert (failure["Error"]["Code"], failure["OriginalStatusCode"]) == ("ModelError", 400)
    assert fails(lambda: model(bedrock, {"inputs": [3]}))["Error"]["Code"] == "ValidationException"
    with pytest.raises(urllib.error.HTTPError, match="400") as refusal:
        call_admin(fake, "v1/chat/completions", {"model": "m", "messages": [{"content": 3}]})
    refusal.value.close()


@pytest.mark.parametrize(
    ("how", "name", "status"),
    [
        ({"status": 400}, "ValidationError", 400),
        ({"status": 400, "error": "ThrottlingException"}, "ThrottlingException", 400),
        ({"status": 403}, "AccessDeniedException", 403),
        ({"status": 429}, "ThrottlingException", 429),
        ({"status": 429, "error": "ModelNotReadyException"}, "ModelNotReadyException", 429),
        ({"status": 500}, "InternalFailure", 500),
        ({"status": 503}, "ServiceUnavailable", 503),
        ({"status": 530}, "InternalDependencyException", 530),
    ],
)
def test_sagemaker_errors_have_their_names(fake, sagemaker, how, name, status):
    call_admin(fake, "behave", how)
    failure = fails(lambda: generate(sagemaker))
    assert failure["Error"] == {"Code": name, "Message": f"told to fail with {status}"}
    assert failure["ResponseMetadata"]["HTTPStatusCode"] == status


def test_a_container_that_fails_is_a_model_error(fake, sagemaker):
    call_admin(fake, "behave", {"status": 424, "original_status": 429, "retry_after": 7})
    with pytest.raises(sagemaker.exceptions.ModelError) as failure:
        generate(sagemaker)
    response = failure.value.response
    assert (response["OriginalStatusCode"], response["ResponseMetadata"]["HTTPStatusCode"]) == (429, 424)
    assert json.loads(response["OriginalMessage"]) == {"error": "told to fail with 429", "error_type": "overloaded"}
    assert response["Error"]["Message"].startswith("Received client error (429) from primary with message")
    assert response["LogStreamArn"].startswith("arn:aws:logs:")
    assert response["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "7"
    assert call_admin(fake, "calls")["throttled"] == 1


@pytest.mark.parametrize(
    ("how", "name", "status"),
    [
        ({"status": 400}, "ValidationException", 400),
        ({"status": 400, "error": "ServiceQuotaExceededException"}, "ServiceQuotaExceededException", 400),
        ({"status": 403}, "AccessDeniedException", 403),
        ({"status": 404}, "ResourceNotFoundException", 404),
        ({"status": 408}, "ModelTimeoutException", 408),
        ({"status": 429}, "ThrottlingException", 429),
        ({"status": 429, "error": "ModelNotReadyException"}, "ModelNotReadyException", 429),
        ({"status": 500}, "InternalServerException", 500),
        ({"status": 503}, "ServiceUnavailableException", 503),
    ],
)
def test_bedrock_errors_have_their_names(fake, bedrock, how, name, status):
    call_admin(fake, "behave", how)
    for call in (lambda: converse(bedrock), lambda: model(bedrock, {"prompt": QUESTION})):
        failure = fails(call)
        assert failure["Error"] == {"Code": name, "Message": f"told to fail with {status}"}
        assert failure["ResponseMetadata"]["HTTPStatusCode"] == status
    assert hasattr(bedrock.exceptions, name)


def test_bedrock_has_the_status_of_the_container(fake, bedrock):
    call_admin(fake, "behave", {"original_status": 503})
    with pytest.raises(bedrock.exceptions.ModelErrorException) as failure:
        converse(bedrock)
    assert failure.value.response["originalStatusCode"] == 503


def test_openai_fails_with_its_status(fake):
    call_admin(fake, "behave", {"status": 503, "retry_after": "3"})
    status, headers, body = chat(fake)
    assert (status, headers["retry-after"]) == (503, "3")
    assert json.loads(body)["error"]["message"] == "told to fail with 503"


def test_an_answer_can_break_off(fake, sagemaker):
    whole = len(chat(fake)[2])
    call_admin(fake, "behave", {"fault": "half"})
    with pytest.raises(http.client.IncompleteRead) as broken:
        chat(fake)
    assert len(broken.value.partial) == whole // 2
    call_admin(fake, "behave", {"fault": "drop"})
    with pytest.raises(http.client.IncompleteRead) as broken:
        chat(fake)
    assert broken.value.partial == b""
    assert call_admin(fake, "calls")["answered"] == 1


def test_an_answer_can_be_garbage(fake):
    call_admin(fake, "behave", {"fault": "garbage"})
    status, _, body = chat(fake)
    with pytest.raises(ValueError, match="Unterminated"):
        json.loads(body)
    assert (status, call_admin(fake, "calls")["answered"]) == (200, 0)


def test_an_answer_can_be_sent_slowly(fake):
    call_admin(fake, "behave", {"fault": "slow", "seconds": 0.4})
    start = time.monotonic()
    with raw(fake) as caller:
        pieces = [caller.recv(4096)]
        while pieces[-1] and not pieces[-1].endswith(b"}}"):
            pieces.append(caller.recv(4096))
    assert 0.35 < time.monotonic() - start < 2
    assert len(pieces) > 10
    assert json.loads(b"".join(pieces).partition(b"\r\n\r\n")[2])["choices"][0]["text"].startswith("A [")
    assert call_admin(fake, "calls")["answered"] == 1


def test_an_answer_may_never_come(fake):
    call_admin(fake, "behave", {"fault": "hang"})
    with raw(fake) as caller:
        caller.settimeout(0.3)
        with pytest.raises(TimeoutError):
            caller.recv(1)
        counts = call_admin(fake, "calls")
        assert (counts["hung"], counts["open"], counts["by_status"]) == (1, 1, {})
    assert closes(fake)


def closes(url):
    deadline = time.monotonic() + 5
    while (opened := call_admin(url, "calls")["open"]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return opened == 0


def test_an_answer_can_be_empty_in_every_schema(fake, sagemaker, bedrock):
    call_admin(fake, "behave", {"fault": "empty"})
    assert content(chat(fake)) == ""
    assert generate(sagemaker)[0]["generated_text"] == ""
    assert converse(bedrock)["output"]["message"]["content"] == []
    assert model(bedrock, {"prompt": QUESTION})["generation"] == ""


def test_an_answer_can_be_truncated_in_every_schema(fake, sagemaker, bedrock):
    call_admin(fake, "behave", {"fault": "truncated"})
    assert json.loads(chat(fake)[2])["choices"][0]["finish_reason"] == "length"
    assert content(chat(fake)) == "Water boils at 100"
    assert generate(sagemaker)[0]["details"]["finish_reason"] == "length"
    assert converse(bedrock)["stopReason"] == "max_tokens"
    assert model(bedrock, {"prompt": QUESTION})["stop_reason"] == "length"


def test_an_answer_can_be_filtered_in_every_schema(fake, bedrock):
    call_admin(fake, "behave", {"fault": "filtered"})
    assert json.loads(chat(fake)[2])["choices"][0]["finish_reason"] == "content_filter"
    assert converse(bedrock)["stopReason"] == "guardrail_intervened"
    assert model(bedrock, {"prompt": QUESTION})["amazon-bedrock-guardrailAction"] == "INTERVENED"


def test_lmi_can_fail_with_status_200(fake, sagemaker):
    call_admin(fake, "manner", {"container": "lmi"})
    call_admin(fake, "behave", {"fault": "error"})
    answer = generate(sagemaker)
    assert (answer["generated_text"], answer["details"]["finish_reason"]) == ("", "error")


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50))
def test_an_echo_has_the_whole_message(fake, text):
    call_admin(fake, "manner", {"echo": True})
    assert re.fullmatch(re.escape(text) + r" \[[0-9a-f]{8}\]", content(chat(fake, text)))


def test_an_echo_can_be_a_fault_rule(fake):
    call_admin(fake, "behave", [{"fault": "echo"}])
    assert content(chat(fake)).startswith(QUESTION + " [")


def test_fault_rules_share_the_calls(fake):
    call_admin(fake, "behave", [{"status": 429, "share": 0.2}, {"status": 503, "share": 0.3}])
    first = [chat(fake, f"Question {number}?")[0] for number in range(200)]
    assert 25 < first.count(429) < 60
    assert 40 < first.count(503) < 80
    assert first.count(429) + first.count(503) + first.count(200) == 200
    second = [chat(fake, f"Question {number}?")[0] for number in range(200)]
    assert sum(one != other for one, other in zip(first, second, strict=True)) > 40  # another attempt, another draw
    call_admin(fake, "calls", method="DELETE")
    assert [chat(fake, f"Question {number}?")[0] for number in range(200)] == first


def test_a_fault_rule_ends_after_its_calls(fake):
    call_admin(fake, "behave", [{"status": 503, "for_calls": 2}])
    assert [chat(fake)[0] for _ in range(3)] == [503, 503, 200]


@pytest.mark.parametrize(
    ("route", "invalid"),
    [
        ("behave", [{"status": 429, "share": 0.6}, {"status": 503, "share": 0.5}]),
        ("behave", {"fault": "sulk"}),
        ("behave", "well"),
        ("manner", {"tail_share": 2}),
        ("manner", {"speed": 2}),
        ("manner", [1]),
    ],
)
def test_invalid_rules_and_options_are_refused(fake, route, invalid):
    with pytest.raises(urllib.error.HTTPError, match="400") as refusal:
        call_admin(fake, route, invalid)
    refusal.value.close()


def test_the_call_beyond_the_capacity_gets_429_at_once(fake):
    call_admin(fake, "manner", {"latency_ms": 2000, "capacity": 50, "retry_after": 2.5})
    with ThreadPoolExecutor(51) as pool:
        held = [pool.submit(chat, fake, f"Held {number}?") for number in range(50)]
        while call_admin(fake, "calls")["open"] < 50:
            time.sleep(0.01)
        start = time.monotonic()
        status, headers, _ = chat(fake, "One more?")
        assert (status, headers["retry-after"]) == (429, "2.5")
        assert time.monotonic() - start < 0.5
        assert [call.result()[0] for call in held] == [200] * 50
    counts = call_admin(fake, "calls")
    assert (counts["most_open"], counts["throttled"], counts["open"]) == (51, 1, 0)
    assert counts["by_status"] == {"200": 50, "429": 1}
    assert chat(fake, "And now?")[0] == 200


def test_a_caller_that_disconnects_frees_its_place(fake):
    call_admin(fake, "manner", {"latency_ms": 60_000, "capacity": 1})
    with raw(fake):
        while not call_admin(fake, "calls")["open"]:
            time.sleep(0.01)
        assert chat(fake)[0] == 429
    assert closes(fake)
    call_admin(fake, "manner", {"latency_ms": 0})
    assert chat(fake)[0] == 200
    assert call_admin(fake, "calls")["answered"] == 1


def test_calls_per_second_are_limited(fake, sagemaker):
    call_admin(fake, "manner", {"requests_per_second": 2, "retry_after": 0})
    answers = [chat(fake, f"Question {number}?") for number in range(4)]
    assert [status for status, _, _ in answers] == [200] * 2 + [429] * 2
    assert "retry-after" not in answers[-1][1]
    assert fails(lambda: generate(sagemaker))["Error"]["Code"] == "ThrottlingException"
    time.sleep(0.6)
    assert chat(fake)[0] == 200


def test_the_slow_calls_are_the_same_every_time(fake):
    call_admin(fake, "manner", {"tail_share": 0.2, "tail_ms": 1000})

    def late():
        call_admin(fake, "calls", method="DELETE")
        times = [time.monotonic()]
        for number in range(24):
            chat(fake, f"Question {number}?")
            times.append(time.monotonic())
        return {number for number, (start, end) in enumerate(pairwise(times)) if end - start > 0.95}

    first = late()
    assert 1 <= len(first) <= 12
    assert late() == first


def test_calls_are_counted_by_the_callers_key(fake, sagemaker, bedrock):
    call_admin(fake, "behave", [{"status": 503, "for_calls": 1}])
    for _ in range(2):
        chat(fake, Idempotency_Key="k1")
    invoke(sagemaker, {"inputs": QUESTION}, InferenceId="k2")
    converse(bedrock, requestMetadata={"key": "k3"})
    bedrock.invoke_model(
        modelId=MODEL, body=json.dumps({"prompt": QUESTION}), requestMetadata=json.dumps({"key": "k4"})
    )
    generate(sagemaker)
    counts = call_admin(fake, "calls/keys")
    assert counts.pop("k1") == {"calls": 2, "answered": 1}
    assert [counts.pop(key) for key in ("k2", "k3", "k4")] == [{"calls": 1, "answered": 1}] * 3
    ((digest, times),) = counts.items()
    assert re.fullmatch("[0-9a-f]{16}", digest)
    assert times == {"calls": 1, "answered": 1}


def test_calls_are_counted_by_the_second(fake):
    call_admin(fake, "behave", [{"status": 429, "for_calls": 1}])
    chat(fake)
    chat(fake)
    time.sleep(1.05)
    chat(fake)
    seconds = call_admin(fake, "calls/seconds")
    assert [second for second, *_ in seconds] == list(range(len(seconds)))
    assert [sum(column) for column in zip(*seconds, strict=True)][1:] == [3, 2, 1]
    assert seconds[-1][1:] == [1, 1, 0]


def test_counts_can_be_reset(fake):
    chat(fake)
    call_admin(fake, "calls", method="DELETE")
    assert call_admin(fake, "calls") == {
        "calls": 0,
        "answered": 0,
        "distinct": 0,
        "repeated": [],
        "connections": 0,
        "throttled": 0,
        "hung": 0,
        "open": 0,
        "most_open": 0,
        "by_status": {},
    }
    assert (call_admin(fake, "calls/keys"), call_admin(fake, "calls/seconds")) == ({}, [])


@contextmanager
def command_line(*options):
    command = [sys.executable, "-c", "from raft_spark.cli.main import main; main()", "fake-endpoint", *options]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, cwd=ROOT, text=True) as process:
        yield process
        process.kill()


def test_the_command_serves_until_ctrl_c_and_prints_how_to_use_it():
    with command_line("--container", "lmi", "--latency-ms", "0", "--retry-after", "4") as process:
        lines = [process.stdout.readline() for _ in range(12)]
        base = re.search(r"http://127\.0\.0\.1:\d+", lines[0])[0]
        runs = [re.findall(r"--set (\S+)", line) for line in lines if "--set" in line]
        kinds = [config.load((), assignments).teacher.kind for assignments in runs]
        assert kinds == ["openai", "sagemaker", "bedrock"]
        assert call_admin(base, "manner")["container"] == "lmi"
        call_admin(base, "behave", [{"fault": "half", "for_calls": 1}])
        with pytest.raises(http.client.IncompleteRead):
            chat(base)
        assert chat(base)[0] == 200
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=10)
        assert (process.returncode, output.strip(), errors) == (0, "", "")


def test_the_command_reports_invalid_options():
    with command_line("--tail-share", "2") as process:
        assert "tail_share is 2.0; it must be a number in 0..1" in process.communicate(timeout=20)[0]
        assert process.returncode == 2
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with command_line("--port", str(port)) as process:
            assert f"cannot listen on port {port} of 127.0.0.1" in process.communicate(timeout=20)[0]
            assert process.returncode == 4
