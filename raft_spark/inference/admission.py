"""What one task may do, and what it has done: where its window, which asks, meets its reporter, which is granted more or less.

The window calls `wait`, `started` and `finished` from one thread; the reporter's thread sets `grant` and reads `tally`.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from raft_spark.config import Price
from raft_spark.endpoints.base import Reply, Request
from raft_spark.inference.congestion import AdaptiveTimeout, CongestionWindow, EndpointHealth, RateLimiter
from raft_spark.inference.quota import UNLIMITED, Allocation, Demand

CHARS_PER_TOKEN = 3.5  # of English prose, to space calls by tokens until usage is known
MIN_CHARS_PER_TOKEN = 2.0  # to reserve money: no tokenizer in use cuts English finer on average
TEMPLATE_TOKENS = 64  # tokens that a chat template adds, at most
NOT_BILLED = frozenset({"throttled", "unavailable", "refused", "bad_request"})  # failures that are not billed


@dataclass(frozen=True, slots=True)
class InFlightRequest:
    """One request on its way or answered; `pubid` is carried along. Times in seconds; latency is that of the last call.

    `open_then` calls were open when the last one started, this one included; `tokens` and `dollars` were set aside for it.
    """

    pubid: int
    request: Request
    attempts: int = 0
    throttles: int = 0
    timeouts: int = 0
    first_sent: float = 0.0
    started: float = 0.0
    latency: float = 0.0
    open_then: int = 0
    tokens: float = 0.0
    dollars: float = 0.0
    reply: Reply = field(default_factory=Reply)


@dataclass(slots=True)
class TaskCounters:
    """What a task has done so far; its last replies count once they are stored. Fields are replaced, never changed in place.

    The reporter reads in this order while calls come back: `reserved` before `spent`, so that it never finds too little.
    """

    calls: int = 0
    answered: int = 0
    throttled: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    answered_stored: int = 0
    failed_stored: Mapping[str, int] = field(default_factory=dict)
    open: int = 0
    window: int = 0
    reserved: float = 0.0
    spent: float = 0.0
    next_call: float = 0.0
    draining: bool = False
    trouble: str = ""

    @property
    def need(self) -> Demand:
        """Return what the ledger has to know."""
        return Demand(self.open, self.spent, self.reserved, self.next_call, self.draining)


class Admission:
    """Decide call by call, count call by call."""

    def __init__(
        self, grant: Allocation, price: Price, most_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.grant = grant
        self.tally = TaskCounters()
        self._price, self._clock = price, clock
        self._window = CongestionWindow(grant.in_flight)
        self._calls, self._tokens = RateLimiter(), RateLimiter()
        self._patience = AdaptiveTimeout(most_seconds)
        self._health = EndpointHealth(clock())

    @property
    def stop(self) -> str:
        """Say why nothing more may be asked, "" while all is well."""
        return self.tally.trouble or self.grant.stop

    def wait(self, request: Request) -> float:
        """Return the seconds until the request may be sent: 0 = now, infinite = not before something else happens."""
        now, grant, tally = self._clock(), self.grant, self.tally
        self._window.cap = grant.in_flight
        tally.window = self._window.size
        tally.next_call = self._dearest(request)
        cannot_pay = tally.spent + tally.reserved + tally.next_call > grant.dollars
        if tally.open >= self._window.size or cannot_pay:
            return UNLIMITED
        waits = [self._window.wait(now)]
        if grant.requests_per_second < UNLIMITED:
            waits.append(self._calls.wait(now, grant.requests_per_second))
        if grant.tokens_per_minute < UNLIMITED:
            waits.append(self._tokens.wait(now, grant.tokens_per_minute / 60))
        return max(waits)

    def started(self, asked: InFlightRequest) -> InFlightRequest:
        """Count a call that is sent now; set its tokens and dollars aside."""
        now, grant, tally = self._clock(), self.grant, self.tally
        tokens = self._likely(asked.request)
        if grant.requests_per_second < UNLIMITED:
            self._calls.sent(now, grant.requests_per_second)
        if grant.tokens_per_minute < UNLIMITED:
            self._tokens.sent(now, grant.tokens_per_minute / 60, tokens)
        dollars = self._dearest(asked.request)
        tally.open, tally.calls, tally.reserved = tally.open + 1, tally.calls + 1, tally.reserved + dollars
        first = asked.first_sent or now
        return replace(
            asked,
            first_sent=first,
            started=now,
            attempts=asked.attempts + 1,
            open_then=tally.open,
            tokens=tokens,
            dollars=dollars,
        )

    def seconds(self, asked: InFlightRequest) -> float:
        """Return how long to wait for this call's answer."""
        return self._patience.seconds(asked.timeouts)

    def finished(self, asked: InFlightRequest) -> InFlightRequest:
        """Count a call that came back, and learn from it."""
        now, tally, reply = self._clock(), self.tally, asked.reply
        used = (reply.prompt_tokens or 0) + (reply.completion_tokens or 0)
        tally.spent += self._paid(asked)  # before it is not reserved any more: see Tally
        tally.open, tally.reserved = tally.open - 1, tally.reserved - asked.dollars if tally.open > 1 else 0.0
        tally.prompt_tokens += reply.prompt_tokens or 0
        tally.completion_tokens += reply.completion_tokens or 0
        if self.grant.tokens_per_minute < UNLIMITED and (used or reply.error_class in NOT_BILLED):
            self._tokens.sent(now, self.grant.tokens_per_minute / 60, used - asked.tokens)
        if reply.completion is not None or reply.error_class in {"filtered", "bad_request"}:
            self._answered(asked, now)
            return asked
        return self._failed(asked, now)

    def _answered(self, asked: InFlightRequest, now: float) -> None:
        """Take it as a sign that the endpoint works, whatever it thinks of this request."""
        self._window.answered()
        self._health.answered(now)
        if asked.reply.completion is not None:
            self._patience.answered(asked.latency)
            self.tally.answered += 1

    def _failed(self, asked: InFlightRequest, now: float) -> InFlightRequest:
        reply, tally = asked.reply, self.tally
        if reply.error_class == "throttled":
            tally.throttled += 1
            self._window.throttled(asked.started, now, asked.open_then, reply.retry_after or 0.0)
            return replace(asked, throttles=asked.throttles + 1)
        verdict = self._health.failed(asked.pubid, now, self._window.size, self.grant.in_flight)
        if reply.error_class == "refused":
            tally.trouble = f"refuses: {reply.error}"
        elif verdict.dead:
            seconds = self._health.silent_seconds(now)
            tally.trouble = f"does not answer, for {seconds:.0f} s; the last reason: {reply.error}"
        elif verdict.window_failed:
            self._window.failed(asked.started, now)
        return replace(asked, timeouts=asked.timeouts + (reply.error_class == "timeout"))

    def _likely(self, request: Request) -> float:
        """Return how many tokens a call will take, in and out: as many out as answers had so far, else the most."""
        out = self.tally.completion_tokens / self.tally.answered if self.tally.answered else request.max_tokens
        return request.characters / CHARS_PER_TOKEN + out

    def _dearest(self, request: Request) -> float:
        """Return the dollars that a call costs at most."""
        prompt = request.characters / MIN_CHARS_PER_TOKEN + TEMPLATE_TOKENS
        return self._price.dollars(prompt, request.max_tokens)

    def _paid(self, asked: InFlightRequest) -> float:
        """Return the dollars of a call: by its usage; a call that was cut off may be billed, so it counts as the dearest."""
        reply = asked.reply
        if reply.prompt_tokens is None and reply.completion_tokens is None:
            return 0.0 if reply.error_class in NOT_BILLED else asked.dollars
        return self._price.dollars(reply.prompt_tokens or 0, reply.completion_tokens or 0)
