"""The model of cost that docs/scale.md is made with."""

import math

import pytest

from benchmarks import scale_model
from benchmarks.scale_model import StageCost
from raft_spark import config

pytestmark = pytest.mark.row
COST = StageCost(fixed=10.0, a_row=0.001, serial=0.25)


def test_a_stage_takes_its_serial_share_on_any_number_of_cores():
    assert COST.cpu(30_000) == 40.0
    assert COST.seconds(30_000, 1) == 40.0
    assert COST.seconds(30_000, 3) == 20.0  # 10 without a task, 30 of tasks on three cores
    assert COST.seconds(30_000, math.inf) == 10.0


@pytest.mark.parametrize(
    ("small", "large", "fixed", "a_row"),
    [
        ((100, 5.0), (300, 9.0), 3.0, 0.02),
        ((100, 1.0), (300, 9.0), 0.0, 0.04),  # the line would begin below zero
        ((100, 9.0), (300, 6.0), 6.0, 0.0),  # nothing costs less for more articles
    ],
)
def test_a_line_through_two_measurements(small: tuple, large: tuple, fixed: float, a_row: float):
    assert scale_model.line(small, large) == pytest.approx((fixed, a_row))


@pytest.mark.parametrize(("two", "share"), [(5.0, 0.0), (6.0, 0.2), (10.0, 1.0), (12.0, 1.0), (4.0, 0.0)])
def test_amdahls_serial_share_of_ten_seconds(two: float, share: float):
    assert scale_model.amdahl(10.0, two) == pytest.approx(share)


@pytest.mark.parametrize(
    ("target", "count"),
    [
        (40.0, 1),  # 30 seconds of tasks beside 10 without: one core is enough
        (20.0, 3),
        (16.0, 3),  # 5 cores would do it; beyond 3 the tasks end before the rest
        (5.0, 3),  # cannot be had
    ],
)
def test_executors_of_one_core_for_a_target(target: float, count: int):
    assert scale_model.executors([COST], 30_000, 1, target) == count


def test_an_executor_has_all_its_cores():
    assert scale_model.executors([COST, COST], 30_000, 2, 40.0) == 2  # 60 s of tasks in 20 s: three cores


def test_the_smallest_size_that_is_enough():
    assert scale_model.smallest(range(8, 31), 12.2) == 13
    assert scale_model.smallest((20, 40), 99) == 40


def test_emr_bills_all_workers_from_beginning_to_end():
    emr = config.load(assignments=["emr.disk_gb=40"]).emr.model_copy(
        update={"vcpu_hour": 0.05, "gb_hour": 0.005, "disk_gb_hour": 0.0001, "max_executors": 3}
    )
    vcpu_hours, gb_hours, dollars = scale_model.emr_bill(emr, 3480)  # and two minutes of start: an hour
    assert (vcpu_hours, gb_hours) == (16.0, 64.0)  # 4 workers of 4 vCPUs and 16 GB
    assert dollars == pytest.approx(0.80 + 0.32 + 4 * 20 * 0.0001)
