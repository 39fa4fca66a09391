"""Embedding a text: the fields of each protocol, what comes back as the vector, what is no vector."""

import base64
import json
import struct
from contextlib import closing

import boto3
import pytest
from botocore.config import Config
from hypothesis import given
from hypothesis import strategies as st

from raft_spark.config import Endpoint
from raft_spark.endpoints import aws, connect, embeddings, failures, outgoing
from raft_spark.endpoints.base import BodyChanges, Reply, Request
from support import aws_model

row = pytest.mark.row
TITAN = "amazon.titan-embed-text-v2:0"
VECTOR = "AACAPwAAAMAAAAA/"  # 1.0, -2.0 and 0.5: 0000803f 000000c0 0000003f
READERS = (embeddings.openai_reply, embeddings.titan_reply)


def request(text: str, model: str = "m", **added: object) -> Request:
    return Request(text, model, {}, BodyChanges(added), is_embedding=True)


def ask(conf: Endpoint, text: str, **added: object) -> Reply:
    with closing(connect(conf, 2, 5.0)) as client:
        return client.ask(request(text, conf.model, **added))


def numbers(reply: Reply) -> tuple[float, ...]:
    data = base64.b64decode(reply.completion or "")
    return struct.unpack(f"<{len(data) // 4}f", data)


# The calls


@row
def test_openai_gets_a_model_and_a_text():
    conf = Endpoint(kind="openai", url="http://10.0.0.5/v1", model="text-embedding-3-small")
    call = outgoing.describe(conf, request("Why?", conf.model, dimensions=256))
    assert call.url == "http://10.0.0.5/v1/embeddings"
    assert call.body == {"model": "text-embedding-3-small", "input": "Why?", "dimensions": 256}
    assert call.headers["Idempotency-Key"] == request("Why?", conf.model, dimensions=256).key


@row
def test_titan_gets_a_text_through_invoke_model():
    conf = Endpoint(kind="bedrock", model=TITAN, region="us-east-1", parameters={"dimensions": 512, "normalize": True})
    assert conf.codec == "titan"
    call = outgoing.describe(conf, request("Why?", TITAN, **conf.parameters))
    assert call.url == "https://bedrock-runtime.us-east-1.amazonaws.com/model/amazon.titan-embed-text-v2%3A0/invoke"
    assert call.body == {"inputText": "Why?", "dimensions": 512, "normalize": True}
    body = aws.bedrock_call(conf, request("Why?", TITAN)).body
    arguments = {"modelId": TITAN, "body": body, "contentType": "application/json", "accept": "application/json"}
    assert not aws_model.problems("bedrock-runtime", "InvokeModel", arguments)


@row
def test_the_key_of_an_embedding_is_that_of_no_other_request():
    assert request("Why?").key == request("Why?").key_without_max_tokens
    others = [Request("Why?", "m", {}), request("Why?", "n"), request("Why?", dimensions=256), request("Who?")]
    assert len({each.key for each in [request("Why?"), *others]}) == 5


# The answers


@row
@pytest.mark.parametrize("vector", [[1.0, -2, 0.5], VECTOR])
def test_a_vector_is_stored_as_base64_of_float32_whatever_it_came_as(vector: object):
    answer = {"data": [{"index": 0, "embedding": vector}], "usage": {"prompt_tokens": 7, "total_tokens": 7}}
    assert embeddings.openai_reply(answer) == Reply(VECTOR, "stop", prompt_tokens=7, completion_tokens=0)


@row
def test_a_vector_of_titan_is_stored_in_the_same_way():
    answer = {"embedding": [1.0, -2, 0.5], "inputTextTokenCount": 7, "embeddingsByType": {"float": [1.0, -2, 0.5]}}
    assert embeddings.titan_reply(answer) == Reply(VECTOR, "stop", prompt_tokens=7, completion_tokens=0)


@row
@pytest.mark.parametrize(
    "vector",
    [[], [0, 0.0], [1, float("nan")], [1, 1e39], [1, "2"], [1, None], "AACAPw=", "AAA=", "no base64", [1.0] * 16_385],
)
def test_what_is_no_vector_is_a_failure_that_is_asked_again(vector: object):
    reply = embeddings.openai_reply({"data": [{"embedding": vector}]})
    assert reply.completion is None
    assert reply.error_class == "model_error"


@row
@given(st.recursive(st.none() | st.floats() | st.text(max_size=9), lambda one: st.lists(one) | st.dictionaries(st.sampled_from(["data", "embedding", "usage", "error"]), one)))  # fmt: skip
def test_whatever_a_server_sends_is_a_vector_or_an_error(answer: object):
    for read in READERS:
        reply = read(answer)
        assert (reply.completion is None) == (reply.error_class is not None)


# Over HTTP


def test_the_fake_server_embeds_like_texts_alike(fake: Endpoint):
    one, other, far = (
        numbers(ask(fake, text)) for text in ("Ice melts at 0 degrees.", "ice melts at 4 degrees.", "Why not?")
    )
    assert sum(a * b for a, b in zip(one, other, strict=True)) == pytest.approx(4 / 5)
    assert sum(a * b for a, b in zip(one, far, strict=True)) == 0
    assert numbers(ask(fake, "Ice melts at 0 degrees.", encoding_format="base64")) == one
    assert len(numbers(ask(fake, "Ice melts.", dimensions=64))) == 64


def test_a_text_that_is_too_long_is_refused_and_nothing_is_cut(fake: Endpoint):
    reply = ask(fake, "word " * 9000)
    assert reply.error_class == "bad_request"
    assert "maximum context length is 8192 tokens" in str(reply.error)


def test_titan_s_call_is_answered_as_boto3_answers_it(fake: Endpoint):
    url = fake.url.removesuffix("/v1")
    reply = ask(Endpoint(kind="bedrock", model=TITAN, region="us-east-1", url=url), "Ice melts at 0 degrees.")
    with closing(boto3.client("bedrock-runtime", endpoint_url=url, config=Config(inject_host_prefix=False))) as client:
        body = json.dumps({"inputText": "Ice melts at 0 degrees."})
        answer = json.loads(client.invoke_model(modelId=TITAN, body=body)["body"].read())
    assert reply.prompt_tokens == answer["inputTextTokenCount"] == 5
    assert numbers(reply) == pytest.approx(answer["embedding"])


@row
def test_a_text_that_llama_cpp_cannot_embed_is_a_failure_of_that_text():
    said = {"error": {"code": 500, "message": "input is too large to process. increase the physical batch size"}}
    assert failures.error_class(500, said) == "bad_request"
