"""What the fake endpoint was asked, and what became of it: the other side of the bill, for tests and benchmarks."""

import time
from collections import Counter, defaultdict
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RequestName:
    """What a call is counted under: the hash of all that was sent, and the caller's own key (else that hash again)."""

    digest: str
    key: str


class ServerStats:
    """Calls since the start or the last reset. `answered` is a whole and sound answer, sent to a caller still there."""

    def __init__(self) -> None:
        self._open = 0
        self.reset()

    def reset(self) -> None:
        """Forget all calls but those that are open."""
        self._start = time.monotonic()
        self._most_open = self._open
        self._hung = 0
        self._asked: Counter[str] = Counter()
        self._answered: Counter[str] = Counter()
        self._by_status: Counter[int] = Counter()
        self._callers: set[object] = set()
        self._keys: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])  # calls, answered
        self._seconds: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0, 0])  # calls, answered, throttled

    def came(self, name: RequestName, caller: object) -> int:
        """Count a call; return which attempt of its request it is, from 1."""
        self._open += 1
        self._most_open = max(self._most_open, self._open)
        self._asked[name.digest] += 1
        self._keys[name.key][0] += 1
        self._now()[0] += 1
        self._callers.add(caller)
        return self._asked[name.digest]

    def hung(self) -> None:
        """Count a call that gets no answer."""
        self._hung += 1

    def began(self, status: int, *, throttled: bool) -> None:
        """Count an answer by its status, as it is begun."""
        self._by_status[status] += 1
        self._now()[2] += throttled

    def answered(self, name: RequestName) -> None:
        """Count a sound answer that is wholly sent."""
        self._answered[name.digest] += 1
        self._keys[name.key][1] += 1
        self._now()[1] += 1

    def went(self) -> None:
        """Count a call as closed, however it ended."""
        self._open -= 1

    def told(self) -> dict[str, object]:
        """Say how many calls came, how they ended, of how many requests, and which of these were answered twice.

        most_open is how many were open at once at most, with those turned away; by_status counts the answers begun.
        """
        return {
            "calls": self._asked.total(),
            "answered": self._answered.total(),
            "distinct": len(self._asked),
            "repeated": sorted(digest for digest, times in self._answered.items() if times > 1),
            "connections": len(self._callers),
            "throttled": sum(throttled for _, _, throttled in self._seconds.values()),
            "hung": self._hung,
            "open": self._open,
            "most_open": self._most_open,
            "by_status": {str(status): times for status, times in sorted(self._by_status.items())},
        }

    def keys(self) -> dict[str, dict[str, int]]:
        """Say for each key how many calls came and how many were answered."""
        return {key: {"calls": calls, "answered": answered} for key, (calls, answered) in self._keys.items()}

    def seconds(self) -> list[list[int]]:
        """List every second up to the last with a call: which second since the start, calls, answered, throttled."""
        return [[second, *self._seconds.get(second, (0, 0, 0))] for second in range(max(self._seconds, default=-1) + 1)]

    def _now(self) -> list[int]:
        return self._seconds[int(time.monotonic() - self._start)]
