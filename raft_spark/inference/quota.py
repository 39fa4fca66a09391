"""Limits of the whole cluster -> what each task may do now. Pure arithmetic, no clock and no socket.

Every limit is shared by one rule: a task gets its fair part, but never more than what the others do not hold at this moment.
So the sum over all tasks stays below the limit at every time: a task that joins gets little until the others have
given way, and what a finished or lost task held is free again.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClusterLimits:
    """What the whole cluster may do; 0 is no limit, but of `in_flight`. `dollars` are those of the run."""

    in_flight: int
    requests_per_second: float = 0.0
    tokens_per_minute: float = 0.0
    dollars: float = 0.0


@dataclass(frozen=True, slots=True)
class Allocation:
    """What one task may do until it asks again; `dollars` count from its start. 0 requests a second are none: see UNLIMITED.

    `stop` says why it may start no call any more; `waits` that an attempt before it at the same rows still runs.
    """

    in_flight: int
    requests_per_second: float
    tokens_per_minute: float
    dollars: float
    stop: str = ""
    waits: bool = False


@dataclass(frozen=True, slots=True)
class Demand:
    """What one task says when it asks: calls `open`, dollars `spent` on answers and `reserved` for open calls at their
    dearest, and the dearest that its `next_call` may cost. `draining` = it has no more to ask.
    """

    open: int = 0
    spent: float = 0.0
    reserved: float = 0.0
    next_call: float = 0.0
    draining: bool = False


UNLIMITED = float("inf")


def describe_limits(limits: ClusterLimits, tasks: int) -> str:
    """Say what the whole cluster may do, and a task's part of it while all run."""
    named = {
        "calls open at once": limits.in_flight,
        "requests a second": limits.requests_per_second,
        "tokens a minute": limits.tokens_per_minute,
        "dollars": limits.dollars,
    }
    said = [f"{limit:,g} {name} / {tasks} = {limit / tasks:,.4g}" for name, limit in named.items() if limit]
    return f"{tasks} task{'s' * (tasks > 1)}; the whole cluster, and a task while all run: {', '.join(said)}"


class QuotaLedger:
    """Who holds what of the cluster's limits."""

    def __init__(self, limits: ClusterLimits) -> None:
        self._limits = limits
        self._grants: dict[str, Allocation] = {}  # the last of each task
        self._holds: dict[str, Allocation] = {}  # the larger of its last two: it goes by the one before until it hears
        self._needs: dict[str, Demand] = {}
        self._gone: dict[str, float] = {}  # dollars of tasks that are not here any more

    def grant(self, task: str, need: Demand, running: int = 0) -> Allocation:
        """Return what `task` may do now. `running` tasks are known to Spark, some of which may not have asked yet."""
        self._needs[task] = need
        self._gone.pop(task, None)
        others = {name: found for name, found in self._holds.items() if name != task}
        draining = sum(found.draining for found in self._needs.values())
        sharing = max(1, max(running, len(self._needs)) - draining)
        rates = (
            _part(self._limits.requests_per_second, [found.requests_per_second for found in others.values()], sharing),
            _part(self._limits.tokens_per_minute, [found.tokens_per_minute for found in others.values()], sharing),
        )
        calls, tokens = (0.0, 0.0) if need.draining else rates
        granted = Allocation(
            self._in_flight(need, others, sharing), calls, tokens, self._dollars(need, others, sharing)
        )
        self._holds[task] = _larger(granted, self._grants.get(task, granted))
        self._grants[task] = granted
        return granted

    def left(self, task: str, spent: float | None = None) -> None:
        """Free what a task held. Without a last word of what it `spent`, all it was allowed counts as spent."""
        held = self._holds.pop(task, None)
        self._grants.pop(task, None)
        self._needs.pop(task, None)
        if held and self._limits.dollars:
            self._gone[task] = held.dollars if spent is None else spent

    @property
    def is_spent(self) -> bool:
        """Say whether no task can pay for another call, and none has an open one that may turn out cheaper."""
        if not (self._limits.dollars and self._needs):
            return False
        free = self._free(need.spent + need.reserved for need in self._needs.values())
        waiting = [need.next_call for need in self._needs.values() if not need.draining]
        return bool(waiting) and not any(need.open for need in self._needs.values()) and free < min(waiting)

    def _in_flight(self, need: Demand, others: Mapping[str, Allocation], sharing: int) -> int:
        """Share calls: what draining tasks have open is all they hold; a remainder goes to whoever asks first."""
        held = sum(self._held(name, found) for name, found in others.items())
        if need.draining:
            return need.open
        draining = sum(found.open for found in self._needs.values() if found.draining)
        fair = -(-max(0, self._limits.in_flight - draining) // sharing)
        return max(0, min(fair, self._limits.in_flight - held))

    def _held(self, name: str, granted: Allocation) -> int:
        need = self._needs[name]
        return need.open if need.draining else max(granted.in_flight, need.open)

    def _free(self, held: Iterable[float]) -> float:
        """Return the dollars that nobody has spent or holds, rounded once: `grant` and `is_spent` must never disagree."""
        return self._limits.dollars - math.fsum([*self._gone.values(), *held])

    def _dollars(self, need: Demand, others: Mapping[str, Allocation], sharing: int) -> float:
        """Share what nobody holds: the fair part, at least the next call; nothing where that is too little to be of use, or
        two tasks would keep from each other what would do for one.
        """
        if not self._limits.dollars:
            return UNLIMITED
        own = need.spent + need.reserved
        free = self._free([*(found.dollars for found in others.values()), own])
        is_of_use = not need.draining and free >= need.next_call
        return own + (max(need.next_call, free / (sharing + 1)) if is_of_use else 0.0)


def _larger(one: Allocation, other: Allocation) -> Allocation:
    return Allocation(
        in_flight=max(one.in_flight, other.in_flight),
        requests_per_second=max(one.requests_per_second, other.requests_per_second),
        tokens_per_minute=max(one.tokens_per_minute, other.tokens_per_minute),
        dollars=max(one.dollars, other.dollars),
    )


def _part(limit: float, held: list[float], sharing: int) -> float:
    """Return a task's part of a rate; UNLIMITED without a limit."""
    return max(0.0, min(limit / sharing, limit - sum(held))) if limit else UNLIMITED
