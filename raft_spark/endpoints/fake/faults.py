"""(request, attempt) -> how the fake endpoint answers it: how late, and how wrong. No clock decides it and no state.

The same request on the same attempt meets the same luck in every run, so that a failure that was seen can be seen again.
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
Fault = Literal["", "hang", "drop", "half", "slow", "garbage", "empty", "truncated", "filtered", "error", "echo"]


class ServerOptions(Section):
    """How the fake endpoint answers while nothing goes wrong."""

    latency_ms: Milliseconds = Field(5, description="The time an answer takes, ms: the median.")
    jitter: Share = Field(0, description="Answers take up to this share less or more.")
    tail_share: Share = Field(
        0, description="The share of calls that take tail-ms, by hash of the request and its attempt."
    )
    tail_ms: Milliseconds = Field(5000, description="The time a call of the tail takes, ms.")
    capacity: int = Field(0, ge=0, le=1_000_000, description="Calls open at once; more get 429 at once. 0 = no limit.")
    requests_per_second: Limit = Field(
        0, description="Calls a second, with a second's burst; more get 429. 0 = no limit."
    )
    retry_after: Limit = Field(1, description="The seconds such a 429 asks to wait. 0 = it does not say.")
    container: Literal["tgi", "lmi"] = Field("tgi", description="What the SageMaker endpoint runs.")
    echo: bool = Field(default=False, description="Answer with all that the user said last, and a hash of the request.")

    def seconds(self, luck: "Draw") -> float:
        """Return how long an answer takes."""
        if luck.tail < self.tail_share:
            return self.tail_ms / 1000
        return self.latency_ms / 1000 * (1 + self.jitter * (2 * luck.jitter - 1))


class FaultRule(Section):
    """How calls go wrong: `share` of them (chosen by hash, anew at each attempt), the next `for_calls` (0 = all).

    status: anything but 200 is an error, laid out as the service does, with `retry_after` as its header; error: its name at
    AWS, where it is not the status' usual one; original_status: what SageMaker's or Bedrock's ModelError says of the
    container; body: sent as it is; text, finish_reason: in place of the made-up ones; key: calls without this bearer key
    get status 401, which repeats the key they came with. fault is one of

    hang       never answers                            empty      status 200, no text
    drop       closes the connection before the body    truncated  half of the text, finish_reason length
    half       closes it in the middle of the body      filtered   as the service's content filter says it
    slow       drips the body over `seconds`            error      status 200, no text, finish_reason error, as LMI fails
    garbage    status 200 and no JSON                   echo       all that the user said last, and a hash of the request
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
    """The behaviours in force, each for as many calls as it was told for; their shares add up to 1 at most."""

    def __init__(self, behaviours: Sequence[FaultRule] = ()) -> None:
        if sum(behaviour.share for behaviour in behaviours) > 1 + 1e-9:
            raise ValueError("the shares of the behaviours add up to more than 1")
        self._behaviours = behaviours
        self._ends = list(accumulate(behaviour.share for behaviour in behaviours))
        self._left = [behaviour.for_calls or -1 for behaviour in behaviours]

    def next(self, luck: "Draw") -> FaultRule:
        """Return how the call with this luck behaves, and count it."""
        for place, end in enumerate(self._ends):
            if luck.behaviour < end:
                if not self._left[place]:
                    return NO_FAULT
                self._left[place] -= 1
                return self._behaviours[place]
        return NO_FAULT


@dataclass(frozen=True, slots=True)
class Draw:
    """Numbers in [0, 1), one for each thing that chance decides."""

    behaviour: float
    tail: float
    jitter: float


def draw(digest: str, attempt: int) -> Draw:
    """Draw the luck of a request's attempt, which counts from 1."""
    bits = sha256(f"{digest} {attempt}".encode()).digest()
    return Draw(*(int.from_bytes(bits[start : start + 4]) / 2**32 for start in (0, 4, 8)))


class TokenBucket:
    """A token bucket that holds a second's worth, and one token at least."""

    def __init__(self) -> None:
        self._tokens, self._at = float("inf"), 0.0

    def take(self, per_second: float, now: float) -> bool:
        """Take a token if there is one; `now` is in seconds, of any clock that does not go back."""
        self._tokens = min(max(per_second, 1.0), self._tokens + (now - self._at) * per_second)
        self._at = now
        has_one = self._tokens >= 1
        self._tokens -= has_one
        return has_one
