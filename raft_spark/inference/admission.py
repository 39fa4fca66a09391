"""Decide call by call whether a task may send its next request, and count what its calls used.

The executor's thread calls `delay`, `start` and `finish`; the coordinator's client, in another thread, replaces
`allocation` and reads `snapshot`.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from raft_spark.config import Price
from raft_spark.endpoints.base import Reply, Request
from raft_spark.inference import objections
from raft_spark.inference.congestion import AdaptiveTimeout, CongestionWindow, EndpointHealth, RateLimiter
from raft_spark.inference.quota import UNLIMITED, Allocation, Demand

CHARS_PER_TOKEN = 3.5  # of English prose, to estimate prompt tokens for the rate limit
MIN_CHARS_PER_TOKEN = 2.0  # to reserve dollars: no tokenizer in use makes more tokens of English on average
TEMPLATE_TOKENS = 64  # that a chat template adds, at most
ALONE_SECONDS = 10.0  # after which a task without a driver judges alone what the endpoint refuses
NOT_BILLED = frozenset({"throttled", "unavailable", "refused", "bad_request"})  # error classes, unless it was cut off


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds: for a reply (`timeout`, and at least `least_timeout`), for an endpoint that is silent,
    for a request with all its calls (`deadline`).
    """

    timeout: float
    least_timeout: float
    silent: float
    deadline: float


@dataclass(frozen=True, slots=True)
class InFlightRequest:
    """A request and its calls so far; `pubid` identifies its article. Times are in seconds.

    `open_at_start` calls, this one included, were open when the last call started; `tokens` and `dollars` were
    reserved for it. `latency` and `reply` are those of the last call, `finished` is when it came. `throttles` counts the
    calls that do not count as attempts: those that were throttled, or not connected while the endpoint was away.
    """

    pubid: int
    request: Request
    attempts: int = 0
    throttles: int = 0
    timeouts: int = 0
    first_sent: float = 0.0
    started: float = 0.0
    finished: float = 0.0
    latency: float = 0.0
    open_at_start: int = 0
    tokens: float = 0.0
    dollars: float = 0.0
    reply: Reply = field(default_factory=Reply)


@dataclass(slots=True)
class TaskCounters:
    """What a task has done so far. Field values are replaced, never mutated, so that a shallow copy is a snapshot.

    `answered_stored` and `failed_stored` (by error class) count final replies once they are stored, the other fields
    count every call. `draining` means that no request is left to send; `endpoint_error` says why the endpoint cannot
    be used, `store_error` why answers cannot be stored. `worked` counts the replies that show that the endpoint works,
    `objections` the requests that it has refused since, by the words of the error without numbers; the last error is
    `objection`. A task that `waits` for the driver's judgement of them has no open call and starts none.

    `spent` dollars count against the limit. The part `possible` of it is the most that calls cost whose tokens the
    server did not count: answers (`prompts_not_counted`, `completions_not_counted`) and the `possibly_billed` calls,
    which failed.
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
    endpoint_error: str = ""
    store_error: str = ""
    possible: float = 0.0
    prompts_not_counted: int = 0
    completions_not_counted: int = 0
    possibly_billed: int = 0
    worked: int = 0
    objections: Mapping[str, int] = field(default_factory=dict)
    objection: str = ""
    waits: bool = False

    @property
    def demand(self) -> Demand:
        """Return what the quota ledger needs to know."""
        return Demand(self.open, self.spent, self.reserved, self.next_call, self.draining)


class Admission:
    """Apply one task's allocation, the congestion window and the rate limits to its calls."""

    def __init__(
        self, allocation: Allocation, price: Price, patience: Patience, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.allocation = allocation
        self.valid_until = UNLIMITED  # on the clock, until when the allocation holds unless the driver renews it
        self.counters = TaskCounters()
        self._lock = threading.Lock()  # a call's dollars move from reserved to spent in one step
        self._price, self._clock = price, clock
        self._window = CongestionWindow(allocation.in_flight)
        self._calls, self._tokens = RateLimiter(), RateLimiter()
        self._timeout = AdaptiveTimeout(patience.least_timeout, patience.timeout)
        self._health = EndpointHealth(clock(), patience.silent, patience.deadline)
        self._patience = patience
        self._objected_at = self._worked_at = float("-inf")
        self._worked_elsewhere = 0

    @property
    def stop_reason(self) -> str:
        """Return why no call may start any more, "" while calls may."""
        return self.counters.endpoint_error or self.counters.store_error or self.allocation.stop_reason

    def snapshot(self) -> TaskCounters:
        """Return a copy of the counters, for any thread: each call's dollars are either reserved or spent in it."""
        with self._lock:
            return replace(self.counters)

    def delay(self, request: Request) -> float:
        """Return the seconds until the request may be sent: 0 = now, UNLIMITED = when another call has finished."""
        now, allocation, counters = self._clock(), self.allocation, self.counters
        self._window.cap = allocation.in_flight
        counters.window = self._window.size
        counters.next_call = self._max_cost(request)
        is_too_expensive = counters.spent + counters.reserved + counters.next_call > allocation.dollars
        is_full = counters.open >= self._window.size
        if is_full or is_too_expensive or now > self.valid_until or self._is_on_trial:
            return UNLIMITED
        delays = [self._window.delay(now)]
        if allocation.requests_per_second < UNLIMITED:
            delays.append(self._calls.delay(now, allocation.requests_per_second))
        if allocation.tokens_per_minute < UNLIMITED:
            delays.append(self._tokens.delay(now, allocation.tokens_per_minute / 60))
        return max(delays)

    def start(self, inflight: InFlightRequest) -> InFlightRequest:
        """Count a call that is sent now; reserve its tokens and dollars."""
        now, allocation, counters = self._clock(), self.allocation, self.counters
        tokens = self._expected_tokens(inflight.request)
        if allocation.requests_per_second < UNLIMITED:
            self._calls.record(now, allocation.requests_per_second)
        if allocation.tokens_per_minute < UNLIMITED:
            self._tokens.record(now, allocation.tokens_per_minute / 60, tokens)
        dollars = self._max_cost(inflight.request)
        with self._lock:
            counters.open += 1
            counters.calls += 1
            counters.reserved += dollars
        return replace(
            inflight,
            first_sent=inflight.first_sent or now,
            started=now,
            attempts=inflight.attempts + 1,
            open_at_start=counters.open,
            tokens=tokens,
            dollars=dollars,
        )

    def timeout(self, inflight: InFlightRequest) -> float:
        """Return how many seconds this call may wait for its reply."""
        return self._timeout.seconds(inflight.timeouts)

    def finish(self, inflight: InFlightRequest) -> InFlightRequest:
        """Count a call that has its reply; adapt the window, the timeout and the token rate to it."""
        now, counters, reply = self._clock(), self.counters, inflight.reply
        inflight = replace(inflight, finished=now)
        certain, possible = call_cost(self._price, reply, _most_tokens(inflight.request))
        with self._lock:
            counters.open -= 1
            counters.spent += certain + possible
            counters.possible += possible
            counters.reserved -= inflight.dollars
            if not counters.open:
                counters.reserved = 0.0  # without the rounding errors of the sum
        counters.prompt_tokens += reply.prompt_tokens or 0
        counters.completion_tokens += reply.completion_tokens or 0
        counters.prompts_not_counted += reply.completion is not None and reply.prompt_tokens is None
        counters.completions_not_counted += reply.completion is not None and reply.completion_tokens is None
        counters.possibly_billed += may_be_billed(reply)
        if self.allocation.tokens_per_minute < UNLIMITED:
            used = self._used_tokens(inflight)
            self._tokens.record(now, self.allocation.tokens_per_minute / 60, used - inflight.tokens)
        if reply.error_class == "bad_request":
            return self._on_objection(inflight, now)
        if reply.completion is not None or reply.error_class == "filtered":
            self._on_answer(inflight, now)
            return inflight
        return self._on_failure(inflight, now)

    def _on_objection(self, inflight: InFlightRequest, now: float) -> InFlightRequest:
        """Count a request that the endpoint refuses, although it is neither busy nor away."""
        counters, error = self.counters, inflight.reply.error or ""
        words = objections.without_numbers(error)
        with self._lock:
            counters.objections = {**counters.objections, words: counters.objections.get(words, 0) + 1}
            counters.objection = error
        self._objected_at = now
        self._window.on_answer()
        self._health.on_answer(now)
        return inflight

    def _on_answer(self, inflight: InFlightRequest, now: float) -> None:
        """Register that the endpoint works, even if its filter stopped this answer."""
        self._window.on_answer()
        self._health.on_answer(now)
        self.counters.worked += 1
        self._works(inflight.started)
        if inflight.reply.completion is not None:
            self._timeout.on_answer(inflight.latency)
            self.counters.answered += 1

    def _on_failure(self, inflight: InFlightRequest, now: float) -> InFlightRequest:
        reply, counters = inflight.reply, self.counters
        if reply.error_class == "throttled":
            return self._on_throttle(inflight, now)
        health = self._health.on_failure(inflight.pubid, now, self._window.size, self.allocation.in_flight)
        if reply.error_class == "refused":
            counters.endpoint_error = f"refuses: {reply.error}"
        elif health.dead:
            seconds = self._health.silent_seconds(now)
            counters.endpoint_error = f"has not answered for {seconds:.0f} s; the last error: {reply.error}"
        elif health.window_failed:
            self._window.on_failed_window(inflight.started, now)
        is_free = health.is_out and reply.error_class == "unavailable" and not reply.is_cut_off
        timeouts = inflight.timeouts + (reply.error_class == "timeout")
        return replace(inflight, timeouts=timeouts, throttles=inflight.throttles + is_free)

    def _on_throttle(self, inflight: InFlightRequest, now: float) -> InFlightRequest:
        counters, wait, error = self.counters, inflight.reply.retry_after or 0.0, inflight.reply.error
        counters.throttled += 1
        self._window.on_throttle(inflight.started, now, inflight.open_at_start, wait)
        if self._health.asks_too_much(wait, self.allocation.in_flight):
            counters.endpoint_error = (
                f"asks to wait {wait:,.0f} s, longer than a request may take by completions.deadline_seconds; "
                f"the last error: {error}"
            )
        elif self._health.on_throttle(inflight.pubid, now):
            seconds = f"{self._health.silent_seconds(now):.0f} s"
            counters.endpoint_error = f"has not answered for {seconds}; the last error: {error}"
        return replace(inflight, throttles=inflight.throttles + 1)

    # Whether requests that the endpoint refuses are to blame themselves

    def look_elsewhere(self) -> None:
        """Take note of what the endpoint answers to other tasks."""
        elsewhere = self.allocation.worked - self.counters.worked
        if elsewhere > self._worked_elsewhere:
            self._worked_elsewhere = elsewhere
            self._health.on_answer_elsewhere(self._clock())
            self._works(self._clock() - 2 * self.allocation.heartbeat)  # so old is what it hears of, at most

    def _works(self, since: float) -> None:
        with self._lock:
            self.counters.objections = {}
        self._worked_at = max(self._worked_at, since)

    def is_to_blame(self, inflight: InFlightRequest) -> bool:
        """Return whether a request that the endpoint refused is to blame itself: one that was sent later was answered, or
        the objections were judged and no call is open.
        """
        is_judged = not (self.counters.objections or self.counters.open)
        return is_judged or self._worked_at > inflight.finished

    @property
    def _is_on_trial(self) -> bool:
        count = sum(self.counters.objections.values())
        trial = objections.needed(self._situation) if self._is_alone else self.allocation.trial
        return count > 0 and count + self.counters.open >= trial

    @property
    def _is_alone(self) -> bool:
        """Return whether this task does not reach the driver."""
        return self.valid_until == UNLIMITED

    @property
    def _situation(self) -> objections.Situation:
        return objections.Situation(self.allocation.in_flight, self.counters.worked > 0, was_known=True)

    def await_judgement(self, *, is_over: bool) -> None:
        """Wait for the driver to judge the objections, or judge them alone if it does not in time.

        `is_over` means that this task has no further request.
        """
        counters = self.counters
        counters.waits = not counters.open and bool(counters.objections) and (is_over or self._is_on_trial)
        longest = ALONE_SECONDS if self._is_alone else self._patience.timeout
        if not counters.waits or self._clock() - self._objected_at < longest:
            return
        if objections.concern_every_request(counters.objections, self._situation):
            counters.endpoint_error = objections.refusal(counters.objection)
        else:
            self._works(self._clock())

    def _expected_tokens(self, request: Request) -> float:
        """Estimate a call's tokens; the completion counts as the mean so far, before the first answer as max_tokens."""
        counters = self.counters
        counted = counters.answered - counters.completions_not_counted
        completion = counters.completion_tokens / counted if counted > 0 else request.max_tokens
        return request.characters / CHARS_PER_TOKEN + completion

    def _used_tokens(self, inflight: InFlightRequest) -> float:
        """Return the tokens of a call that has its reply; what the server did not count stays as it was estimated."""
        reply = inflight.reply
        if _is_free(reply):
            return 0.0
        prompt = inflight.request.characters / CHARS_PER_TOKEN
        counts = (reply.prompt_tokens, reply.completion_tokens)
        expected = (prompt, inflight.tokens - prompt)
        return sum(guess if count is None else count for count, guess in zip(counts, expected, strict=True))

    def _max_cost(self, request: Request) -> float:
        """Return the most dollars that a call may cost."""
        return self._price.dollars(*_most_tokens(request))


def most_prompt_tokens(characters: int) -> float:
    """Return the most tokens that a prompt of so many characters may have."""
    return characters / MIN_CHARS_PER_TOKEN + TEMPLATE_TOKENS


def _most_tokens(request: Request) -> tuple[float, float]:
    """Return the most tokens that a request's prompt and its answer may have."""
    return most_prompt_tokens(request.characters), request.max_tokens


def _is_free(reply: Reply) -> bool:
    """Return whether the server has not begun to answer a failed call."""
    is_counted = reply.prompt_tokens is not None or reply.completion_tokens is not None
    return reply.error_class in NOT_BILLED and not reply.is_cut_off and not is_counted


def may_be_billed(reply: Reply) -> bool:
    """Return whether a failed call may have been billed, although the server counted no tokens."""
    is_counted = reply.prompt_tokens is not None or reply.completion_tokens is not None
    return reply.error_class is not None and not is_counted and not _is_free(reply)


def call_cost(price: Price, reply: Reply, most: tuple[float, float]) -> tuple[float, float]:
    """Return the dollars of a call: those of the tokens that the server counted, and at most how many more.

    The tokens that it did not count may be the `most` possible ones, of prompt and answer.
    """
    counts = (reply.prompt_tokens, reply.completion_tokens)
    certain = price.dollars(*(count or 0 for count in counts))
    if _is_free(reply):
        return certain, 0.0
    return certain, price.dollars(
        *(0 if count is not None else limit for count, limit in zip(counts, most, strict=True))
    )
