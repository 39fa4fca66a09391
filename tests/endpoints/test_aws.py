"""The clients of SageMaker and Bedrock: codecs, real botocore clients against loopback servers, secrets."""

import json
import socket
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import boto3
import pytest
from botocore.exceptions import EndpointConnectionError
from hypothesis import example, given
from hypothesis import strategies as st

from raft_spark.config import Endpoint
from raft_spark.endpoints import aws_errors, codecs, connect, converse, responses, serving
from raft_spark.endpoints.base import Reply, Request
from support.loopback_aws import Server, serve

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Does it work?"}
NOTEBOOK = {"temperature": 0.9, "top_p": 0.9, "max_tokens": 512}
GREEDY = {"temperature": 0.0, "top_p": 1.0, "max_tokens": 300}
READERS = (codecs.openai_reply, codecs.generate_reply, codecs.llama_reply, converse.reply)
TEXTS = st.text(st.characters(exclude_categories=()))  # with unpaired surrogates, which JSON may have
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=10,
)
KNOWN = [
    "generated_text",
    "details",
    "error",
    "generation",
    "stop_reason",
    "choices",
    "message",
    "content",
    "text",
    "usage",
    "stopReason",
    "output",
]
NEAR = st.recursive(
    ANYTHING | st.sampled_from(["stop", "length", "error", "end_turn", "max_tokens", "guardrail_intervened"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*KNOWN, "finish_reason", "prompt_tokens", "inputTokens"]), inner, max_size=5)
    ),
    max_leaves=12,
)


def text(**parameters: float) -> Request:
    return Request("Does it work?", "m", parameters)


def chat(**parameters: float) -> Request:
    return Request([SYSTEM, USER], "m", parameters)


# --- codecs: requests


@pytest.mark.row
def test_tgi_gets_the_request_of_the_notebook_and_three_options():
    assert codecs.generate_body(text(**NOTEBOOK)) == {
        "inputs": "Does it work?",
        "parameters": {
            "temperature": 0.9,
            "max_new_tokens": 512,
            "top_p": 0.9,
            "do_sample": True,
            "details": True,
            "return_full_text": False,
        },
    }


@pytest.mark.row
@pytest.mark.parametrize(
    ("parameters", "sent"),
    [
        (GREEDY, {"max_new_tokens": 300, "do_sample": False}),
        ({"temperature": 0.0, "top_p": 0.5, "max_tokens": 9}, {"max_new_tokens": 9, "do_sample": False}),
        (
            {"temperature": 1.0, "top_p": 1.0, "max_tokens": 9},
            {"temperature": 1.0, "max_new_tokens": 9, "do_sample": True},
        ),
        ({}, {"max_new_tokens": 512, "do_sample": False}),
    ],
)
def test_tgi_and_lmi_get_no_parameter_that_they_refuse_and_always_a_limit(parameters, sent):
    body = codecs.generate_body(text(**parameters))
    assert body["parameters"] == {**sent, "details": True, "return_full_text": False}


@pytest.mark.row
def test_an_openai_container_gets_a_chat_or_a_text():
    assert codecs.openai_body(chat(max_tokens=5)) == {"model": "m", "messages": [SYSTEM, USER], "max_tokens": 5}
    assert codecs.openai_body(Request("Why?", "", {"max_tokens": 5})) == {"prompt": "Why?", "max_tokens": 5}
    assert codecs.imported_body(chat(max_tokens=5)) == {"messages": [SYSTEM, USER], "max_tokens": 5}


@pytest.mark.row
def test_llama_gets_its_own_names():
    expected = {"prompt": "Does it work?", "max_gen_len": 512, "temperature": 0.9, "top_p": 0.9}
    assert codecs.llama_body(text(**NOTEBOOK)) == expected


@pytest.mark.row
def test_converse_gets_the_system_message_separately():
    assert converse.body(chat(**GREEDY)) == {
        "messages": [{"role": "user", "content": [{"text": "Does it work?"}]}],
        "system": [{"text": "Be brief."}],
        "inferenceConfig": {"maxTokens": 300, "temperature": 0.0},
    }
    assert converse.body(text(max_tokens=5)) == {
        "messages": [{"role": "user", "content": [{"text": "Does it work?"}]}],
        "inferenceConfig": {"maxTokens": 5},
    }


# --- codecs: answers


def generated(reason: str, said: str = "It does.") -> dict[str, object]:
    return {"generated_text": said, "details": {"finish_reason": reason, "generated_tokens": 3, "inputs": None}}


@pytest.mark.row
@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        ([generated("eos_token")], Reply("It does.", "stop", completion_tokens=3)),
        (generated("stop_sequence"), Reply("It does.", "stop", completion_tokens=3)),
        ([generated("length")], Reply("It does.", "length", completion_tokens=3)),
        ([{"generated_text": "It does."}], Reply("It does.", None)),
        ({"generated_text": "It does.", "details": None}, Reply("It does.", None)),
        (
            generated("eos_token", " "),
            Reply(error_class="empty", error="the answer is empty", completion_tokens=3),
        ),
        (
            {"generated_text": "", "details": {"finish_reason": "error", "generated_tokens": None}},
            Reply(error_class="model_error", error="the server stopped the answer: finish_reason is error"),
        ),
        (
            {"generated_text": "", "error": "CUDA out of memory"},
            Reply(error_class="model_error", error="the container failed in mid-answer: CUDA out of memory"),
        ),
        (
            {"error": "parameters is no object", "code": 424},
            Reply(error_class="model_error", error="the answer is an error: parameters is no object"),
        ),
        ([], Reply(error_class="model_error", error="the answer has no generated_text: []")),
    ],
)
def test_an_answer_of_tgi_or_lmi_is_read(answer, reply):
    assert codecs.generate_reply(answer) == reply


@pytest.mark.row
@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (
            {
                "generation": "It does.",
                "stop_reason": "stop",
                "prompt_token_count": 12,
                "generation_token_count": 3,
            },
            Reply("It does.", "stop", 12, 3),
        ),
        ({"generation": "It", "stop_reason": "length"}, Reply("It", "length")),
        ({"outputs": []}, Reply(error_class="model_error", error='the answer has no generation: {"outputs": []}')),
    ],
)
def test_an_answer_of_llama_is_read(answer, reply):
    assert codecs.llama_reply(answer) == reply


def conversed(reason: str, *blocks: dict[str, object]) -> dict[str, object]:
    message = {"role": "assistant", "content": list(blocks or ({"text": "It does."},))}
    used = {"inputTokens": 12, "outputTokens": 3, "totalTokens": 15}
    return {"output": {"message": message}, "stopReason": reason, "usage": used, "metrics": {"latencyMs": 5}}


def unconversed(error_class: str, error: str) -> Reply:
    return Reply(error_class=error_class, error=error, prompt_tokens=12, completion_tokens=3)


@pytest.mark.row
@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (conversed("end_turn"), Reply("It does.", "stop", 12, 3)),
        (conversed("stop_sequence"), Reply("It does.", "stop", 12, 3)),
        (conversed("max_tokens"), Reply("It does.", "length", 12, 3)),
        (conversed("model_context_window_exceeded"), Reply("It does.", "length", 12, 3)),
        (
            conversed(
                "end_turn", {"reasoningContent": {"reasoningText": {"text": "Hm"}}}, {"text": "It "}, {"text": "is"}
            ),
            Reply("It is", "stop", 12, 3),
        ),
        (
            conversed("guardrail_intervened"),
            unconversed("filtered", "Bedrock stopped the answer: guardrail_intervened"),
        ),
        (conversed("content_filtered"), unconversed("filtered", "Bedrock stopped the answer: content_filtered")),
        (
            conversed("malformed_model_output"),
            unconversed("model_error", "the model stopped with malformed_model_output"),
        ),
        (conversed("end_turn", {"image": {}}), unconversed("empty", "the answer is empty")),
        ({}, Reply(error_class="model_error", error="the answer has no stopReason: {}")),
    ],
)
def test_an_answer_of_converse_is_read(answer, reply):
    assert converse.reply(answer) == reply


@pytest.mark.row
@given(ANYTHING | NEAR)
@example({"error": "an unpaired surrogate: \ud83d"})
def test_any_json_becomes_a_completion_or_an_error(answer):
    for read in READERS:
        reply = read(answer)
        assert (reply.completion is None) != (reply.error is None)
        assert (reply.error is None) == (reply.error_class is None)
        (reply.completion or responses.one_line(reply.error)).encode()  # it can be stored


@pytest.mark.row
@given(st.binary())
def test_any_bytes_become_a_message(body):
    responses.one_line(responses.message_in(responses.parse_json(body)))


@pytest.mark.row
def test_a_count_beyond_32_bits_is_none():
    usage = {"prompt_tokens": 2**31, "completion_tokens": True}
    reply = codecs.openai_reply({"choices": [{"text": "x", "finish_reason": []}], "usage": usage})
    assert reply == Reply("x", None)


# --- the clients, over HTTP


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as loopback:
        yield loopback


def sagemaker(url: str, codec: str = "tgi", **more: str) -> Endpoint:
    fields = {"kind": "sagemaker", "endpoint_name": "teacher", "region": "us-east-1", "codec": codec, "url": url}
    return Endpoint(**{**fields, **more})


def bedrock(url: str, codec: str = "converse", **more: object) -> Endpoint:
    return Endpoint(**{"kind": "bedrock", "model": "m", "region": "us-east-1", "codec": codec, "url": url, **more})


def ask(conf: Endpoint, request: Request, seconds: float = 5.0) -> Reply:
    with closing(connect(conf, 2, seconds)) as client:
        return client.ask(request)


def test_sagemaker_is_called_by_the_name_of_its_endpoint(server):
    server.answers([generated("eos_token")])
    assert ask(sagemaker(server.url), text(**NOTEBOOK)) == Reply("It does.", "stop", completion_tokens=3)
    ((path, headers, body),) = server.seen
    assert path == "/endpoints/teacher/invocations"
    assert headers["content-type"] == headers["accept"] == "application/json"
    assert headers["x-amzn-sagemaker-inference-id"] == text(**NOTEBOOK).key
    assert "x-amzn-sagemaker-custom-attributes" not in headers
    assert json.loads(body)["inputs"] == "Does it work?"


def test_a_component_and_a_route_are_sent_if_set(server):
    server.answers({"choices": [{"text": "It does.", "finish_reason": "stop"}]})
    conf = sagemaker(server.url, "openai", inference_component="small", route="/v1/completions", model="m")
    assert ask(conf, text()).completion == "It does."
    headers = server.seen[0][1]
    assert headers["x-amzn-sagemaker-inference-component"] == "small"
    assert headers["x-amzn-sagemaker-custom-attributes"] == "route=/v1/completions"
    assert ask(sagemaker(server.url, "openai"), text()).completion == "It does."
    assert "x-amzn-sagemaker-custom-attributes" not in server.seen[1][1]  # the container recognizes it by the body


def test_converse_is_called_with_tier_and_metadata(server):
    server.answers(conversed("end_turn"))
    conf = bedrock(server.url, service_tier="flex", request_metadata={"team": "raft"})
    assert ask(conf, chat(**GREEDY)) == Reply("It does.", "stop", 12, 3)
    ((path, _, body),) = server.seen
    assert path == "/model/m/converse"
    assert json.loads(body) == {
        "messages": [{"role": "user", "content": [{"text": "Does it work?"}]}],
        "system": [{"text": "Be brief."}],
        "inferenceConfig": {"maxTokens": 300, "temperature": 0.0},
        "requestMetadata": {"team": "raft", "key": chat(**GREEDY).key},
        "serviceTier": {"type": "flex"},
    }


def test_an_imported_model_is_invoked(server):
    server.answers({"generation": "It does.", "stop_reason": "stop"})
    arn = "arn:aws:bedrock:us-east-1:123456789012:imported-model/abcdefghijkl"
    request = Request("Does it work?", arn, {"max_tokens": 5})
    assert ask(bedrock(server.url, "llama", model=arn), request) == Reply("It does.", "stop")
    ((path, headers, body),) = server.seen
    assert path == "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Aimported-model%2Fabcdefghijkl/invoke"
    assert json.loads(body) == {"prompt": "Does it work?", "max_gen_len": 5}
    assert not {"x-amzn-bedrock-service-tier", "x-amzn-bedrock-request-metadata"} & headers.keys()


def test_an_imported_model_may_use_openais_schema(server):
    server.answers({"choices": [{"message": {"content": "It does."}, "finish_reason": "length"}]})
    conf = bedrock(server.url, "openai", service_tier="default", request_metadata={"team": "raft"})
    assert ask(conf, chat(max_tokens=5)) == Reply("It does.", "length")
    _, headers, body = server.seen[0]
    assert json.loads(body) == {"messages": [SYSTEM, USER], "max_tokens": 5}
    assert headers["x-amzn-bedrock-service-tier"] == "default"
    assert json.loads(headers["x-amzn-bedrock-request-metadata"]) == {"team": "raft", "key": chat(max_tokens=5).key}


@pytest.mark.parametrize(
    ("conf", "limit"),
    [(sagemaker("http://127.0.0.1:9"), "6,291,456"), (bedrock("http://127.0.0.1:9", "llama"), "25,000,000")],
)
def test_what_is_too_large_is_not_sent(conf, limit):
    reply = ask(conf, Request("x" * 25_000_000, "m", {"max_tokens": 5}))
    assert reply.error_class == "bad_request"
    assert reply.error.startswith("the request has 25,000,")
    assert reply.error.endswith(f" bytes; the service takes at most {limit}")


def test_messages_are_not_sent_where_one_text_belongs():
    error = "codec tgi sends one text, but the prompt is a list of messages"
    assert ask(sagemaker("http://127.0.0.1:9"), chat()) == Reply(error_class="bad_request", error=error)


SAGEMAKER_ERRORS = [
    (400, "ThrottlingException", {"message": "Rate exceeded"}, "throttled", "ThrottlingException: Rate exceeded"),
    (429, "ModelNotReadyException", {"Message": "Loading"}, "throttled", "ModelNotReadyException: Loading"),
    (530, "InternalDependencyException", {"Message": "S3"}, "unavailable", "InternalDependencyException: S3"),
    (503, "ServiceUnavailable", {"Message": "Later"}, "throttled", "ServiceUnavailable: Later"),
    (500, "InternalFailure", {"Message": "Oh"}, "model_error", "InternalFailure: Oh"),
    (400, "ValidationError", {"Message": "Too odd"}, "bad_request", "ValidationError: Too odd"),
    (
        400,
        "ValidationError",
        {"Message": "Inference Component has no capacity to process this request."},
        "throttled",
        "ValidationError: Inference Component has no capacity to process this request.",
    ),
    (
        400,
        "ValidationError",
        {"Message": "Endpoint teacher of account 1 not found."},
        "refused",
        "ValidationError: Endpoint teacher of account 1 not found.",
    ),
    (
        403,
        "AccessDeniedException",
        {"Message": "User: x is not authorized"},
        "refused",
        "AccessDeniedException: User: x is not authorized",
    ),
    (403, "ExpiredTokenException", {"message": "Old"}, "refused", "ExpiredTokenException: Old"),
    (403, "UnrecognizedClientException", {"message": "Who?"}, "refused", "UnrecognizedClientException: Who?"),
    (400, "SomethingNew", {"message": ""}, "bad_request", "SomethingNew: AWS gave no reason"),
    (530, "SomethingNew", {"message": "a"}, "unavailable", "SomethingNew: a"),
    (502, "", b"<html><body>Bad</body></html>", "unavailable", "502: Bad Gateway"),
    (504, "", b"", "unavailable", "504: Gateway Timeout"),
    (429, "", b"slow down", "throttled", "429: slow down"),
]


@pytest.mark.parametrize(("status", "code", "body", "error_class", "error"), SAGEMAKER_ERRORS)
def test_every_error_of_aws_has_its_class(server, status, code, body, error_class, error):
    server.answers(body, status, code)
    assert ask(sagemaker(server.url), text()) == Reply(error_class=error_class, error=error)
    assert len(server.seen) == 1  # without a retry


@pytest.mark.parametrize(
    ("original", "error_class"),
    [
        (400, "bad_request"),
        (413, "bad_request"),
        (422, "bad_request"),
        (404, "refused"),
        (424, "model_error"),
        (429, "throttled"),
        (500, "model_error"),
        (503, "throttled"),
    ],
)
def test_the_status_of_the_container_decides(server, original, error_class):
    words = {
        "Message": f'Received server error ({original}) from primary with message "..."',
        "OriginalStatusCode": original,
        "OriginalMessage": '{"error":"no\\n luck","error_type":"x"}',
    }
    server.answers(words, 424, "ModelError")
    error = f"the model's container answered with status {original}: no luck"
    assert ask(sagemaker(server.url), text()) == Reply(error_class=error_class, error=error)


@pytest.mark.parametrize(
    ("original", "words", "error_class"),
    [
        (500, '{"error":"Model is overloaded","error_type":"overloaded"}', "throttled"),
        (424, '{"error":"out of capacity"}', "throttled"),
        (429, '{"error":{"code":"insufficient_quota","message":"the quota is used up"}}', "refused"),
    ],
)
def test_the_words_of_the_container_count_too(server, original, words, error_class):
    server.answers({"Message": "x", "OriginalStatusCode": original, "OriginalMessage": words}, 424, "ModelError")
    assert ask(sagemaker(server.url), text()).error_class == error_class


def test_a_container_that_is_too_slow_is_a_timeout(server):
    message = "Received server error (0) from primary with message: Your invocation timed out while waiting"
    server.answers({"Message": message, "OriginalStatusCode": 0, "OriginalMessage": ""}, 424, "ModelError")
    assert ask(sagemaker(server.url), text()).error_class == "timeout"


@pytest.mark.parametrize(
    ("status", "code", "message", "error_class"),
    [
        (408, "ModelTimeoutException", "Slow", "timeout"),
        (429, "ThrottlingException", "Too many tokens, please wait", "throttled"),
        (400, "ServiceQuotaExceededException", "Quota", "throttled"),
        (429, "ModelNotReadyException", "Waking", "throttled"),
        (500, "InternalServerException", "Oh", "model_error"),
        (503, "ServiceUnavailableException", "Later", "throttled"),
        (503, "ServiceUnavailableException", "Too many connections, please wait before trying again.", "throttled"),
        (500, "InternalServerException", "The system is overloaded", "throttled"),
        (429, "ThrottlingException", "Too many tokens per day, please wait before trying again.", "refused"),
        (400, "ValidationException", "This model version has reached the end of its life.", "refused"),
        (400, "ValidationException", "maxTokens is too large", "bad_request"),
        (400, "ValidationException", "The provided model identifier is invalid.", "refused"),
        (400, "ValidationException", "Invocation of m with on-demand throughput isn't supported.", "refused"),
        (404, "ResourceNotFoundException", "No such model", "refused"),
        (403, "AccessDeniedException", "You don't have access to the model", "refused"),
    ],
)
@pytest.mark.parametrize("codec", ["converse", "openai"])
def test_every_error_of_bedrock_has_its_class(server, codec, status, code, message, error_class):
    server.answers({"message": message}, status, code)
    assert ask(bedrock(server.url, codec), chat()) == Reply(error_class=error_class, error=f"{code}: {message}")


def test_the_status_behind_a_model_error_of_bedrock_decides(server):
    server.answers({"message": "Busy", "originalStatusCode": 429, "resourceName": "m"}, 424, "ModelErrorException")
    error = "the model's container answered with status 429: Busy"
    assert ask(bedrock(server.url), chat()) == Reply(error_class="throttled", error=error)
    server.answers({"message": "Broken"}, 424, "ModelErrorException")
    assert ask(bedrock(server.url), chat()) == Reply(error_class="model_error", error="ModelErrorException: Broken")


def test_retry_after_of_aws_is_read(server):
    server.answers({"message": "Wait"}, 429, "ThrottlingException", **{"Retry-After": "7"})
    assert ask(bedrock(server.url), chat()).retry_after == 7.0


@pytest.mark.parametrize(
    "answer", [[], [1], "text", 5, None, {"output": []}, {"usage": {"inputTokens": "x"}}, b"<html>"]
)
@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("codec", ["converse", "llama"])
def test_an_answer_of_another_schema_is_an_error(server, answer, status, codec):
    server.answers(answer, status)
    reply = ask(bedrock(server.url, codec), text())
    assert (reply.completion, reply.error_class) == (None, "model_error")
    assert 0 < len(reply.error) <= 300


def test_a_server_that_hangs_is_a_timeout(server):
    server.fault = "hang"
    for conf in (sagemaker(server.url), bedrock(server.url)):
        start = time.monotonic()
        assert ask(conf, text(), 0.3) == Reply(error_class="timeout", error="no answer within 0.3 s")
        assert time.monotonic() - start < 4
    assert len(server.seen) == 2


def test_the_timeout_covers_the_whole_answer(server):
    server.answers([generated("eos_token")])
    server.fault = "trickle"
    for conf in (sagemaker(server.url), bedrock(server.url)):
        start = time.monotonic()
        assert ask(conf, text(), 0.4) == Reply(error_class="timeout", error="no answer within 0.4 s")
        assert time.monotonic() - start < 1.5


def test_a_call_may_have_less_time_than_the_client(server):
    server.fault = "hang"
    for conf in (sagemaker(server.url), bedrock(server.url)):
        with closing(connect(conf, 2, 120.0)) as client:
            assert client.ask(text(), 0.3) == Reply(error_class="timeout", error="no answer within 0.3 s")


def test_an_answer_that_breaks_off_is_unavailable(server):
    server.answers([generated("eos_token")])
    server.fault = "drop"
    reply = ask(sagemaker(server.url), text())
    assert reply.error_class == "unavailable"
    assert reply.is_cut_off
    assert reply.error.startswith("no answer: ")


def test_a_refused_connection_is_unavailable_at_once():
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    start = time.monotonic()
    reply = ask(bedrock(url), text(), 60.0)
    assert reply.error_class == "unavailable"
    assert not reply.is_cut_off
    assert (
        reply.error
        == f"no answer: could not connect to {url}: Failed to establish a new connection: [Errno 111] Connection refused"
    )
    assert time.monotonic() - start < 3


def test_many_threads_share_a_client(server):
    server.answers([generated("eos_token")])
    with closing(connect(sagemaker(server.url), 4, 120.0)) as client, ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda number: client.ask(text(max_tokens=number), 5 + number), range(1, 33)))
    assert {reply.completion for reply in replies} == {"It does."}
    assert len(server.seen) == 32


@pytest.mark.row
def test_an_error_is_one_short_line():
    lost = EndpointConnectionError(endpoint_url="http://" + "x" * 400, error="a\nb")
    assert len(aws_errors.reply(lost, 5.0).error) == 300


# --- credentials and settings


@pytest.fixture
def no_credentials(monkeypatch, tmp_path):
    """Remove every source of AWS credentials."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return monkeypatch


def test_missing_credentials_are_refused(no_credentials):
    error = "no AWS credentials were found: set AWS_PROFILE or AWS_ACCESS_KEY_ID, or use a role"
    assert ask(sagemaker("http://127.0.0.1:9"), text()) == Reply(error_class="refused", error=error)


def test_a_missing_region_is_refused(no_credentials):
    error = "no AWS region is set: set endpoints.NAME.region, or AWS_REGION where the job runs"
    assert ask(Endpoint(kind="bedrock", model="m"), chat()) == Reply(error_class="refused", error=error)


def test_a_region_may_come_from_the_environment_of_the_job(no_credentials):
    no_credentials.setenv("AWS_REGION", "eu-west-1")
    assert ask(Endpoint(kind="bedrock", model="m"), chat()).error.startswith("no AWS credentials were found")


def test_an_unknown_profile_is_refused(no_credentials):
    no_credentials.setenv("AWS_PROFILE", "gone")
    reply = ask(bedrock("http://127.0.0.1:9"), chat())
    assert reply == Reply(error_class="refused", error="The config profile (gone) could not be found")


def test_an_incomplete_credential_is_refused(no_credentials):
    no_credentials.setenv("AWS_ACCESS_KEY_ID", "half")
    reply = ask(bedrock("http://127.0.0.1:9"), chat())
    assert reply.error_class == "refused"
    assert "AWS_SECRET_ACCESS_KEY" in reply.error


def test_credentials_are_removed_from_errors(server):
    message = (
        "The signature of ASIAIOSFODNN7EXAMPLE does not match.\n\nThe Canonical String for this request should have been\n"
        "'POST\nx-amz-security-token:IQoJb3JpZ2luX2VjEXAMPLE'"
    )
    server.answers({"message": message}, 403, "InvalidSignatureException")
    error = "InvalidSignatureException: The signature of *** does not match."
    assert ask(bedrock(server.url), chat()) == Reply(error_class="refused", error=error)


def test_an_endpoint_of_aws_starts_no_server():
    conf = Endpoint(kind="sagemaker", endpoint_name="teacher")
    with serving(conf) as served:
        assert served is conf


@pytest.mark.row
def test_keys_and_bodies_fit_the_limits_of_the_service():
    runtime = boto3.client("sagemaker-runtime", region_name="us-east-1").meta.service_model
    fields = runtime.operation_model("InvokeEndpoint").input_shape.members
    assert len(text().key) <= fields["InferenceId"].metadata["max"]
    assert fields["Body"].metadata["max"] == 6_291_456
    bedrock_runtime = boto3.client("bedrock-runtime", region_name="us-east-1").meta.service_model
    assert bedrock_runtime.operation_model("InvokeModel").input_shape.members["body"].metadata["max"] == 25_000_000
    with pytest.raises(ValueError, match="route"):
        sagemaker("http://127.0.0.1:9", "openai", route="/v1/" + "x" * 1100)


# --- the key of an OpenAI server, kept in Secrets Manager


@pytest.fixture
def endpoint_with_secret(s3, monkeypatch):
    """Return a function that stores a secret and returns an endpoint that uses it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)

    def store(url: str, entry: str, **secret: object) -> Endpoint:
        if secret:
            boto3.client("secretsmanager", region_name="eu-west-1").create_secret(Name=entry, **secret)
        return Endpoint(kind="openai", url=f"{url}/v1", model="m", region="eu-west-1", api_key_secret=entry)

    return store


@pytest.mark.parametrize(
    ("entry", "secret"),
    [
        ("plain", "sk-0123456789\n"),
        ("named", '{"user": "me", "api_key": "sk-0123456789"}'),
        ("only", '{"OPENAI": "sk-0123456789"}'),
    ],
)
def test_a_key_comes_from_secrets_manager(server, endpoint_with_secret, entry, secret):
    server.answers({"choices": [{"message": {"content": "It does."}}]})
    request = chat()
    assert ask(endpoint_with_secret(server.url, entry, SecretString=secret), request).completion == "It does."
    headers = server.seen[0][1]
    assert headers["authorization"] == "Bearer sk-0123456789"
    assert headers["idempotency-key"] == request.key


@pytest.mark.parametrize(
    ("entry", "secret"),
    [
        ("two", {"SecretString": '{"a": "sk-0123456789", "b": "sk-0123456789"}'}),
        ("number", {"SecretString": '{"api_key": 5}'}),
        ("empty", {"SecretString": " "}),
        ("bytes", {"SecretBinary": b"sk-0123456789"}),
    ],
)
def test_a_secret_without_a_key_is_refused(server, endpoint_with_secret, entry, secret):
    reply = ask(endpoint_with_secret(server.url, entry, **secret), chat())
    error = f"the secret {entry}, named by api_key_secret, must contain a key, as text or as api_key of a JSON object"
    assert reply == Reply(error_class="refused", error=error)
    assert server.seen == []


@pytest.mark.parametrize(
    ("entry", "key", "reason"),
    [
        ("lines", "sk-0123456789\nsk-0123456789", "it holds a line break"),
        (
            "bearer",
            "Bearer sk-0123456789",
            'it begins with "Bearer" or "Authorization:", which raft-spark adds by itself; remove that',
        ),
    ],
)
def test_a_key_of_a_secret_that_cannot_be_sent_is_refused(server, endpoint_with_secret, entry, key, reason):
    reply = ask(endpoint_with_secret(server.url, entry, SecretString=key), chat())
    error = f"the secret {entry}, named by api_key_secret, has no valid key: {reason}"
    assert reply == Reply(error_class="refused", error=error)
    assert server.seen == []


def test_a_missing_secret_is_refused(server, endpoint_with_secret):
    reply = ask(endpoint_with_secret(server.url, "gone"), chat())
    assert reply.error_class == "refused"
    assert reply.error.startswith(
        "the secret gone, named by api_key_secret, cannot be read: ResourceNotFoundException: "
    )


def test_a_key_is_in_no_repr_error_or_traceback(server, endpoint_with_secret):
    conf = endpoint_with_secret(server.url, "told", SecretString="sk-0123456789")
    server.answers({"error": {"message": "Incorrect API key provided: sk-0123456789"}}, 401)
    with closing(connect(conf, 1, 5.0)) as client:
        reply = client.ask(chat())
        assert reply == Reply(error_class="refused", error="status 401: Incorrect API key provided: ***")
        texts = [repr(client), str(vars(conf)), repr(reply)]
        try:
            client.ask(Request(object(), "m", {}))  # an invalid request, which raises
        except TypeError:
            texts.append(traceback.format_exc())
    assert len(texts) == 4
    assert "sk-0123456789" not in "".join(texts)


def test_the_name_of_an_endpoint_is_the_model_in_keys_and_not_in_bodies():
    own = Endpoint(kind="sagemaker", endpoint_name="mine", codec="openai")
    assert own.model == "mine"
    assert Endpoint(kind="sagemaker", endpoint_name="mine", inference_component="part").model == "part"
    assert Endpoint(kind="sagemaker", endpoint_name="mine", model="llama").model == "llama"
    sent: list[bytes] = []
    with closing(
        connect(own.model_copy(update={"region": "us-east-1", "url": "http://127.0.0.1:9"}), 1, 10.0)
    ) as client:
        client._connection.ask = lambda call, *_: sent.append(call.body)
        for model in ("mine", "llama"):
            client.ask(replace(chat(), model=model))
    assert [json.loads(body).get("model") for body in sent] == [None, "llama"]
