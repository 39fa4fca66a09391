"""Requests -> answers, many in flight: a sliding window over all that one task asks. No Spark here.

A slow answer never holds back the next request. Retries have one owner, this module: attempts and a deadline, full
jitter, Retry-After up to a cap; a request that waits for its next attempt gives its slot to another.
"""

import heapq
import itertools
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue

from raft_spark.endpoints import RETRIED, Reply, Request

FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds
TICK = 0.5  # seconds: how long the window stays silent at most


@dataclass(frozen=True, slots=True)
class Limits:
    """What one task may do: `in_flight` requests at once, `attempts` and `deadline_seconds` for each request."""

    in_flight: int
    attempts: int
    deadline_seconds: float


@dataclass(frozen=True, slots=True)
class Asked:
    """One request on its way or answered; `pubid` is carried along. Latency is that of the last call, in seconds."""

    pubid: int
    request: Request
    attempts: int = 0
    first_sent: float = 0.0
    latency: float = 0.0
    reply: Reply = field(default_factory=Reply)


def answers(
    requests: Iterator[tuple[int, Request]], ask: Callable[[Request], Reply], limits: Limits
) -> Iterator[Asked | None]:
    """Yield every request with its last reply, in the order they are finished; None at least every TICK, so that the
    caller can store what it has.
    """
    ready = (Asked(pubid, request) for pubid, request in requests)
    done: SimpleQueue[Future[Asked]] = SimpleQueue()
    waiting: list[tuple[float, int, Asked]] = []
    order, flying, more = itertools.count(), 0, True
    with ThreadPoolExecutor(limits.in_flight, thread_name_prefix="ask") as threads:
        while True:
            while flying < limits.in_flight:
                if waiting and waiting[0][0] <= time.monotonic():
                    asked = heapq.heappop(waiting)[2]
                elif more and len(waiting) <= limits.in_flight:
                    following = next(ready, None)
                    if following is None:
                        more = False
                        continue
                    asked = following
                else:
                    break
                threads.submit(_sent, asked, ask).add_done_callback(done.put)
                flying += 1
            if not (flying or waiting):
                return
            patience = _patience(waiting) if flying < limits.in_flight else TICK
            try:
                asked = done.get(timeout=patience).result()
            except Empty:
                yield None
                continue
            flying -= 1
            due = _next_attempt(asked, limits)
            if due is not None:
                heapq.heappush(waiting, (due, next(order), asked))
            yield asked if due is None else None


def _sent(asked: Asked, ask: Callable[[Request], Reply]) -> Asked:
    begin = time.monotonic()
    reply = ask(asked.request)
    first, latency = asked.first_sent or begin, time.monotonic() - begin
    return replace(asked, attempts=asked.attempts + 1, first_sent=first, latency=latency, reply=reply)


def _next_attempt(asked: Asked, limits: Limits) -> float | None:
    """Return when to ask again, None when the reply stands."""
    if asked.reply.error_class not in RETRIED or asked.attempts >= limits.attempts:
        return None
    longest = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (asked.attempts - 1))
    wait = max(random.uniform(0, longest), min(asked.reply.retry_after or 0, LONGEST_WAIT))  # noqa: S311 - jitter
    due = time.monotonic() + wait
    return due if due - asked.first_sent < limits.deadline_seconds else None


def _patience(waiting: list[tuple[float, int, Asked]]) -> float:
    return min(TICK, max(0.001, waiting[0][0] - time.monotonic())) if waiting else TICK
