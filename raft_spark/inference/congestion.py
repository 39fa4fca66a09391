"""Decide when a task's next call may start and how long it waits for a reply; callers pass times, in seconds.

`CongestionWindow` adapts the number of open calls to the endpoint's capacity, `RateLimiter` keeps a rate,
`AdaptiveTimeout` separates slow replies from lost ones, `EndpointHealth` separates a bad request from a dead
endpoint.
"""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from statistics import median

INITIAL_SIZE = 1e9  # calls: a window that was never throttled is as wide as its cap
RECOVERY_SHARE = 0.95  # of the level that was throttled: the window grows quickly up to here
MAX_PROBE_INTERVAL = 32  # windows of answers between two probes of an endpoint that throttles
MIN_PAUSE, MAX_PAUSE = 0.1, 60.0  # seconds between calls if the endpoint throttles every one
FAILURE_PAUSE_FACTOR = 5.0  # the pause is so many times longer if calls fail
BURST_SECONDS = 0.25  # of a rate that may be sent at once after a pause
MIN_LATENCIES, MAX_LATENCIES = 32, 512  # of the last answers, from which the timeout is computed
TIMEOUT_FACTOR, MEDIAN_FACTOR = 3.0, 100.0  # times the slowest of them, and times their median
MIN_FAILURES = 4  # in a row before an endpoint counts as dead, however small the window


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
    """Compute after how long a reply counts as lost: far later than any of the last answers took, from `least` to `most`.

    It is `most` until there are enough answers, and for a request that timed out before: so a slow answer is paid for
    twice at most.
    """

    def __init__(self, least: float, most: float) -> None:
        self._least, self._most = least, most
        self._latencies: deque[float] = deque(maxlen=MAX_LATENCIES)
        self._seconds = most
        self._answers = 0

    def on_answer(self, latency: float) -> None:
        """Adapt the timeout to the latency of an answer."""
        self._latencies.append(latency)
        self._answers += 1
        if self._answers % MIN_LATENCIES == 0 or latency * TIMEOUT_FACTOR > self._seconds:
            self._adapt()

    def _adapt(self) -> None:
        if len(self._latencies) < MIN_LATENCIES:
            return
        patience = max(TIMEOUT_FACTOR * max(self._latencies), MEDIAN_FACTOR * median(self._latencies))
        self._seconds = min(self._most, max(self._least, patience))

    def seconds(self, timeouts: int) -> float:
        """Return the timeout of the next call of a request that has had so many `timeouts`."""
        return self._most if timeouts else self._seconds


@dataclass(frozen=True, slots=True)
class HealthStatus:
    """`window_failed`: a whole window of calls failed without an answer; `is_out`: several requests failed and none was
    answered since; `dead`: the endpoint answers no call.
    """

    window_failed: bool = False
    is_out: bool = False
    dead: bool = False


class EndpointHealth:
    """Count failures in a row. One request that fails again and again does not show that the endpoint is dead.

    An endpoint that has never answered is dead after a window of failures, one that has answered when they go on for
    `patience` seconds. One that says that it is busy, as while a model is loaded, has the `longest` time of a request.
    """

    def __init__(self, now: float, patience: float, longest: float) -> None:
        self._patience, self._longest = min(patience, longest), longest
        self._answered_at = now
        self._has_answered = False
        self._failures = self._long_waits = 0
        self._failed_requests: set[Hashable] = set()
        self._failing_since: float | None = None

    def on_answer(self, now: float) -> None:
        """Reset the count of failures."""
        self.on_answer_elsewhere(now)
        self._failures = self._long_waits = 0
        self._failed_requests.clear()

    def on_answer_elsewhere(self, now: float) -> None:
        """Register that the endpoint answers another task."""
        self._answered_at, self._has_answered, self._failing_since = now, True, None

    def on_failure(self, request: Hashable, now: float, window: int, cap: int) -> HealthStatus:
        """Count a failed call and return the endpoint's health; `cap` is the window of a healthy endpoint."""
        self._failures += 1
        several = self._fails(request, now)
        is_silent = not self._has_answered or self._failing_seconds(now) >= self._patience
        count = len(self._failed_requests)
        return HealthStatus(
            window_failed=several and self._failures % max(1, window) == 0,
            is_out=count > cap or count >= MIN_FAILURES,
            dead=several and is_silent and self._failures >= max(MIN_FAILURES, cap),
        )

    def on_throttle(self, request: Hashable, now: float) -> bool:
        """Register that the endpoint is busy; return whether it counts as dead."""
        return self._fails(request, now) and self._failing_seconds(now) >= self._longest

    def asks_too_much(self, retry_after: float, cap: int) -> bool:
        """Return whether the endpoint has asked, several times in a row, to wait longer than a request may take."""
        self._long_waits = self._long_waits + 1 if retry_after > self._longest else 0
        return self._long_waits >= max(1, min(MIN_FAILURES, cap))

    def _fails(self, request: Hashable, now: float) -> bool:
        """Register a call without an answer; return whether several requests had none since the last answer."""
        self._failing_since = now if self._failing_since is None else self._failing_since
        self._failed_requests.add(request)
        return len(self._failed_requests) > 1

    def _failing_seconds(self, now: float) -> float:
        return now - (now if self._failing_since is None else self._failing_since)

    def silent_seconds(self, now: float) -> float:
        """Return the seconds since the last answer, or since the start if there was none."""
        return now - self._answered_at
