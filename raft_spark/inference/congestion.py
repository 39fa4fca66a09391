"""Decide when a task's next call may start and how long it waits for a reply; callers pass times, in seconds.

`CongestionWindow` adapts the number of open calls to the endpoint's capacity, `RateLimiter` keeps a rate,
`AdaptiveTimeout` separates slow replies from lost ones, `EndpointHealth` separates a bad request from a dead
endpoint.
"""

import math
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass

INITIAL_SIZE = 1e9  # calls: a window that was never throttled is as wide as its cap
RECOVERY_SHARE = 0.95  # of the level that was throttled: the window grows quickly up to here
MAX_PROBE_INTERVAL = 32  # windows of answers between two probes of an endpoint that throttles
MIN_PAUSE, MAX_PAUSE = 0.1, 60.0  # seconds between calls if the endpoint throttles every one
FAILURE_PAUSE_FACTOR = 5.0  # the pause is so many times longer if calls fail
BURST_SECONDS = 0.25  # of a rate that may be sent at once after a pause
MIN_LATENCIES, MAX_LATENCIES = 32, 512  # of the last answers, from which the timeout is computed
TIMEOUT_FACTOR, MIN_TIMEOUT = 3.0, 10.0  # times the slowest of them; seconds
MIN_FAILURES = 4  # in a row before an endpoint counts as dead, however small the window
SILENT_SECONDS = 5.0  # without an answer before an endpoint that has answered counts as dead


class CongestionWindow:
    """Limit the number of open calls by what the endpoint throttles.

    Throttling halves the window. Then it grows by one call an answer to nearly the level that was throttled, by one
    call a window of answers up to that level, and beyond it only as a probe after an interval that doubles with every
    throttling.

    Halving and growing by one alone (AIMD) would use three quarters of an endpoint on average; a remembered level
    uses nearly all of it (the idea of TCP's CUBIC, RFC 9438).
    """

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self._size = INITIAL_SIZE
        self._level = float("inf")  # open calls at the last throttling, less the one that was too many
        self._probe_interval, self._steps_beyond = 1, 0  # in windows of answers; steps above the level
        self._answers = 0
        self._shrunk_at = float("-inf")
        self._pause, self._paused_until = MIN_PAUSE, float("-inf")

    @property
    def size(self) -> int:
        """Return how many calls may be open now, at most the task's quota `cap`."""
        return min(self.cap, max(1, int(self._size)))

    def delay(self, now: float) -> float:
        """Return the seconds until the next call may start even if the window has room.

        It is above 0 after a window of one call was throttled, and after a window of failures.
        """
        return max(0.0, self._paused_until - now)

    def on_answer(self) -> None:
        """Grow by one call: after an answer until near the level, after a window up to it, after an interval beyond."""
        self._pause = MIN_PAUSE
        if self._size < min(self._level * RECOVERY_SHARE, self.cap):
            self._size += 1
            return
        self._answers += 1
        at_level = self._size + 1 > self._level
        if self._size < self.cap and self._answers >= self._size * (self._probe_interval if at_level else 1):
            self._size, self._answers = self._size + 1, 0
            self._steps_beyond += at_level
            if self._steps_beyond > 1:  # the step before was not throttled: the endpoint's capacity has grown
                self._level, self._probe_interval = self._size, 1

    def on_throttle(self, started: float, now: float, open_at_start: int, retry_after: float = 0.0) -> None:
        """Halve the window and remember the level, once for all calls that started before the window last shrank.

        `open_at_start` calls, this one included, were open when it started: one more than the endpoint allows.
        """
        if started >= self._shrunk_at:
            if self.size < 2:  # noqa: PLR2004 - a single call is too many already
                self._rest(now, max(self._pause, retry_after))
            self._level, self._steps_beyond = max(1.0, open_at_start - 1.0), 0
            self._probe_interval = min(MAX_PROBE_INTERVAL, self._probe_interval * 2)
            self._halve(now)

    def on_failed_window(self, started: float, now: float) -> None:
        """Halve the window and pause after a whole window of failures; they reveal no level.

        Without the pause, an endpoint that refuses every call at once, such as a closed port, would get hundreds of
        calls before it counts as dead.
        """
        if started >= self._shrunk_at:
            self._rest(now, FAILURE_PAUSE_FACTOR * self._pause)
            self._halve(now)

    def _rest(self, now: float, seconds: float) -> None:
        self._paused_until = now + min(MAX_PAUSE, seconds)
        self._pause *= 2

    def _halve(self, now: float) -> None:
        self._size = max(1.0, min(self._size, self.cap) / 2)
        self._shrunk_at, self._answers = now, 0


class RateLimiter:
    """Keep a rate of units (calls or tokens) a second, evenly and without a burst at the start.

    The debt is counted in units, not in seconds, because the rate of a task that joins is close to 0 until the other
    tasks have given up their part.
    """

    def __init__(self) -> None:
        self._debt, self._updated_at = float("-inf"), 0.0

    def delay(self, now: float, rate: float) -> float:
        """Return the seconds until something may be sent; infinite at rate 0."""
        self._repay(now, rate)
        return max(0.0, self._debt / rate) if rate else float("inf")

    def record(self, now: float, rate: float, units: float = 1.0) -> None:
        """Add units that were sent; negative units correct an estimate that was too high."""
        self._repay(now, rate)
        self._debt += units

    def _repay(self, now: float, rate: float) -> None:
        """Reduce the debt by what the rate allowed since the last call."""
        self._debt = max(self._debt - (now - self._updated_at) * rate, -BURST_SECONDS * rate)
        self._updated_at = now


class AdaptiveTimeout:
    """Compute timeouts: TIMEOUT_FACTOR times the slowest of the last answers, `most` until there are enough."""

    def __init__(self, most: float) -> None:
        self._most = most
        self._latencies: deque[float] = deque(maxlen=MAX_LATENCIES)
        self._seconds = most

    def on_answer(self, latency: float) -> None:
        """Adapt the timeout to the latency of an answer."""
        self._latencies.append(latency)
        if len(self._latencies) >= MIN_LATENCIES:
            self._seconds = min(self._most, max(MIN_TIMEOUT, TIMEOUT_FACTOR * max(self._latencies)))

    def seconds(self, timeouts: int) -> float:
        """Return the timeout of a request's next call, doubled for each of the `timeouts` it has had."""
        return min(self._most, math.ldexp(self._seconds, timeouts))


@dataclass(frozen=True, slots=True)
class HealthStatus:
    """`window_failed`: a whole window of calls failed without an answer; `dead`: the endpoint answers no call."""

    window_failed: bool = False
    dead: bool = False


class EndpointHealth:
    """Count failures in a row. One request that fails again and again does not show that the endpoint is dead."""

    def __init__(self, now: float) -> None:
        self._answered_at = now
        self._has_answered = False
        self._failures = 0
        self._failed_requests: set[Hashable] = set()

    def on_answer(self, now: float) -> None:
        """Reset the count of failures."""
        self._answered_at, self._has_answered, self._failures = now, True, 0
        self._failed_requests.clear()

    def on_failure(self, request: Hashable, now: float, window: int, cap: int) -> HealthStatus:
        """Count a failed call and return the endpoint's health; `cap` is the window of a healthy endpoint."""
        self._failures += 1
        self._failed_requests.add(request)
        several = len(self._failed_requests) > 1
        silent = not self._has_answered or now - self._answered_at >= SILENT_SECONDS
        dead = self._failures >= max(MIN_FAILURES, cap) and silent
        return HealthStatus(window_failed=several and self._failures % max(1, window) == 0, dead=several and dead)

    def silent_seconds(self, now: float) -> float:
        """Return the seconds since the last answer, or since the start if there was none."""
        return now - self._answered_at
