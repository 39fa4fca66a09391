"""(request, attempt) -> the latency and the fault of the fake endpoint's answer, drawn by hash.

The same attempt of the same request has the same outcome in every run, so that a failure can be reproduced.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate
from typing import Annotated, Literal

from pydantic import Field

from raft_spark.config.fields import Section, Share

Limit = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
Milliseconds = Annotated[float, Field(ge=0, le=600_000, allow_inf_nan=False)]
Fault = Literal[
    "", "hang", "drop", "half", "slow", "garbage", "empty", "truncated", "filtered", "error", "echo", "uncounted"
]


class ServerOptions(Section):
    """The options of the fake endpoint: latency, limits and schema. Faults come from FaultRule."""

    latency_ms: Milliseconds = Field(5, description="Median latency of an answer, in ms.")
    jitter: Share = Field(0, description="Vary each latency by up to this share of it, up or down.")
    tail_share: Share = Field(
        0, description="Share of calls with the latency --tail-ms; a hash of request and attempt chooses them."
    )
    tail_ms: Milliseconds = Field(5000, description="Latency of the calls that --tail-share chooses, in ms.")
    capacity: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Most calls open at once; a call above that gets status 429 at once. 0 = no limit.",
    )
    requests_per_second: Limit = Field(
        0,
        description="Most calls per second, with a burst of one second; a call above that gets status 429. 0 = no limit.",
    )
    retry_after: Limit = Field(
        1, description="Seconds in the header Retry-After of a response with status 429. 0 = no header."
    )
    container: Literal["tgi", "lmi"] = Field("tgi", description="Container that the SageMaker endpoint imitates.")
    echo: bool = Field(
        default=False, description="Answer with the whole last message of the user and a hash of the request."
    )

    def latency_seconds(self, drawn: "Draw") -> float:
        """Return the latency of an answer."""
        if drawn.tail < self.tail_share:
            return self.tail_ms / 1000
        return self.latency_ms / 1000 * (1 + self.jitter * (2 * drawn.jitter - 1))


class FaultRule(Section):
    """A fault of the fake endpoint, for a `share` of its calls.

    The calls are drawn by hash, anew at each attempt. `for_calls` limits their number, 0 = no limit. The other fields:

    status           other than 200 an error in the service's schema, with `retry_after` as its header
    error            the AWS name of the error, if not the usual one of the status
    original_status  the container's status in a ModelError of SageMaker or Bedrock
    body             sent as it is
    text             the text of the answer, in place of the made-up one
    finish_reason    the finish reason of the answer, likewise
    key              calls without this bearer key get status 401, with a message that repeats theirs
    fault            hang       never answers
                     drop       closes the connection before the body
                     half       closes it in the middle of the body
                     slow       sends the body over `seconds`
                     garbage    status 200, a body that is not JSON
                     empty      status 200, no text
                     truncated  half of the text, finish_reason length
                     filtered   the answer of the service's content filter
                     error      status 200, no text, finish_reason error, as LMI does
                     uncounted  counts 0 tokens in the usage of a good answer
                     echo       the whole last message of the user and a hash of the request
    """

    status: Annotated[int, Field(ge=200, le=599)] = 200
    error: str = ""
    original_status: int = 0
    retry_after: str | float | None = None
    body: str | None = None
    text: str | None = None
    finish_reason: str | None = None
    fault: Fault = ""
    seconds: Annotated[float, Field(ge=0, le=86_400)] = 5.0
    key: str = ""
    share: Share = 1.0
    for_calls: Annotated[int, Field(ge=0)] = 0


NO_FAULT = FaultRule()


class FaultSchedule:
    """The fault rules in effect, with the number of calls that each has left. Their shares sum to at most 1."""

    def __init__(self, rules: Sequence[FaultRule] = ()) -> None:
        if sum(rule.share for rule in rules) > 1 + 1e-9:
            raise ValueError("the shares of the fault rules sum to more than 1; they must sum to at most 1")
        self._rules = rules
        self._ends = list(accumulate(rule.share for rule in rules))
        self._left = [rule.for_calls or -1 for rule in rules]

    def next(self, drawn: "Draw") -> FaultRule:
        """Return the rule for a call and count it, NO_FAULT if none applies."""
        for index, end in enumerate(self._ends):
            if drawn.rule < end:
                if not self._left[index]:
                    return NO_FAULT
                self._left[index] -= 1
                return self._rules[index]
        return NO_FAULT


@dataclass(frozen=True, slots=True)
class Draw:
    """Random numbers in [0, 1), one for each choice."""

    rule: float
    tail: float
    jitter: float


def draw(digest: str, attempt: int) -> Draw:
    """Return the draw for an attempt of a request; attempts count from 1."""
    bits = sha256(f"{digest} {attempt}".encode()).digest()
    return Draw(*(int.from_bytes(bits[start : start + 4]) / 2**32 for start in (0, 4, 8)))


class TokenBucket:
    """A token bucket with a capacity of one second, and of at least one token."""

    def __init__(self) -> None:
        self._tokens, self._at = float("inf"), 0.0

    def take(self, per_second: float, now: float) -> bool:
        """Take a token and return whether there was one; `now` is in seconds of a monotonic clock."""
        self._tokens = min(max(per_second, 1.0), self._tokens + (now - self._at) * per_second)
        self._at = now
        has_one = self._tokens >= 1
        self._tokens -= has_one
        return has_one
