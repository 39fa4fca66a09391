"""Requests -> answers, many in flight: a sliding window over all that one task asks. No Spark here.

A slow answer never holds back the next request. Retries have one owner, this module: attempts and a deadline, full
jitter, Retry-After up to a cap; a request that waits for its next attempt gives its slot to another. How many may be
open, and how fast, is the meter's business.
"""

import heapq
import itertools
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue

from raft_spark.endpoints.base import RETRIED, Reply, Request
from raft_spark.inference.admission import Admission, InFlightRequest

BACKOFF_BASE, BACKOFF_CAP = 0.5, 60.0  # seconds
TICK = 0.5  # seconds: how long the window stays silent at most

Ask = Callable[[Request, float], Reply]  # the seconds are how long to wait for the answer


@dataclass(frozen=True, slots=True)
class RetryLimits:
    """Of each request: `attempts` that are not throttled, and a deadline after which no call for it starts.

    A throttled call costs the endpoint nothing, so only the deadline ends a request that is throttled again and again.
    """

    attempts: int
    deadline_seconds: float


def ask_all(
    requests: Iterator[tuple[int, Request]], ask: Ask, limits: RetryLimits, meter: Admission
) -> Iterator[InFlightRequest | None]:
    """Yield every request with its last reply, in the order they are finished; None at least every TICK, so that the
    caller can store what it has.

    When the meter says stop, no call starts any more; the open ones are waited for, and what has failed is yielded.
    """
    line = _Line(InFlightRequest(pubid, request) for pubid, request in requests)
    done: SimpleQueue[Future[InFlightRequest]] = SimpleQueue()
    with ThreadPoolExecutor(10_000, thread_name_prefix="ask") as threads:  # made one by one, as calls are open at once
        while True:
            while not meter.stop and (asked := line.head(meter.grant.in_flight)):
                pause = meter.wait(asked.request)
                if pause:
                    break
                line.pop()
                threads.submit(_sent, meter.started(asked), ask, meter).add_done_callback(done.put)
            else:
                pause = line.next_due()
            if meter.stop:
                yield from line.given_up()
            meter.tally.draining = line.is_empty
            if not meter.tally.open and line.is_empty:
                return
            try:
                asked = meter.finished(done.get(timeout=min(TICK, pause)).result())
            except Empty:
                yield None
                continue
            due = _next_attempt(asked, limits)
            if due is not None:
                line.push(due, asked)
            yield asked if due is None else None


class _Line:
    """Requests that wait for their turn: those to be asked again, when they are due, then fresh ones."""

    def __init__(self, fresh: Iterator[InFlightRequest]) -> None:
        self._fresh = fresh
        self._head: InFlightRequest | None = None
        self._again: list[tuple[float, int, InFlightRequest]] = []
        self._order = itertools.count()
        self._is_over = False

    @property
    def is_empty(self) -> bool:
        """Say whether all that came has been handed out."""
        return self._is_over and self._head is None and not self._again

    def head(self, most_waiting: int) -> InFlightRequest | None:
        """Look at the next; while more than `most_waiting` wait to be asked again, no fresh one is taken."""
        if self._head is None:
            if self._again and self._again[0][0] <= time.monotonic():
                self._head = heapq.heappop(self._again)[2]
            elif not self._is_over and len(self._again) <= most_waiting:
                self._head = next(self._fresh, None)
                self._is_over = self._head is None
        return self._head

    def pop(self) -> None:
        """Take away what `head` showed."""
        self._head = None

    def push(self, due: float, asked: InFlightRequest) -> None:
        """Let a request wait until it is due again."""
        heapq.heappush(self._again, (due, next(self._order), asked))

    def next_due(self) -> float:
        """Return the seconds until the first that waits is due."""
        return max(0.001, self._again[0][0] - time.monotonic()) if self._again else TICK

    def given_up(self) -> Iterator[InFlightRequest]:
        """Yield those that were asked and failed, and forget the rest."""
        waiting = [self._head, *(asked for _, _, asked in self._again)]
        self._is_over, self._head, self._again = True, None, []
        yield from (asked for asked in waiting if asked and asked.attempts)


def _sent(asked: InFlightRequest, ask: Ask, meter: Admission) -> InFlightRequest:
    begin = time.monotonic()
    reply = ask(asked.request, meter.seconds(asked))
    return replace(asked, latency=time.monotonic() - begin, reply=reply)


def _next_attempt(asked: InFlightRequest, limits: RetryLimits) -> float | None:
    """Return when to ask again, None when the reply stands."""
    counted = asked.attempts - asked.throttles
    if asked.reply.error_class not in RETRIED or counted >= limits.attempts:
        return None
    jitter = random.uniform(0, min(BACKOFF_CAP, BACKOFF_BASE * 2 ** min(asked.attempts - 1, 30)))  # noqa: S311 - no secret
    due = time.monotonic() + min(asked.reply.retry_after or 0, BACKOFF_CAP) + jitter
    return due if due - asked.first_sent < limits.deadline_seconds else None
