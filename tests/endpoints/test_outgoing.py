"""What goes out: the fields of each protocol, what a model family takes, and what the settings change about it."""

import json
import os
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft_spark import config
from raft_spark.config import Endpoint
from raft_spark.endpoints import codecs, connect, converse, outgoing
from raft_spark.endpoints.base import BodyChanges, Request
from raft_spark.recipe import prompts
from support import aws_model
from support.posts import received

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
DEFAULTS = {"temperature": 0.0, "top_p": 1.0, "max_tokens": 512}
HAIKU = "us.anthropic.claude-haiku-4-5-20251001-v1:0"
row = pytest.mark.row


def request(model: str = "m", prompt: object = MESSAGES, parameters: dict[str, float] = DEFAULTS, **changes) -> Request:
    return Request(prompt, model, parameters, BodyChanges(**changes))


def fields(body: dict[str, object]) -> dict[str, object]:
    """Return what a body has in addition to the model and the prompt."""
    return {name: value for name, value in body.items() if name not in ("model", "messages", "prompt", "inputs")}


# The protocols


@row
def test_fields_are_added_left_out_and_renamed_over_openai():
    changes = {
        "add": {"seed": 1, "response_format": {"type": "json_object"}, "reasoning_effort": "low"},
        "leave_out": ("temperature",),
        "rename": {"max_tokens": "max_completion_tokens"},
    }
    assert fields(codecs.openai_body(request(**changes))) == {
        "max_completion_tokens": 512,
        "seed": 1,
        "response_format": {"type": "json_object"},
        "reasoning_effort": "low",
    }


@row
def test_an_added_field_replaces_the_same_field():
    assert fields(codecs.openai_body(request(add={"temperature": 1, "top_p": 1.0}))) == {
        "temperature": 1,
        "top_p": 1.0,
        "max_tokens": 512,
    }


@row
def test_tgi_and_lmi_have_added_fields_among_their_parameters():
    sent = codecs.generate_body(
        request(prompt="Why?", add={"top_k": 5, "details": False}, leave_out=("return_full_text",))
    )
    assert sent == {
        "inputs": "Why?",
        "parameters": {"max_new_tokens": 512, "do_sample": False, "details": False, "top_k": 5},
    }
    unlimited = codecs.generate_body(request(prompt="Why?", leave_out=("max_tokens", "details")))
    assert unlimited["parameters"] == {"do_sample": False, "return_full_text": False}


@row
def test_llama_s_own_names_are_renamed_and_left_out_too():
    assert fields(codecs.llama_body(request("imported", "Why?", rename={"max_tokens": "max_tokens"}))) == {
        "max_tokens": 512,
        "temperature": 0.0,
    }
    assert fields(codecs.llama_body(request("imported", "Why?", leave_out=("max_tokens",)))) == {"temperature": 0.0}


@row
def test_converse_takes_what_only_the_model_knows_as_an_argument_of_its_own():
    added = {
        "additionalModelRequestFields": {"top_k": 5, "thinking": {"type": "disabled"}},
        "performanceConfig": {"latency": "optimized"},
        "inferenceConfig": {"stopSequences": ["END"]},
    }
    body = converse.body(request(HAIKU, add=added))
    assert body == {
        "messages": [{"role": "user", "content": [{"text": "Why?"}]}],
        "system": [{"text": "Be brief."}],
        "inferenceConfig": {"maxTokens": 512, "temperature": 0.0, "stopSequences": ["END"]},
        "additionalModelRequestFields": {"top_k": 5, "thinking": {"type": "disabled"}},
        "performanceConfig": {"latency": "optimized"},
    }
    assert not aws_model.problems("bedrock-runtime", "Converse", {"modelId": HAIKU, **body})
    assert json.loads(converse.batch_line("0a", request(HAIKU, add=added)))["modelInput"] == body


# Model families


@row
@pytest.mark.parametrize(
    ("model", "temperature", "top_p", "sent"),
    [
        ("m", 0.0, 1.0, {"temperature": 0.0}),
        ("m", 0.7, 1.0, {"temperature": 0.7}),
        ("m", 0.7, 0.9, {"temperature": 0.7, "top_p": 0.9}),
        (HAIKU, 0.0, 1.0, {"temperature": 0.0}),
        (HAIKU, 0.9, 0.9, {"temperature": 0.9}),
        (HAIKU, 1.0, 0.9, {"top_p": 0.9}),
        ("anthropic.claude-sonnet-4-5-20250929-v1:0", 0.9, 0.9, {"temperature": 0.9}),
        ("claude-opus-4.1", 0.9, 0.9, {"temperature": 0.9}),
        ("anthropic/claude-4.5-sonnet", 0.9, 0.9, {"temperature": 0.9}),
        ("claude-opus-4-7", 0.9, 0.9, {}),
        ("global.anthropic.claude-sonnet-5-20260901-v1:0", 0.0, 1.0, {}),
        ("anthropic.claude-3-5-sonnet-20241022-v2:0", 0.9, 0.9, {"temperature": 0.9, "top_p": 0.9}),
        ("claude-sonnet-4-20250514", 0.9, 0.9, {"temperature": 0.9, "top_p": 0.9}),
        ("amazon.nova-lite-v1:0", 0.0, 1.0, {"temperature": 0.0}),
        ("amazon.nova-lite-v1:0", 0.7, 1.0, {"temperature": 0.7, "top_p": 1.0}),
        ("us.meta.llama3-1-70b-instruct-v1:0", 0.7, 1.0, {"temperature": 0.7, "top_p": 1.0}),
        ("openai.gpt-oss-120b-1:0", 0.7, 0.9, {"temperature": 0.7, "top_p": 0.9}),
        ("gpt-4o-mini", 0.7, 0.9, {"temperature": 0.7, "top_p": 0.9}),
        ("o3-mini", 0.7, 0.9, {}),
        ("openai/gpt-5-mini", 0.0, 1.0, {}),
        ("openai.gpt-5.4-v1:0", 0.0, 1.0, {}),
        ("o3-deep-research-2025-06-26", 0.7, 0.9, {}),
        ("gpt-5-chat-latest", 0.7, 0.9, {"temperature": 0.7, "top_p": 0.9}),
    ],
)
def test_a_model_gets_the_sampling_parameters_that_it_takes(model, temperature, top_p, sent):
    parameters = {"temperature": temperature, "top_p": top_p}
    assert fields(codecs.openai_body(request(model, parameters=parameters))) == sent
    ours = {"temperature": "temperature", "topP": "top_p"}
    limits = converse.body(request(model, parameters=parameters))["inferenceConfig"]
    assert {ours[name]: value for name, value in limits.items()} == sent


@row
@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gpt-5", "max_completion_tokens"),
        ("o4-mini-2025-04-16", "max_completion_tokens"),
        ("gpt-4o", "max_tokens"),
        ("openai.gpt-oss-20b-1:0", "max_tokens"),
        ("olmo-2", "max_tokens"),
    ],
)
def test_a_reasoning_model_of_openai_gets_its_limit_by_another_name(model: str, name: str):
    assert name in codecs.openai_body(request(model))


@row
def test_a_setting_comes_before_the_rule_of_a_family():
    assert fields(codecs.openai_body(request("o3", add={"temperature": 1}))) == {
        "temperature": 1,
        "max_completion_tokens": 512,
    }
    assert "max_tokens" in codecs.openai_body(request("gpt-5", rename={"max_tokens": "max_tokens"}))
    sampled = {"temperature": 0.7, "top_p": 0.9}
    assert fields(codecs.openai_body(request(HAIKU, parameters=sampled, leave_out=("temperature",)))) == {"top_p": 0.9}


@row
def test_every_model_with_a_price_is_asked_with_what_it_takes():
    priced = [name for name, price in config.load().prices.items() if price.is_known and not price.hourly_price]
    claude = [name for name in priced if "claude" in name]
    assert len(priced) == 18
    assert claude == ["anthropic.claude-haiku-4-5-20251001-v1:0", "us.anthropic.claude-haiku-4-5-20251001-v1:0"]
    for name in priced:
        limits = converse.body(request(name, parameters={"temperature": 0.9, "top_p": 0.9, "max_tokens": 9}))
        assert limits["inferenceConfig"] == {"maxTokens": 9, "temperature": 0.9} | ({"topP": 0.9} if name not in claude else {})  # fmt: skip


# Keys


@row
def test_what_is_set_is_part_of_the_key_and_what_a_family_takes_is_not():
    assert request().key == Request(MESSAGES, "m", DEFAULTS).key
    changed = [
        request(add={"seed": 1}),
        request(add={"seed": 2}),
        request(leave_out=("temperature",)),
        request(leave_out=("max_tokens",)),
        request(rename={"max_tokens": "max_completion_tokens"}),
    ]
    assert len({each.key for each in [request(), *changed]}) == 6
    # printf '{"changes":{"add":{"seed":1}},"model":"m","parameters":{"max_tokens":5},"prompt":"hi"}' | sha256sum | cut -c 1-32
    assert Request("hi", "m", {"max_tokens": 5}, BodyChanges({"seed": 1})).key == "56490660c1c8530895949c3a7454cffc"


@row
def test_a_renamed_limit_is_still_the_limit_and_one_left_out_is_none():
    renamed = request(rename={"max_tokens": "max_completion_tokens"})
    larger = request(parameters={**DEFAULTS, "max_tokens": 999}, rename={"max_tokens": "max_completion_tokens"})
    assert renamed.max_tokens == 512
    assert renamed.key != larger.key
    assert renamed.key_without_max_tokens == larger.key_without_max_tokens
    assert request(leave_out=("max_tokens",)).max_tokens == 0


json_values = st.recursive(
    st.booleans() | st.integers(-9, 9) | st.text("ab", max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("xyz", min_size=1), inner, max_size=3),
    max_leaves=6,
)


@row
@given(st.dictionaries(st.text("uvw", min_size=1), json_values, max_size=3))
def test_any_added_field_reaches_the_body_and_the_order_of_fields_is_no_part_of_the_key(added: dict[str, object]):
    body = codecs.openai_body(request(add=added))
    assert {name: body[name] for name in added} == added
    assert request(add=added).key == request(add=dict(reversed(added.items()))).key


# The system text


@row
@pytest.mark.parametrize("template", ["chat", "llama3"])
def test_a_system_text_begins_the_user_s_turn_of_a_model_without_a_system_turn(template: str):
    conf = config.load(assignments=["completions.system=user", f"completions.template={template}"])
    usual = config.load(assignments=[f"completions.template={template}"])
    asked, before = (prompts.teacher_request("Why?", "It was.", "m", each.teacher_requests) for each in (conf, usual))
    assert asked.key != before.key
    if template == "chat":
        (user,) = asked.prompt
        assert user["role"] == "user"
        assert user["content"].startswith("You answer questions about medical research.")
        assert user["content"].endswith('say "I don\'t know".\n\nContext: It was.\n\nQuestion: Why?')
    else:
        assert asked.prompt.count("<|start_header_id|>") == 2
        assert asked.prompt.startswith("<|start_header_id|>user<|end_header_id|>\n\nYou answer questions")
    student = prompts.student_messages("Why?", ["It was."], conf.completions)
    assert [turn["role"] for turn in student] == ["system", "user"]  # a dataset is as it was


# On the wire


def sent_and_described(conf: Endpoint, asked: Request, answer: object) -> tuple[object, outgoing.OutgoingCall]:
    with received(answer) as server:
        conf = conf.model_copy(update={"url": server.url + ("/v1" if conf.kind == "openai" else "")})
        described = outgoing.describe(conf, asked)
        with closing(connect(conf, 1, 5.0)) as client:
            assert client.ask(asked).completion == "It does."
    return server.posts[0], described


CHAT = {"choices": [{"message": {"content": "It does."}, "finish_reason": "stop"}]}
CONVERSED = {"output": {"message": {"role": "assistant", "content": [{"text": "It does."}]}}, "stopReason": "end_turn"}


@pytest.mark.parametrize(
    ("section", "asked", "answer"),
    [
        (
            {"kind": "openai", "model": "m", "headers": {"x-title": "trial"}, "query": {"api-version": "2024-10-21"}},
            request(add={"seed": 1}),
            CHAT,
        ),
        ({"kind": "openai", "model": "m"}, request(prompt="Why?"), {"choices": [{"text": "It does.", "finish_reason": "stop"}]}),
        ({"kind": "openai", "model": "m", "api_key_env": "TEACHER_KEY", "api_key_header": "api-key"}, request(), CHAT),
        (
            {"kind": "bedrock", "model": HAIKU, "service_tier": "flex"},
            request(HAIKU, add={"additionalModelRequestFields": {"top_k": 5}}),
            CONVERSED,
        ),
        ({"kind": "bedrock", "model": "imported", "codec": "openai"}, request("imported", add={"seed": 1}), CHAT),
        (
            {"kind": "sagemaker", "endpoint_name": "e", "codec": "tgi"},
            request("e", "Why?", add={"top_k": 5}),
            {"generated_text": "It does."},
        ),
        (
            {"kind": "sagemaker", "endpoint_name": "e", "codec": "openai", "route": "/v1/chat", "inference_component": "c"},
            request("c"),
            CHAT,
        ),
    ],
)  # fmt: skip
def test_what_a_preview_shows_is_what_the_server_gets(section, asked, answer, monkeypatch):
    for name, value in {
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_DEFAULT_REGION": "us-east-1",
        "TEACHER_KEY": "sk-1234",
    }.items():
        monkeypatch.setenv(name, value)
    conf = Endpoint.model_validate({**section, "url": "http://127.0.0.1:1"})
    post, described = sent_and_described(conf, asked, answer)
    assert described.url.endswith(post.path)
    assert dict(described.body) == json.loads(post.body)
    assert "sk-1234" not in str(described)
    for name, value in described.headers.items():
        assert post.headers[name.lower()] == value or value.endswith("***")
    assert os.environ["TEACHER_KEY"] not in post.headers.get("authorization", "")


def test_a_key_goes_out_in_the_header_that_the_settings_name(monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", "sk-1234")
    for header, value in (("Authorization", "Bearer sk-1234"), ("api-key", "sk-1234")):
        section = {"kind": "openai", "model": "m", "api_key_env": "TEACHER_KEY", "api_key_header": header}
        conf = Endpoint.model_validate({**section, "url": "http://127.0.0.1:1"})
        post, described = sent_and_described(conf, request(), CHAT)
        assert post.headers[header.lower()] == value
        assert described.headers[header] == value.replace("sk-1234", "***")


def test_headers_and_query_go_out_beside_the_body():
    section = {"kind": "openai", "model": "m", "headers": {"x-title": "trial"}, "query": {"api-version": "2024-10-21", "a b": "é"}}  # fmt: skip
    post, described = sent_and_described(
        Endpoint.model_validate({**section, "url": "http://127.0.0.1:1"}), request(), CHAT
    )
    assert post.path == "/v1/chat/completions?api-version=2024-10-21&a+b=%C3%A9"
    assert post.headers["x-title"] == "trial"
    assert fields(described.body) == {"temperature": 0.0, "max_tokens": 512}


@row
def test_the_name_of_an_endpoint_is_not_sent_but_says_which_family_its_model_is_of():
    conf = Endpoint.model_validate({"kind": "sagemaker", "endpoint_name": "llama-3-1-8b", "codec": "openai"})
    sampled = {"temperature": 0.7, "top_p": 1.0}
    body = codecs.sagemaker_body(request("llama-3-1-8b", parameters=sampled), conf)
    assert body == {"messages": MESSAGES, **sampled}
    assert codecs.sagemaker_body(request("other", parameters=sampled), conf)["model"] == "other"
