"""The driver with as many tasks as a large cluster has, in other processes: a short form of tests/benchmarks/coordinator.py."""

import pytest

from support import simulated_tasks

pytestmark = pytest.mark.timeout(120)


def test_five_hundred_tasks_that_ask_leave_the_driver_its_core():
    """At most a tenth, measured on a quiet machine; here other processes may slow this one down."""
    load = simulated_tasks.measured(tasks=500, seconds=3)
    assert load.cores < 0.35
    assert load.median < 0.1
