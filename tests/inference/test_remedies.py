"""What the message of a run that failed says."""

import pytest

from raft_spark import config
from raft_spark.inference import remedies
from raft_spark.monitoring.run_state import Run

pytestmark = pytest.mark.row


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
