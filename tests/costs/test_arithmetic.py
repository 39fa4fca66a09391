"""Extrapolate tokens, hours and dollars from some answers to the remaining requests, with margins."""

import io
import random
import statistics

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from raft_spark import config
from raft_spark.cli import cost_views
from raft_spark.cli.main import main
from raft_spark.costs import arithmetic
from raft_spark.costs.arithmetic import Amount, AnsweredRequest, Remaining
from raft_spark.costs.bounds import CostBound

pytestmark = pytest.mark.row

LAKE = "lake.root=s3://bucket/lake"
TEACHER = (
    'endpoints.mine={kind="bedrock", model="us.amazon.nova-lite-v1:0"}',
    "completions.endpoint=mine",
    "completions.in_flight=10",
)
ANSWERED = [
    AnsweredRequest(1000, 250, 80, 2.0),
    AnsweredRequest(2000, 500, 120, 2.0),
    AnsweredRequest(3000, 750, 100, 2.0),
]
REMAINING = Remaining(requests=1300, rows=1000, characters=4_000_000)


def estimated(
    *assignments: str, remaining: Remaining = REMAINING, answered: list[AnsweredRequest] = ANSWERED
) -> arithmetic.Estimate:
    return arithmetic.estimate(config.load(assignments=[*TEACHER, *assignments]), remaining, answered)


def dollars(amount: Amount | None) -> float:
    assert amount is not None
    return amount.value


def test_prompt_tokens_follow_the_characters_and_completion_tokens_the_mean():
    use = estimated().use
    assert use.tokens_in == Amount(pytest.approx(1_000_000), pytest.approx(0, abs=1e-6))
    assert use.tokens_out.value == pytest.approx(100_000)


def test_tokens_are_paid_at_the_models_price_and_in_batch_jobs_at_half_of_it():
    bill = estimated().bill
    assert dollars(bill.on_demand) == pytest.approx(1.0 * 0.06 + 0.1 * 0.24)
    assert dollars(bill.batch) == pytest.approx(1.0 * 0.03 + 0.1 * 0.12)
    assert dollars(bill.total) == pytest.approx(0.084)


def test_an_endpoints_own_price_stands_over_the_table():
    bill = estimated("endpoints.mine.input_price=3.0").bill
    assert dollars(bill.on_demand) == pytest.approx(1.0 * 3.0 + 0.1 * 0.24)


@pytest.mark.parametrize(
    ("limits", "seconds", "bound_by"),
    [
        ([], 200, "in_flight"),
        (["completions.in_flight=4"], 500, "in_flight"),
        (["completions.requests_per_second=2.0"], 500, "requests_per_second"),
        (["completions.requests_per_second=50.0"], 200, "in_flight"),
        (["completions.tokens_per_minute=110000"], 600, "tokens_per_minute"),
        (["completions.tokens_per_minute=110000", "completions.requests_per_second=1.0"], 1000, "requests_per_second"),
        (["completions.in_flight=5000"], 2, "in_flight"),
    ],
)
def test_the_slowest_limit_decides_the_time_and_is_named(limits: list[str], seconds: float, bound_by: str):
    use = estimated(*limits).use
    assert (use.seconds.value, use.bound_by) == (pytest.approx(seconds), bound_by)


def test_an_endpoint_of_ones_own_is_paid_by_the_hour():
    bill = estimated("endpoints.mine.model=own", "endpoints.mine.hourly_price=9.0").bill
    assert bill.on_demand is None
    assert dollars(bill.endpoint) == pytest.approx(9.0 * 200 / 3600)
    assert dollars(bill.total) == dollars(bill.endpoint)


def test_batch_jobs_are_paid_at_the_batch_price_and_tell_no_time():
    role = 'endpoints.mine.role_arn="arn:aws:iam::123456789012:role/batch"'
    estimate = estimated("completions.mode=batch", role, LAKE)
    assert (estimate.mode, estimate.use.seconds) == ("batch", None)
    assert dollars(estimate.bill.model) == pytest.approx(0.042)


def test_batch_jobs_keep_the_driver_alone_waiting_for_a_day_at_most():
    role = 'endpoints.mine.role_arn="arn:aws:iam::123456789012:role/batch"'
    prices = ("emr.vcpu_hour=0.05", "emr.gb_hour=0.01")
    bill = estimated("completions.mode=batch", role, LAKE, *prices).bill
    hours = 24 + 1 / 30  # and two minutes
    assert dollars(bill.vcpu_hours) == pytest.approx(4 * hours)
    assert dollars(bill.gb_hours) == pytest.approx(16 * hours)
    assert dollars(bill.total) == pytest.approx(0.042 + 0.36 * hours)
    assert estimated("completions.mode=batch", role).bill.emr is None  # a lake in a folder


def test_arm_workers_have_their_own_price_and_disk_above_20_gb_is_paid():
    prices = ("emr.vcpu_hour=0.05", "emr.gb_hour=0.01", "emr.arm64_vcpu_hour=0.04", "emr.arm64_gb_hour=0.005")
    hours = 320 / 3600
    arm = estimated(LAKE, *prices, "emr.architecture=arm64").bill
    assert dollars(arm.emr) == pytest.approx((16 * 0.04 + 64 * 0.005) * hours)
    disk = estimated(LAKE, *prices, "emr.disk_gb=120", "emr.disk_gb_hour=0.001").bill
    assert dollars(disk.emr) == pytest.approx((16 * 0.05 + 64 * 0.01 + 4 * 100 * 0.001) * hours)
    assert estimated(LAKE, *prices, "emr.architecture=arm64", "emr.arm64_gb_hour=0.0").bill.emr is None


def test_too_few_requests_for_a_batch_job_are_told_in_real_time():
    role = 'endpoints.mine.role_arn="arn:aws:iam::123456789012:role/batch"'
    estimate = estimated("completions.mode=batch", role, remaining=Remaining(99, 99, 396_000))
    assert estimate.mode == "realtime"
    assert estimate.bill.total == estimate.bill.on_demand


def test_the_workers_of_emr_are_paid_for_the_asking_and_two_minutes():
    bill = estimated(LAKE, "emr.vcpu_hour=0.05", "emr.gb_hour=0.01").bill
    hours = 320 / 3600
    assert dollars(bill.vcpu_hours) == pytest.approx(16 * hours)
    assert dollars(bill.gb_hours) == pytest.approx(64 * hours)
    assert dollars(bill.emr) == pytest.approx((16 * 0.05 + 64 * 0.01) * hours)
    assert dollars(bill.total) == pytest.approx(0.084 + dollars(bill.emr))


def test_a_lake_in_a_folder_has_no_workers_to_pay():
    assert estimated().bill.emr is None


def test_a_size_of_workers_that_nobody_priced_is_still_told():
    bill = estimated(LAKE, "emr.vcpu_hour=0.0").bill
    assert bill.vcpu_hours is not None
    assert bill.emr is None


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ((), (16, 64)),  # a driver and 3 executors of 4 vCPU and 16 GB
        (("emr.max_executors=10",), (44, 176)),
        (("emr.driver_cores=2", "emr.driver_memory_gb=4"), (14, 52)),
        (("emr.executor_cores=8", "emr.executor_memory_gb=32"), (28, 112)),
    ],
)
def test_workers_are_those_of_the_settings_for_emr(settings: tuple[str, ...], size: tuple[int, int]):
    emr = config.load(assignments=settings).emr
    assert (emr.vcpus, emr.memory_gb) == size


def test_max_spend_says_how_many_rows_it_pays_for():
    assert estimated().bill.affordable is None
    assert estimated("completions.max_spend=0.021").bill.affordable == 250
    assert estimated("completions.max_spend=5.0").bill.affordable == 1000


def test_a_model_without_a_price_has_an_unknown_bill_and_known_tokens():
    estimate = estimated("endpoints.mine.model=nobody-knows", "completions.max_spend=1.0", LAKE)
    assert estimate.use.tokens_in.value == pytest.approx(1_000_000)
    assert (estimate.bill.on_demand, estimate.bill.batch, estimate.bill.total) == (None, None, None)
    assert estimate.bill.affordable is None


def test_a_model_on_the_jobs_own_machines_costs_nothing():
    assert estimated("completions.endpoint=embedded").bill.total == Amount(0)


def test_nothing_to_ask_and_no_answer_to_go_by_tell_no_bill():
    assert estimated(remaining=Remaining(60, 0, 0)).bill is None
    assert estimated(answered=[]).use is None


def test_one_answer_tells_no_margin():
    assert estimated(answered=ANSWERED[:1]).use.tokens_out == Amount(80_000, None)
    assert estimated(answered=ANSWERED[:1]).bill.total.margin is None


def test_a_margin_by_hand():
    # mean 100, spread 20, two degrees of freedom: 4.30 * 20 * sqrt(1000 * 1000 / 3 + 1000)
    assert estimated().use.tokens_out.margin == pytest.approx(4.30 * 20 * 578.2156, rel=1e-4)


def shown(*assignments: str, remaining: Remaining = REMAINING, answered: list[AnsweredRequest] = ANSWERED) -> str:
    written = io.StringIO()
    conf = config.load(assignments=[*TEACHER, *assignments])
    cost_views.estimate(
        Console(file=written, width=200), conf, arithmetic.estimate(conf, remaining, answered, asked_now=3)
    )
    return written.getvalue()


def test_a_person_reads_that_rejected_answers_may_be_asked_for_again():
    assert "each requested again up to 2 times" in shown("completions.retry=ungrounded")
    assert "requested again" not in shown()
    complete = Remaining(60, 0, 0)
    assert "Not counted: answers that the dataset rejects" in shown("completions.retry=ungrounded", remaining=complete)
    assert shown(remaining=complete) == "Nothing to pay: all 60 requests are answered.\n"


def test_a_person_reads_what_is_asked_how_sure_it_is_and_what_decides():
    page = shown("completions.max_spend=0.021", LAKE)
    for expected in (
        "us.amazon.nova-lite-v1:0",
        "1,000 to send, 300 answered already",
        "3 answers, 3 of them requested and stored now",
        "1,000,000 ± 0",
        "100,000 ± 49,727",
        "3.3 ± 0.0 minutes, as completions.in_flight allows",
        "$0.0840 ± 0.0119",
        "$0.0420 ± 0.0060",
        "1.42 ± 0.00 vCPU-hours, 5.69 ± 0.00 GB-hours",
        "$0.02 pays for 250 of 1,000 requests",
    ):
        assert expected in page


@pytest.mark.parametrize(
    ("assignments", "key"),
    [
        (["endpoints.mine.model=unknown"], "set endpoints.mine.input_price and output_price."),
        (
            ["endpoints.mine.model=unknown", "completions.mode=batch", 'endpoints.mine.role_arn="arn:aws:iam::123456789012:role/b"'],
            "set endpoints.mine.batch_input_price and batch_output_price.",
        ),
        (
            ['endpoints.own={kind="sagemaker", endpoint_name="own"}', "completions.endpoint=own", "completions.template=llama3"],
            "set endpoints.own.hourly_price, the price of all its instances together.",
        ),
    ],
)  # fmt: skip
def test_a_missing_price_is_named_by_its_setting(assignments: list[str], key: str):
    assert key in shown(*assignments)


def test_a_person_reads_that_nothing_is_to_pay_or_that_no_answer_tells():
    assert "Nothing to pay: all 60 requests are answered." in shown(remaining=Remaining(60, 0, 0))
    assert "request some with --ask 5" in shown(answered=[])


@given(st.integers(2, 40), st.integers(1, 10_000), st.integers(1, 5))
def test_more_rows_take_more_and_more_answers_seen_never_widen_the_margin(few: int, rows: int, times: int):
    chance = random.Random(few)
    answered = [
        AnsweredRequest(
            chance.randint(500, 5000), chance.randint(100, 1000), chance.randint(5, 400), 1 + chance.random()
        )
        for _ in range(few)
    ]
    remaining, more = Remaining(rows, rows, rows * 1500), Remaining(rows + 1, rows + 1, (rows + 1) * 1500)
    one, larger = estimated(remaining=remaining, answered=answered), estimated(remaining=more, answered=answered)
    assert larger.use.tokens_in.value > one.use.tokens_in.value
    assert larger.bill.total.value > one.bill.total.value
    again = estimated(remaining=remaining, answered=answered * (times + 1))
    assert again.use.tokens_out.value == pytest.approx(one.use.tokens_out.value)
    assert again.use.tokens_out.margin < one.use.tokens_out.margin or one.use.tokens_out.margin == 0


def test_the_truth_lies_within_the_margin_about_19_times_in_20():
    chance = random.Random(7)
    hits = []
    for _ in range(400):
        rows = [chance.lognormvariate(4, 0.3) for _ in range(205)]
        answered = [AnsweredRequest(1000, 250, round(out), 1.0) for out in rows[:5]]
        amount = estimated(remaining=Remaining(205, 200, 200_000), answered=answered).use.tokens_out
        hits.append(abs(amount.value - sum(rows[5:])) <= amount.margin)
    assert 0.91 < statistics.fmean(hits) < 0.98


def test_a_person_reads_what_an_evaluation_costs_at_most_and_which_price_is_missing():
    written = io.StringIO()
    found = [
        CostBound("base", "m", 1600, 1_000_000, 64_000, 2.64),
        CostBound("mine", "raft-spark-mine", 9, 900, 90, None),
    ]
    cost_views.bounds(Console(file=written, width=120), found)
    assert [cell.strip() for cell in written.getvalue().splitlines()[4].strip("│").split("│")] == [
        *("base", "m", "1,600", "1,000,000", "64,000", "2.64")
    ]
    assert "The token prices of mine are unknown: set endpoints.mine.input_price and output_price" in written.getvalue()
    cost_views.bounds(Console(file=written), [CostBound("base", "m", 0, 0, 0, 0.0)])
    assert written.getvalue().endswith("Nothing to pay: all requests are answered.\n")


def test_a_person_reads_what_embeddings_cost_at_most_and_what_is_missing_for_them():
    written = io.StringIO()
    cost_views.bounds(Console(file=written, width=120), [CostBound("e", "m", 7, 90, 0, 0.01)], "embeddings")
    assert "Highest possible cost of the embeddings" in written.getvalue()
    done = CliRunner().invoke(main, ["estimate", "--embeddings"])
    assert done.exit_code == 2
    assert "base.distractors_from must have a share of embedding" in " ".join(done.output.split())
