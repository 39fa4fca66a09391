"""What a person is told to change when an endpoint refuses all requests, in the endpoint's words."""

import pytest

from conftest import Settle
from raft_spark import config
from raft_spark.inference import remedies
from raft_spark.monitoring.run_state import Run

pytestmark = pytest.mark.row

OPENAI = ("endpoints.o={kind='openai', url='http://h/v1', model='m'}", "completions.endpoint=o")


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
            "set completions.rename = { max_tokens = 'max_completion_tokens' }",
        ),
        (
            "Unsupported value: 'temperature' does not support 0 with this model.",
            "set completions.leave_out = ['temperature'] if the model does not take it, else change completions.temperature",
        ),
        (
            "ValidationException: topP is not allowed for this model",
            "set completions.leave_out = ['top_p'] if the model does not take it, else change completions.top_p",
        ),
        (
            "`top_p` must be > 0.0 and < 1.0",
            "set completions.leave_out = ['top_p'] if the model does not take it, else change completions.top_p",
        ),
        (
            "unknown field max_tokens",
            "lower completions.max_new_tokens, or set its name with completions.rename = { max_tokens = '...' }",
        ),
        (
            "Unrecognized request argument supplied: reasoning_effort",
            "change what is sent: parameters, leave_out and rename of [completions] or [endpoints.o]",
        ),
        (
            "max_tokens is too large: 9000. This model supports at most 4096 completion tokens",
            "lower completions.max_new_tokens, or take a model with a longer context",
        ),
        ("status 401: Incorrect API key provided", "correct endpoints.o.api_key_env or api_key_secret"),
        ("status 404: The model `m` does not exist", "correct endpoints.o.model, or its address"),
        ("status 418", "correct [endpoints.o]: its address, model and key"),
    ],
)
def test_the_words_of_an_endpoint_lead_to_the_setting(settled: Settle, reason: str, remedy: str):
    assert remedies.remedy(settled(*OPENAI), reason) == remedy


def test_a_message_counts_the_answers_that_were_known_before_too():
    run = Run("r", "fake", "m", "", "", 48, known=12, answered=3, state="failed", reason="refuses: status 402: pay")
    assert remedies.failure(config.load(), run).endswith("; 15 answers are stored, and a rerun asks only the others")


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("refuses: status 400: No connected db.", "correct endpoints.fake.api_key_env or api_key_secret"),
        ("refuses every request: status 400: Invalid model name passed in model=m", "correct endpoints.fake.model"),
        (
            "refuses: status 400: Invalid model name passed in model=m. Call it with your key",
            "correct endpoints.fake.model",
        ),
        ("refuses: status 404: The model `m` does not exist or you do not have access to it", "endpoints.fake.model"),
        ("has not answered for 60 s: status 500: Connection error", "start the server"),
    ],
)
def test_a_message_says_what_to_change_behind_a_litellm_proxy(reason: str, change: str):
    run = Run("r", "fake", "m", "", "", 60, state="failed", reason=reason)
    conf = config.load((), ["completions.endpoint=fake"])
    assert change in remedies.failure(conf, run)
