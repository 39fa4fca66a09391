"""Send the requests of one Spark task, many at once, and yield each with its final reply. Does not import Spark.

Requests finish in any order: a slow one does not block the next. This module alone retries: it limits the attempts
and the time of a request, backs off with full jitter and honours Retry-After up to a cap. A request that waits for
its retry occupies no slot. Admission decides how many calls may be open, and how fast they start.
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
TICK = 0.5  # seconds: ask_all yields at least this often
MAX_THREADS = 10_000  # the pool starts a thread only when a call needs one

Ask = Callable[[Request, float], Reply]  # a request and its timeout in seconds -> its reply


@dataclass(frozen=True, slots=True)
class RetryLimits:
    """Limits of each request: its `attempts` without throttled ones, and a deadline after which no call starts.

    An endpoint does no work for a call that it throttles, so only the deadline ends a request that is always throttled.
    """

    attempts: int
    deadline_seconds: float


def ask_all(
    requests: Iterator[tuple[int, Request]], ask: Ask, limits: RetryLimits, admission: Admission
) -> Iterator[InFlightRequest | None]:
    """Yield every request with its final reply, in the order in which they finish.

    Yields None at least every TICK seconds, so that the caller can store what it has. Once `admission` has a reason to
    stop, no call starts: open calls run to their end, and requests that failed before and wait for a retry are yielded
    with their last error.
    """
    queue = _RequestQueue(InFlightRequest(pubid, request) for pubid, request in requests)
    refused: list[InFlightRequest] = []  # by the endpoint, perhaps not for their own fault
    done: SimpleQueue[Future[InFlightRequest]] = SimpleQueue()
    with ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="ask") as threads:

        def send(inflight: InFlightRequest) -> None:
            threads.submit(_call, admission.start(inflight), ask, admission).add_done_callback(done.put)

        while True:
            delay = _send_admitted(queue, admission, send)
            if admission.stop_reason:
                yield from queue.abandon()
            admission.counters.draining = queue.is_empty
            yield from _judged(refused, admission, is_over=queue.is_empty)
            if queue.is_empty and not admission.counters.open and not refused:
                return
            try:
                inflight = admission.finish(done.get(timeout=min(TICK, delay)).result())
            except Empty:
                yield None
                continue
            retry_at = _next_attempt(inflight, limits)
            if retry_at is None and inflight.reply.error_class == "bad_request":
                refused.append(inflight)
            elif retry_at is None:
                yield inflight
            else:
                queue.push(retry_at, inflight)
                yield None


def _judged(refused: list[InFlightRequest], admission: Admission, *, is_over: bool) -> Iterator[InFlightRequest]:
    """Take the requests out of `refused` of which is known whether they are to blame.

    When the run ends before, they are not: their class becomes `refused`, so that a later run asks them again.
    """
    admission.look_elsewhere()
    admission.await_judgement(is_over=is_over)
    if admission.stop_reason:
        yield from (replace(each, reply=replace(each.reply, error_class="refused")) for each in refused)
        refused.clear()
        return
    judged = [each for each in refused if admission.is_to_blame(each)]
    refused[:] = [each for each in refused if not admission.is_to_blame(each)]
    yield from judged


def _send_admitted(queue: "_RequestQueue", admission: Admission, send: Callable[[InFlightRequest], None]) -> float:
    """Send requests until the queue has none to send now, or admission delays the next one.

    Returns the seconds until another request may be sent, UNLIMITED if a call has to finish first.
    """
    while not admission.stop_reason and (inflight := queue.peek(admission.allocation.in_flight)):
        delay = admission.delay(inflight.request)
        if delay:
            return delay
        queue.pop()
        send(inflight)
    return queue.seconds_until_retry()


class _RequestQueue:
    """Hold the requests to send: first the retries that are due, then new requests."""

    def __init__(self, new: Iterator[InFlightRequest]) -> None:
        self._new = new
        self._is_exhausted = False  # `_new` has no more
        self._head: InFlightRequest | None = None
        self._retries: list[tuple[float, int, InFlightRequest]] = []  # heap of (due, insertion order, request)
        self._order = itertools.count()

    @property
    def is_empty(self) -> bool:
        """Return whether no request is left to send, now or later."""
        return self._is_exhausted and self._head is None and not self._retries

    def peek(self, max_retries: int) -> InFlightRequest | None:
        """Return the next request without removing it; no new one while more than `max_retries` retries wait."""
        if self._head is None:
            if self._retries and self._retries[0][0] <= time.monotonic():
                self._head = heapq.heappop(self._retries)[2]
            elif not self._is_exhausted and len(self._retries) <= max_retries:
                self._head = next(self._new, None)
                self._is_exhausted = self._head is None
        return self._head

    def pop(self) -> None:
        """Remove the request that `peek` returned."""
        self._head = None

    def push(self, due: float, inflight: InFlightRequest) -> None:
        """Add a retry; `due` is a time of the monotonic clock."""
        heapq.heappush(self._retries, (due, next(self._order), inflight))

    def seconds_until_retry(self) -> float:
        """Return the seconds until the first retry is due, TICK if there is none."""
        return max(0.001, self._retries[0][0] - time.monotonic()) if self._retries else TICK

    def abandon(self) -> Iterator[InFlightRequest]:
        """Empty the queue; yield the requests that were sent before and failed."""
        waiting = [self._head, *(inflight for _, _, inflight in self._retries)]
        self._is_exhausted, self._head, self._retries = True, None, []
        yield from (inflight for inflight in waiting if inflight and inflight.attempts)


def _call(inflight: InFlightRequest, ask: Ask, admission: Admission) -> InFlightRequest:
    begin = time.monotonic()
    reply = ask(inflight.request, admission.timeout(inflight))
    return replace(inflight, latency=time.monotonic() - begin, reply=reply)


def _next_attempt(inflight: InFlightRequest, limits: RetryLimits) -> float | None:
    """Return when to retry, by the monotonic clock; None if the reply is final."""
    counted = inflight.attempts - inflight.throttles
    if inflight.reply.error_class not in RETRIED or counted >= limits.attempts:
        return None
    longest = min(BACKOFF_CAP, BACKOFF_BASE * 2 ** min(inflight.attempts - 1, 30))
    jitter = random.uniform(0, longest)  # noqa: S311 - no secret
    due = time.monotonic() + min(inflight.reply.retry_after or 0, BACKOFF_CAP) + jitter
    return due if due - inflight.first_sent < limits.deadline_seconds else None
