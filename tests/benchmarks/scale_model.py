"""CPU seconds of stages at two sizes -> seconds, vCPU-hours, GB-hours and dollars for any number of articles and cores.

A stage takes fixed CPU seconds (planning, compiling) and some for each article. In a share of its time no task runs, however many
cores there are (Amdahl 1967). Nothing waits for a disk or a network.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from raft_spark.config.models import Emr
from raft_spark.costs.arithmetic import EMR_STARTUP_SECONDS


@dataclass(frozen=True, slots=True)
class StageCost:
    """The CPU seconds of a stage, `fixed` and `a_row`, and the share of them, `serial`, beside which no task runs."""

    fixed: float
    a_row: float
    serial: float

    def cpu(self, rows: int) -> float:
        """Return CPU seconds."""
        return self.fixed + self.a_row * rows

    def seconds(self, rows: int, cores: float) -> float:
        """Return the seconds on so many cores, which nothing else uses."""
        return self.cpu(rows) * (self.serial + (1 - self.serial) / cores)


def line(small: tuple[int, float], large: tuple[int, float]) -> tuple[float, float]:
    """Return (fixed part, part for each row) of the line through two points (rows, amount); no part is negative."""
    slope = max(0.0, (large[1] - small[1]) / (large[0] - small[0]))
    return max(0.0, large[1] - slope * large[0]), slope


def amdahl(one: float, two: float) -> float:
    """Return the serial share of work that takes `one` seconds on one core and `two` seconds on two, in 0..1."""
    return min(1.0, max(0.0, 2 * two / one - 1))


def executors(stages: Iterable[StageCost], rows: int, cores: int, target: float) -> int:
    """Return the fewest executors of `cores` cores with which the stages end in `target` seconds.

    At most as many as make the time with tasks as short as the time without; more would mostly wait.
    """
    costs = [*stages]
    serial = sum(cost.seconds(rows, math.inf) for cost in costs)
    parallel = sum(cost.cpu(rows) for cost in costs) - serial
    most = parallel / serial if serial else math.inf
    wanted = parallel / (target - serial) if target > serial else math.inf
    return max(1, math.ceil(min(wanted, most) / cores))


def smallest(sizes: Iterable[int], needed: float) -> int:
    """Return the smallest size that holds what is needed, the largest if none does."""
    ordered = sorted(sizes)
    return next((size for size in ordered if size >= needed), ordered[-1])


def emr_bill(emr: Emr, seconds: float) -> tuple[float, float, float]:
    """Return the vCPU-hours, GB-hours and dollars of a run whose workers all run from its beginning to its end."""
    hours = (seconds + EMR_STARTUP_SECONDS) / 3600
    disk = emr.billed_disk_gb * (1 + emr.max_executors)
    return hours * emr.vcpus, hours * emr.memory_gb, hours * emr.dollars(emr.vcpus, emr.memory_gb, disk)
