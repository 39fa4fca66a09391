"""Tokens that a server does not count are unknown, in each protocol: 0 tokens of a text are no count."""

from typing import Any

import pytest

from raft_spark.endpoints import codecs, converse
from raft_spark.endpoints.base import Reply

pytestmark = pytest.mark.row


def openai(text: str, usage: object) -> Reply:
    return codecs.openai_reply({"choices": [{"text": text, "finish_reason": "stop"}], "usage": usage})


def openai_usage(read: int | None, written: int | None) -> dict[str, Any]:
    return {"prompt_tokens": read, "completion_tokens": written}


def converse_reply(text: str, usage: object) -> Reply:
    content = [{"text": text}] if text else []
    return converse.reply({"stopReason": "end_turn", "output": {"message": {"content": content}}, "usage": usage})


def converse_usage(read: int | None, written: int | None) -> dict[str, Any]:
    return {"inputTokens": read, "outputTokens": written}


def llama(text: str, usage: Any) -> Reply:
    return codecs.llama_reply({"generation": text, "stop_reason": "stop", **(usage or {})})


def llama_usage(read: int | None, written: int | None) -> dict[str, Any]:
    return {"prompt_token_count": read, "generation_token_count": written}


PROTOCOLS = [(openai, openai_usage), (converse_reply, converse_usage), (llama, llama_usage)]


@pytest.mark.parametrize(("reply", "usage"), PROTOCOLS)
@pytest.mark.parametrize(
    ("text", "sent", "known"),
    [
        ("Yes.", (300, 20), (300, 20)),
        ("Yes.", (0, 0), (None, None)),
        ("Yes.", (300, 0), (300, None)),
        ("Yes.", (0, 20), (None, 20)),
        ("Yes.", (None, None), (None, None)),
        ("Yes.", (-1, 2**31), (None, None)),
        ("", (300, 0), (300, 0)),  # a model that ended at once
        ("", (0, 0), (None, None)),
    ],
)
def test_a_count_of_zero_is_no_count(reply, usage, text: str, sent: tuple[int, int], known: tuple[int, int]):
    answer = reply(text, usage(*sent))
    assert (answer.prompt_tokens, answer.completion_tokens) == known


@pytest.mark.parametrize("reply", [openai, converse_reply, llama])
def test_a_reply_without_usage_has_no_count(reply):
    answer = reply("Yes.", None)
    assert (answer.completion, answer.prompt_tokens, answer.completion_tokens) == ("Yes.", None, None)


def test_a_container_counts_what_it_writes_and_not_what_it_reads():
    answer = codecs.generate_reply([{"generated_text": "Yes.", "details": {"generated_tokens": 2}}])
    assert (answer.prompt_tokens, answer.completion_tokens) == (None, 2)
    silent = codecs.generate_reply({"generated_text": "Yes.", "details": {"generated_tokens": 0}})
    assert (silent.prompt_tokens, silent.completion_tokens) == (None, None)
