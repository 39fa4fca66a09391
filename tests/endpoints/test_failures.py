"""Errors as the providers send them: their class, how long they ask to wait, and answers that hold an error or no end."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft_spark.endpoints import codecs, converse, failures, responses
from raft_spark.endpoints.base import Reply

pytestmark = pytest.mark.row

TEXT = "Yes, the drug lowered the pressure."
ERRORS: list[tuple[int, Any, str]] = [
    # too busy
    (429, {"error": {"message": "Rate limit reached for gpt-4o on tokens per min (TPM): Limit 30000"}}, "throttled"),
    (429, {"error": {"code": "429", "message": "Requests have exceeded call rate limit of your tier"}}, "throttled"),
    (429, {"object": "error", "message": "Requests rate limit exceeded", "code": "1300"}, "throttled"),
    (503, {"error": {"message": "The engine is currently overloaded"}}, "throttled"),
    (503, "<html>upstream connect error</html>", "throttled"),
    (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "throttled"),
    (500, {"error": {"message": "Model is overloaded"}}, "throttled"),
    (500, {"error": "Model is overloaded", "error_type": "overloaded"}, "throttled"),
    (500, {"error": {"message": "we are at capacity right now"}}, "throttled"),
    (500, {"error": {"message": "queue is full"}}, "throttled"),
    (500, {"error": {"message": "Too many connections"}}, "throttled"),
    (500, {"error": "server busy, please try again. maximum pending requests exceeded"}, "throttled"),
    (500, {"error": {"message": "litellm.RateLimitError: GroqException", "code": "429"}}, "throttled"),
    (500, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}, "throttled"),
    (500, "the model is not ready yet", "throttled"),
    (500, "no healthy upstream", "throttled"),
    (200, {"error": {"message": "Provider returned error", "code": 429}}, "throttled"),
    (200, {"error": {"message": "Rate limit exceeded"}}, "throttled"),
    (200, [{"error": {"code": 503, "status": "UNAVAILABLE", "message": "The model is overloaded."}}], "throttled"),
    (200, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "throttled"),
    (200, {"choices": [{"error": {"code": 502, "message": "rate limited"}, "finish_reason": "error"}]}, "unavailable"),
    # a limit that waiting does not free
    (429, {"error": {"code": "insufficient_quota", "message": "You exceeded your current quota"}}, "refused"),
    (429, {"error": {"message": "You exceeded your current quota, please check your plan"}}, "refused"),
    (429, {"error": {"code": "billing_hard_limit_reached", "message": "Billing hard limit"}}, "refused"),
    (429, {"error": {"message": "Rate limit reached on tokens per day (TPD): Limit 500000, Used 499000"}}, "refused"),
    (429, {"error": {"message": "Rate limit exceeded: free-models-per-day"}}, "refused"),
    (429, {"error": {"message": "the quota is used up"}}, "refused"),
    (400, {"error": {"message": "Budget has been exceeded!", "type": "budget_exceeded"}}, "refused"),
    (400, {"error": {"message": "Your credit balance is too low to access the API"}}, "refused"),
    (402, {"error": {"message": "Insufficient Balance"}}, "refused"),
    (403, {"statusCode": 403, "message": "Out of call volume quota. Quota will be replenished in 3 days"}, "refused"),
    (
        429,
        [{"error": {"message": "You exceeded your current quota", "details": [{"id": "RequestsPerMinute"}]}}],
        "throttled",
    ),
    # a key or a model in a code
    (400, {"error": {"message": "API key not valid", "status": "INVALID", "code": "invalid_api_key"}}, "refused"),
    (400, {"error": {"message": "no such model", "code": "model_not_found"}}, "refused"),
    (500, {"error": {"message": "litellm.AuthenticationError", "code": "401"}}, "refused"),
    (200, {"error": {"message": "No auth credentials found", "code": 401}}, "refused"),
    (400, {"error": {"message": "No connected db.", "type": "no_db_connection", "code": "400"}}, "refused"),
    (400, {"error": {"message": "Budget is used up", "type": "budget_exceeded", "code": "400"}}, "refused"),
    (429, {"error": {"message": "Max parallel request limit reached", "type": "auth_error"}}, "throttled"),
    # one row's own
    (400, {"error": {"message": "This model's maximum context length is 8192 tokens"}}, "bad_request"),
    (400, {"detail": [{"loc": ["body"], "msg": "the rate limit of the trial is not a number"}]}, "bad_request"),
    (400, {"error": {"code": "content_policy_violation", "message": "no"}}, "filtered"),
    (200, {"error": {"code": 400, "message": "too long"}}, "bad_request"),
    # worth another try
    (408, {}, "timeout"),
    (409, {}, "unavailable"),
    (500, {"error": {"message": "litellm.InternalServerError: OpenAIException - Connection error."}}, "unavailable"),
    (500, "connect ECONNREFUSED: connection refused", "unavailable"),
    (424, {"error": "generation failed", "error_type": "generation"}, "model_error"),
    (425, {}, "unavailable"),
    (499, {}, "unavailable"),
    (500, {"error": {"message": "CUDA out of memory"}}, "model_error"),
    (500, {"error": {"message": "You can retry your request, or contact us"}}, "model_error"),
    (524, "a timeout occurred", "unavailable"),
    (200, {"error": "generation failed"}, "model_error"),
    (200, {"error": {}}, "no error"),
]


@pytest.mark.parametrize(("status", "body", "error_class"), ERRORS)
def test_an_error_of_any_provider_has_its_class(status: int, body: Any, error_class: str):
    if status == 200:
        reply = failures.failure_in(body)
        assert (reply.error_class if reply else "no error") == error_class
        if reply:
            assert codecs.openai_reply(body) == reply
    else:
        assert failures.error_class(status, body) == error_class


def in_a_minute() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=50)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "6000", "Retry-After": "9"}, 6.0),
        ({"Retry-After": "9"}, 9.0),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-remaining-requests": "0"}, 1.0),
        ({"x-ratelimit-reset-requests": "120ms"}, 0.12),
        (
            {"x-ratelimit-reset-tokens": "6m0s", "x-ratelimit-remaining-tokens": "0"},
            60.0,
        ),  # all of them; some come sooner
        ({"x-ratelimit-reset-tokens": "6m0s", "x-ratelimit-remaining-tokens": "17"}, None),
        ({"x-ratelimit-reset-tokens": "7.66s", "x-ratelimit-reset-requests": "2m59.56s"}, 60.0),
        ({"X-RateLimit-Reset": "30"}, 30.0),
        ({"llm_provider-retry-after": "60"}, 60.0),
        ({"llm_provider-retry-after": "60", "Retry-After": "5"}, 5.0),
        ({"ratelimit-reset": "soon"}, None),
        ({"x-request-id": "1"}, None),
    ],
)
def test_the_wait_is_read_from_the_headers(headers: Mapping[str, str], seconds: float | None):
    assert failures.wait_seconds(headers) == seconds


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-ratelimit-reset", lambda at: str(int(at.timestamp()))),
        ("x-ratelimit-reset", lambda at: str(int(at.timestamp() * 1000))),
        ("anthropic-ratelimit-tokens-reset", lambda at: at.isoformat()),
        ("anthropic-ratelimit-tokens-reset", lambda at: f"{at:%Y-%m-%dT%H:%M:%SZ}"),
    ],
)
def test_a_reset_may_be_a_time(name: str, value: Any):
    assert failures.wait_seconds({name: value(in_a_minute())}) == pytest.approx(50, abs=2)


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        ({"error": {"message": "Please try again in 7m12.5s. Visit us"}}, 432.5),
        ({"error": {"message": "Please retry after 6 seconds."}}, 6.0),
        ({"error": {"message": "Please try again in 820ms."}}, 0.82),
        ([{"error": {"details": [{"@type": "RetryInfo", "retryDelay": "34s"}]}}], 34.0),
        ({"error": "Model x is currently loading", "estimated_time": 20.5}, 20.5),
        ({"error": {"message": "Please wait before trying again."}}, None),
    ],
)
def test_the_wait_may_be_told_in_words(body: Any, seconds: float | None):
    assert failures.wait_seconds({}, body) == (None if seconds is None else pytest.approx(seconds))


def chat(content: object, reason: object, **message: object) -> dict[str, Any]:
    return {"choices": [{"message": {"content": content, **message}, "finish_reason": reason}]}


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        *[
            (reason, (TEXT, "stop", None))
            for reason in ("stop", "STOP", "end_turn", "eos", "eos_token", "stop_sequence")
        ],
        *[
            (reason, (TEXT, "stop", None))
            for reason in ("COMPLETE", "completed", "FinishReason.STOP", {"type": "stop"})
        ],
        *[(reason, (TEXT, "length", None)) for reason in ("length", "MAX_TOKENS", "model_length", "max_output_tokens")],
        *[(reason, (None, None, "filtered")) for reason in ("content_filter", "SAFETY", "RECITATION", "ERROR_TOXIC")],
        *[(reason, (None, None, "model_error")) for reason in ("abort", "error", "insufficient_system_resource")],
        *[(reason, (None, None, "model_error")) for reason in ("time_limit", "OTHER", "repetition", "cancelled", 7)],
        *[(reason, (None, None, "empty")) for reason in ("tool_calls", "function_call", "tool_use", "load")],
        (None, (TEXT, None, None)),
        ("", (TEXT, None, None)),
    ],
)
def test_only_an_end_that_is_known_to_be_good_is_a_whole_answer(reason: object, expected: tuple[str | None, ...]):
    bodies: list[Reply] = [
        codecs.openai_reply(chat(TEXT, reason)),
        codecs.openai_reply(chat([{"type": "text", "text": TEXT}], reason)),
        codecs.openai_reply({"choices": [{"text": TEXT, "finish_reason": reason}]}),
        codecs.generate_reply({"generated_text": TEXT, "details": {"finish_reason": reason}}),
        codecs.llama_reply({"generation": TEXT, "stop_reason": reason}),
    ]
    assert [(reply.completion, reply.finish_reason, reply.error_class) for reply in bodies] == [expected] * 5
    assert all(str(reason) in (reply.error or "") or reply.completion for reply in bodies if isinstance(reason, int))


@pytest.mark.parametrize(
    ("reason", "native", "expected"),
    [
        ("stop", "abort", (None, "model_error")),
        ("stop", "ERROR", (None, "model_error")),
        ("stop", "end_turn", (TEXT, None)),
        ("stop", None, (TEXT, None)),
        ("content_filter", "OTHER", (None, "filtered")),
    ],
)
def test_a_proxy_that_makes_stop_of_any_reason_names_the_native_one(
    reason: str, native: object, expected: tuple[str | None, ...]
):
    body = chat(TEXT, reason)
    body["choices"][0]["provider_specific_fields"] = {"native_finish_reason": native}
    reply = codecs.openai_reply(body)
    assert (reply.completion, reply.error_class) == expected


def test_the_reason_of_an_unknown_end_is_named():
    reply = codecs.openai_reply(chat(TEXT, "insufficient_system_resource"))
    assert reply.error == "the server stopped the answer: finish_reason is insufficient_system_resource"


def test_a_tool_is_no_answer_over_converse_either():
    body = {"stopReason": "tool_use", "output": {"message": {"content": [{"text": TEXT}]}}}
    assert converse.reply(body).error_class == "empty"


def test_blank_lines_after_a_thought_go_with_it_and_others_stay():
    thought = {"reasoningContent": {"reasoningText": {"text": "Hm."}}}
    with_thought = {"stopReason": "end_turn", "output": {"message": {"content": [thought, {"text": f"\n\n{TEXT}"}]}}}
    without = {"stopReason": "end_turn", "output": {"message": {"content": [{"text": f"\n\n{TEXT}"}]}}}
    assert converse.reply(with_thought).completion == TEXT
    assert converse.reply(without).completion == f"\n\n{TEXT}"
    assert codecs.openai_reply(chat(f"\n\n{TEXT}", "stop")).completion == f"\n\n{TEXT}"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"content": None, "refusal": "I will not say."}, ("filtered", "the model refuses to answer: I will not say.")),
        ({"content": [{"type": "refusal", "refusal": "No."}]}, ("filtered", "the model refuses to answer: No.")),
        ({"content": TEXT, "refusal": None}, (None, None)),
        ({"content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": TEXT}]}, (None, None)),
        ({"content": [{"type": "reasoning", "text": "Hm."}, {"type": "text", "text": TEXT}]}, (None, None)),
        ({"content": [{"type": "output_text", "text": TEXT}]}, (None, None)),
        ({"content": TEXT, "reasoning_content": "Hm."}, (None, None)),
        ({"content": f"\n\n{TEXT}", "reasoning_content": "Hm."}, (None, None)),
        ({"content": f"\n\n{TEXT}\n", "reasoning": "Hm."}, (None, None)),
        ({"content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": f"\n\n{TEXT}"}]}, (None, None)),
        ({"content": []}, ("empty", 'the answer has no text: {"message": {"content": []}, "finish_reason": "stop"}')),
    ],
)
def test_parts_and_refusals_of_a_message_are_read(message: dict[str, Any], expected: tuple[str | None, str | None]):
    reply = codecs.openai_reply({"choices": [{"message": message, "finish_reason": "stop"}]})
    assert (reply.error_class, reply.error) == expected
    assert reply.completion == (None if expected[0] else TEXT)


# Streams that nobody asked for


def event(**choice: object) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, **choice}]}).encode() + b"\n\n"


def delta(text: str, reason: str | None = None) -> bytes:
    return event(delta={"content": text}, finish_reason=reason)


USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}}\n\n'
DONE = b"data: [DONE]\n\n"
WHOLE = Reply(TEXT, "stop", 9, 4)


@pytest.mark.parametrize(
    ("body", "reply"),
    [
        (delta("Yes, the drug ") + delta(TEXT[14:]) + delta("", "stop") + USAGE + DONE, WHOLE),
        (b": ping\n\n" + delta(TEXT) + event(delta={}, finish_reason="stop") + USAGE, WHOLE),
        ((delta(TEXT) + delta("", "stop") + USAGE).replace(b"\n", b"\r\n"), WHOLE),
        (event(delta={"role": "assistant", "reasoning_content": "Hm."}) + delta(TEXT, "stop") + USAGE, WHOLE),
        (event(message={"content": TEXT}, finish_reason="stop") + DONE, Reply(TEXT, "stop")),
        (event(text="Yes, the drug ") + event(text=TEXT[14:], finish_reason="stop") + USAGE, WHOLE),
        (delta("Yes, the", "length") + DONE, Reply("Yes, the", "length")),
        (delta(TEXT) + DONE, Reply(TEXT, None)),
        (
            delta(TEXT).replace(b"data: ", b"") + delta("", "stop").replace(b"data: ", b""),
            Reply(TEXT, "stop"),
        ),
        (
            b'{"message": {"content": "Yes, the drug "}, "done": false}\n'
            + json.dumps({"message": {"content": TEXT[14:]}, "done": False}).encode()
            + b'\n{"message": {"content": ""}, "done": true, "done_reason": "stop", "prompt_eval_count": 9, "eval_count": 4}\n',
            WHOLE,
        ),
    ],
)
def test_a_stream_that_is_whole_is_read(body: bytes, reply: Reply):
    assert codecs.openai_reply(responses.parse_json(body)) == reply


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (delta("Yes, the"), "the answer is an error: the stream of the answer is cut: it has no finish_reason"),
        (delta("Yes") + b'data: {"choi\n\n', "the answer is an error: a part of the stream is no JSON"),
        (delta("Yes") + b'data: {"error": {"message": "gone"}}\n\n', "the answer is an error: gone"),
        (
            b'{"response": "Yes", "done": false}\n{"response": ",", "done": false}\n',
            "the answer is an error: the stream of the answer is cut: no line is done",
        ),
        (b"data is here", "the answer has no choices: data is here"),
    ],
)
def test_a_stream_that_is_cut_is_named(body: bytes, error: str):
    reply = codecs.openai_reply(responses.parse_json(body))
    assert (reply.error_class, reply.error) == ("model_error", error)


def test_a_stream_of_tgi_ends_with_the_whole_text():
    body = (
        b'data: {"token": {"text": "Yes"}, "generated_text": null}\n\n'
        b'data: {"token": {"text": "."}, "generated_text": "Yes.", "details": {"finish_reason": "eos_token"}}\n\n'
    )
    assert codecs.generate_reply(responses.parse_json(body)) == Reply("Yes.", "stop")


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=20), min_size=1, max_size=8))
def test_a_stream_says_what_its_parts_say(parts: list[str]):
    body = b"".join(delta(part) for part in [*parts, "."]) + delta("", "stop")
    assert responses.parse_json(body)["choices"][0]["message"]["content"] == "".join([*parts, "."])


@given(st.binary(max_size=200), st.sampled_from([b"", b"data: ", b"data: {}\n\ndata: ", b"{}\n{"]))
def test_no_body_raises(body: bytes, begin: bytes):
    answer = responses.parse_json(begin + body)
    assert failures.error_class(500, answer)
    assert codecs.openai_reply(answer).error
    failures.wait_seconds({"retry-after": body.decode(errors="replace")}, answer)
