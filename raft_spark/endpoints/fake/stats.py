"""Count the calls of the fake endpoint and their outcomes, to compare with the reports of raft-spark in tests."""

import time
from collections import Counter, defaultdict
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RequestName:
    """The names by which a call is counted: a hash of the whole request, and the caller's key, else the hash again."""

    digest: str
    key: str


class ServerStats:
    """Counts since the start or the last reset.

    `answered` counts complete answers without a fault that the caller received.
    """

    def __init__(self) -> None:
        self._open = 0
        self.reset()

    def reset(self) -> None:
        """Reset the counts; calls that are open stay counted as open."""
        self._start = time.monotonic()
        self._most_open = self._open
        self._hung = 0
        self._calls: Counter[str] = Counter()
        self._answered: Counter[str] = Counter()
        self._by_status: Counter[int] = Counter()
        self._callers: set[object] = set()
        self._keys: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])  # calls, answered
        self._seconds: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0, 0])  # calls, answered, throttled
        self._tokens: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])  # of prompts, of answers

    def count_call(self, name: RequestName, caller: object) -> int:
        """Count a new call; return the number of its attempt, from 1."""
        self._open += 1
        self._most_open = max(self._most_open, self._open)
        self._calls[name.digest] += 1
        self._keys[name.key][0] += 1
        self._now()[0] += 1
        self._callers.add(caller)
        return self._calls[name.digest]

    def count_hung(self) -> None:
        """Count a call that never gets an answer."""
        self._hung += 1

    def count_response(self, status: int, *, throttled: bool) -> None:
        """Count a response by its status, before it is sent."""
        self._by_status[status] += 1
        self._now()[2] += throttled

    def count_answer(self, name: RequestName) -> None:
        """Count a complete answer without a fault."""
        self._answered[name.digest] += 1
        self._keys[name.key][1] += 1
        self._now()[1] += 1

    def count_tokens(self, prompt: int, completion: int) -> None:
        """Count the tokens of an answer, before it is sent."""
        counts = self._tokens[int(time.monotonic() - self._start)]
        counts[0] += prompt
        counts[1] += completion

    def count_end(self) -> None:
        """Count a call as closed, with any outcome."""
        self._open -= 1

    def summary(self) -> dict[str, object]:
        """Return the totals: calls, distinct requests, outcomes, and the digests of requests answered more than once.

        `most_open` is the largest number of calls open at once, including throttled ones. `by_status` counts responses,
        including those that were not sent completely.
        """
        return {
            "calls": self._calls.total(),
            "answered": self._answered.total(),
            "distinct": len(self._calls),
            "repeated": sorted(digest for digest, times in self._answered.items() if times > 1),
            "connections": len(self._callers),
            "throttled": sum(throttled for _, _, throttled in self._seconds.values()),
            "hung": self._hung,
            "open": self._open,
            "most_open": self._most_open,
            "by_status": {str(status): times for status, times in sorted(self._by_status.items())},
        }

    def keys(self) -> dict[str, dict[str, int]]:
        """Return by key the numbers of calls and of answers."""
        return {key: {"calls": calls, "answered": answered} for key, (calls, answered) in self._keys.items()}

    def seconds(self) -> list[list[int]]:
        """Return [second, calls, answered, throttled] for each second from the start to the last call."""
        return [[second, *self._seconds.get(second, (0, 0, 0))] for second in range(max(self._seconds, default=-1) + 1)]

    def tokens(self) -> list[list[int]]:
        """Return [second, prompt tokens, completion tokens] for each second from the start to the last answer."""
        return [[second, *self._tokens.get(second, (0, 0))] for second in range(max(self._tokens, default=-1) + 1)]

    def _now(self) -> list[int]:
        return self._seconds[int(time.monotonic() - self._start)]
