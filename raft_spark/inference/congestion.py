"""When may a task's next call start, and how long is it waited for? No thread and no clock here: times are handed in, in seconds.

`Window` adapts how many calls are open to what the endpoint bears, `Spacing` keeps a rate, `Patience` tells a slow answer
from a lost one, `Health` tells a bad request from a dead endpoint.
"""

import math
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass

INITIAL_SIZE = 1e9  # calls: the share `cap` is what counts
RECOVERY_SHARE = 0.95  # of the level that was throttled: up to here the window returns quickly
MAX_PROBE_INTERVAL = 32  # windows of successes between two probes of an endpoint that throttles
MIN_PAUSE, MAX_PAUSE = 0.1, 60.0  # seconds between calls, where the endpoint throttles each
FAILURE_PAUSE_FACTOR = 5.0  # times as long, where it answers none
BURST_SECONDS = 0.25  # seconds: how much of a rate may be made up for after a pause
MIN_LATENCIES, MAX_LATENCIES = 32, 512  # of which the slowest tells how long an answer may take
TIMEOUT_FACTOR, MIN_TIMEOUT = 3.0, 10.0
MIN_FAILURES = 4  # that end a run, however small the window
SILENT_SECONDS = 5.0  # without an answer, after there were some, before an endpoint counts as dead


class CongestionWindow:
    """How many calls may be open: half as many after throttling, quickly back to nearly the level that was throttled, by one
    a window of answers up to it, and beyond it only after a calm time, which doubles each time the level proves true.

    Halving and growing by one alone (AIMD) would use three quarters of an endpoint on average; a remembered level uses
    nearly all of it (the idea of TCP's CUBIC, RFC 9438).
    """

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self._size = INITIAL_SIZE
        self._level = float("inf")  # calls that the endpoint bore when it last throttled one more
        self._calm, self._beyond = 1, 0
        self._answers = 0
        self._shrunk_at = float("-inf")
        self._pause, self._paused_until = MIN_PAUSE, float("-inf")

    @property
    def size(self) -> int:
        """Return how many calls may be open now, within the task's share `cap`."""
        return min(self.cap, max(1, int(self._size)))

    def wait(self, now: float) -> float:
        """Return the seconds until the next call may start, though the window has room: what is throttled at one call
        pauses, and what answers none.
        """
        return max(0.0, self._paused_until - now)

    def answered(self) -> None:
        """Grow: by one an answer until near the level, by one a window up to it, by one after `calm` windows beyond."""
        self._pause = MIN_PAUSE
        if self._size < min(self._level * RECOVERY_SHARE, self.cap):
            self._size += 1
            return
        self._answers += 1
        at_level = self._size + 1 > self._level
        if self._size < self.cap and self._answers >= self._size * (self._calm if at_level else 1):
            self._size, self._answers = self._size + 1, 0
            self._beyond += at_level
            if self._beyond > 1:  # the last step was borne: the endpoint has grown
                self._level, self._calm = self._size, 1

    def throttled(self, started: float, now: float, open_then: int, retry_after: float = 0.0) -> None:
        """Halve, once for all calls that were on their way when the window last shrank; `open_then` calls were too many."""
        if started >= self._shrunk_at:
            if self.size < 2:  # noqa: PLR2004 - a single call is too many already
                self._rest(now, max(self._pause, retry_after))
            self._level, self._beyond = max(1.0, open_then - 1.0), 0
            self._calm = min(MAX_PROBE_INTERVAL, self._calm * 2)
            self._halve(now)

    def failed(self, started: float, now: float) -> None:
        """Halve and rest for a whole window of failures; it tells no level. Without the rest an endpoint that refuses every
        call at once, as a closed port does, would see hundreds of them before it counts as dead.
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
    """Keep `rate` units a second (of calls, of tokens), evenly, without a burst at the start.

    What was sent is owed in units, not in time, since the rate of a task that joins is next to nothing until others give way.
    """

    def __init__(self) -> None:
        self._owed, self._at = float("-inf"), 0.0

    def wait(self, now: float, rate: float) -> float:
        """Return the seconds until something may be sent; infinite at rate 0."""
        self._pass(now, rate)
        return max(0.0, self._owed / rate) if rate else float("inf")

    def sent(self, now: float, rate: float, units: float = 1.0) -> None:
        """Count what was sent; less than was feared is given back as negative units."""
        self._pass(now, rate)
        self._owed += units

    def _pass(self, now: float, rate: float) -> None:
        """Pay off what is owed by the time that has passed."""
        self._owed = max(self._owed - (now - self._at) * rate, -BURST_SECONDS * rate)
        self._at = now


class AdaptiveTimeout:
    """How long to wait for an answer: some times the slowest of the last ones, once there were enough."""

    def __init__(self, most: float) -> None:
        self._most = most
        self._last: deque[float] = deque(maxlen=MAX_LATENCIES)
        self._seconds = most

    def answered(self, latency: float) -> None:
        """Learn from an answer."""
        self._last.append(latency)
        if len(self._last) >= MIN_LATENCIES:
            self._seconds = min(self._most, max(MIN_TIMEOUT, TIMEOUT_FACTOR * max(self._last)))

    def seconds(self, timeouts: int) -> float:
        """Return how long to wait, twice as long for each time that this request has timed out before."""
        return min(self._most, math.ldexp(self._seconds, timeouts))


@dataclass(frozen=True, slots=True)
class HealthStatus:
    """`window_failed`: a whole window of calls failed without an answer; `dead`: the endpoint does not answer at all."""

    window_failed: bool = False
    dead: bool = False


class EndpointHealth:
    """Count failures in a row. One bad request that fails again and again says nothing about the endpoint."""

    def __init__(self, now: float) -> None:
        self._since = now
        self._answered = False
        self._calls = 0
        self._requests: set[Hashable] = set()

    def answered(self, now: float) -> None:
        """Forget the failures: the endpoint lives."""
        self._since, self._answered, self._calls = now, True, 0
        self._requests.clear()

    def failed(self, request: Hashable, now: float, window: int, cap: int) -> HealthStatus:
        """Judge after a call that got no answer; `cap` is the window of a healthy endpoint."""
        self._calls += 1
        self._requests.add(request)
        several = len(self._requests) > 1
        silent = not self._answered or now - self._since >= SILENT_SECONDS
        dead = self._calls >= max(MIN_FAILURES, cap) and silent
        return HealthStatus(window_failed=several and self._calls % max(1, window) == 0, dead=several and dead)

    def silent_seconds(self, now: float) -> float:
        """Return how long ago the last answer came, or the run began."""
        return now - self._since
