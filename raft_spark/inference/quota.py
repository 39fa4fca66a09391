"""cluster limits, demands of the tasks -> allocation of each task: divide the limits of a run. No clock, no socket.

One rule divides every limit: a task gets an equal part, but never more than what the other tasks do not hold at this
moment. So the sum over all tasks never exceeds a limit: a task that joins gets little until the others have reduced
their use, and what a finished or lost task held is free again.
"""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

HEARTBEAT_SECONDS = 0.5  # between two heartbeats of a task, where there are not too many tasks


@dataclass(frozen=True, slots=True)
class ClusterLimits:
    """Limits of the whole cluster; 0 means no limit, except for `in_flight`. `dollars` are for the whole run."""

    in_flight: int
    requests_per_second: float = 0.0
    tokens_per_minute: float = 0.0
    dollars: float = 0.0


@dataclass(frozen=True, slots=True)
class Allocation:
    """Limits of one task until its next heartbeat; `dollars` count from its start. A rate of 0 allows no request.

    `stop_reason` says why it may start no call any more. `must_wait` means that an earlier attempt at the same rows
    still runs. `worked` grows whenever the endpoint has answered a request of any task; after `trial` requests in a row
    that it refuses, the task waits until it grows. The next heartbeat is due after `heartbeat` seconds.
    """

    in_flight: int
    requests_per_second: float
    tokens_per_minute: float
    dollars: float
    stop_reason: str = ""
    must_wait: bool = False
    worked: int = 0
    trial: int = 4
    heartbeat: float = HEARTBEAT_SECONDS


@dataclass(frozen=True, slots=True)
class Demand:
    """State of one task: calls `open`, dollars `spent`, dollars `reserved` for the open calls at their maximum cost,
    and the maximum cost of its `next_call`. `draining` means that it has no more requests to send.
    """

    open: int = 0
    spent: float = 0.0
    reserved: float = 0.0
    next_call: float = 0.0
    draining: bool = False


UNLIMITED = float("inf")


def describe_limits(limits: ClusterLimits, tasks: int) -> str:
    """Return one line with each limit of the cluster and its part for one of `tasks` tasks."""
    named = {
        "calls open at once": limits.in_flight,
        "requests a second": limits.requests_per_second,
        "tokens a minute": limits.tokens_per_minute,
        "dollars": limits.dollars,
    }
    parts = [f"{limit:,g} {name} / {tasks} = {limit / tasks:,.4g}" for name, limit in named.items() if limit]
    return f"{tasks} task{'s' * (tasks > 1)}; limits of the cluster and of one task: {', '.join(parts)}"


class QuotaLedger:
    """Record which task holds how much of the cluster's limits."""

    def __init__(self, limits: ClusterLimits) -> None:
        self._limits = limits
        self._demands: dict[str, Demand] = {}
        self._draining: dict[str, int] = {}  # the open calls of the tasks that drain
        self._allocations: dict[str, Allocation] = {}  # the last of each task
        # What each task holds: the larger of its last two allocations, since it uses the older until it has the newer.
        # By limit, so that hundreds of tasks are added up again and again without a loop in Python.
        self._calls: dict[str, int] = {}
        self._requests, self._tokens, self._money = dict[str, float](), dict[str, float](), dict[str, float]()
        self._released: dict[str, float] = {}  # dollars of the tasks that have left

    def allocate(self, task: str, demand: Demand, running: int = 0) -> Allocation:
        """Return what `task` may do now. Spark runs `running` tasks, some of which may not have reported yet."""
        self._forget(task)
        self._released.pop(task, None)
        self._demands[task] = demand
        if demand.draining:
            self._draining[task] = demand.open
        sharing = max(1, max(running, len(self._demands)) - len(self._draining))
        allocation = self._free_part(demand, sharing)
        self._hold(task, demand, _larger(allocation, self._allocations.get(task, allocation)))
        self._allocations[task] = allocation
        return allocation

    def release(self, task: str, spent: float | None = None) -> None:
        """Free what a task held. If nobody knows what it `spent`, all dollars allocated to it count as spent."""
        if task in self._money and self._limits.dollars:
            self._released[task] = self._money[task] if spent is None else spent
        self._forget(task)
        self._allocations.pop(task, None)

    def _forget(self, task: str) -> None:
        """Take out what a task demanded and holds; what is left is that of the other tasks."""
        for of_tasks in (self._demands, self._draining, self._calls, self._requests, self._tokens, self._money):
            of_tasks.pop(task, None)

    def _hold(self, task: str, demand: Demand, held: Allocation) -> None:
        self._calls[task] = demand.open if demand.draining else max(held.in_flight, demand.open)
        self._requests[task], self._tokens[task] = held.requests_per_second, held.tokens_per_minute
        self._money[task] = held.dollars

    @property
    def is_budget_spent(self) -> bool:
        """Return whether no task can pay for its next call, and no open call may still free reserved dollars."""
        demands = self._demands.values()
        if not self._limits.dollars or any(demand.open for demand in demands):
            return False
        costs = [demand.next_call for demand in demands if not demand.draining]
        return bool(costs) and self._free(demand.spent + demand.reserved for demand in demands) < min(costs)

    def _free_part(self, demand: Demand, sharing: int) -> Allocation:
        """Return the part of a task that holds nothing now."""
        requests, tokens = 0.0, 0.0
        if not demand.draining:
            requests = _rate(self._limits.requests_per_second, self._requests.values(), sharing)
            tokens = _rate(self._limits.tokens_per_minute, self._tokens.values(), sharing)
        return Allocation(self._free_calls(demand, sharing), requests, tokens, self._dollars(demand, sharing))

    def _free_calls(self, demand: Demand, sharing: int) -> int:
        """Divide calls: a draining task keeps only its open calls; the task that asks first gets the remainder."""
        if demand.draining:
            return demand.open
        fair = -(-max(0, self._limits.in_flight - sum(self._draining.values())) // sharing)
        return max(0, min(fair, self._limits.in_flight - sum(self._calls.values())))

    def _free(self, held: Iterable[float]) -> float:
        """Return the dollars that nobody has spent or holds; one sum, so that all callers get the same rounding."""
        return self._limits.dollars - math.fsum([*self._released.values(), *held])

    def _dollars(self, demand: Demand, sharing: int) -> float:
        """Return the dollars that a task may commit in all: those it has committed, and its part of the free ones.

        The part pays at least for the next call. There is none if the task sends no more calls, or if the free
        dollars do not pay for its next call: they may pay for another task's.
        """
        if not self._limits.dollars:
            return UNLIMITED
        committed = demand.spent + demand.reserved
        free = self._free([*self._money.values(), committed])
        if demand.draining or free < demand.next_call:
            return committed
        part = free / (sharing + 1)  # one part more than there are tasks, so that a task that joins finds something
        return committed + max(demand.next_call, part)


def _larger(one: Allocation, other: Allocation) -> Allocation:
    return Allocation(
        in_flight=max(one.in_flight, other.in_flight),
        requests_per_second=max(one.requests_per_second, other.requests_per_second),
        tokens_per_minute=max(one.tokens_per_minute, other.tokens_per_minute),
        dollars=max(one.dollars, other.dollars),
    )


def _rate(limit: float, held: Collection[float], sharing: int) -> float:
    """Return a task's part of a rate; UNLIMITED without a limit."""
    return max(0.0, min(limit / sharing, limit - math.fsum(held))) if limit else UNLIMITED
