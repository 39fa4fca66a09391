"""Print the estimates of `raft-spark estimate` as tables."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from raft_spark import config
from raft_spark.costs import arithmetic
from raft_spark.emr import worker_sizes

if TYPE_CHECKING:  # needs Spark
    from collections.abc import Sequence

    from raft_spark.costs.bounds import CostBound

UNITS = ((1, "seconds"), (60, "minutes"), (3600, "hours"))


def estimate(console: Console, conf: config.Config, result: arithmetic.Estimate) -> None:
    """Show what the completions would cost, and which setting to give when a price is unknown."""
    retries = len(conf.completions.retry_temperatures)
    not_counted = f"answers that the dataset rejects, each requested again up to {retries} times" if retries else ""
    if not result.to_ask:
        console.print(f"Nothing to pay: all {result.requests:,} requests are answered.", highlight=False)
        if not_counted:
            console.print(f"Not counted: {not_counted}, if no run has done so yet.", highlight=False)
        return
    table = Table("", result.model or conf.completions.endpoint, title="Cost of the completions", min_width=60)
    table.add_row("requests", f"{result.to_ask:,} to send, {result.requests - result.to_ask:,} answered already")
    if not_counted:
        table.add_row("not counted", not_counted)
    table.add_row("estimated from", f"{result.sampled} answers, {result.asked_now} of them requested and stored now")
    if result.use and result.bill:
        for name, text in [*_use(result.use, conf), *_bill(conf, result.bill, result.mode, result.to_ask)]:
            table.add_row(name, text)
    console.print(table)
    if result.mode == "batch" and result.bill and result.bill.emr and (advice := worker_sizes.batch_wait(conf).advice):
        console.print(f"Note: {advice}.", markup=False, highlight=False)
    if not result.use:
        console.print("No stored answer has token counts: request some with --ask 5.", highlight=False)
    elif result.bill and result.bill.model is None:
        console.print(_missing_price(conf, result.mode), markup=False, highlight=False)


def bounds(console: Console, endpoints: "Sequence[CostBound]", what: str = "evaluation") -> None:
    """Show what the requests would cost at most, and which setting to give when a price is unknown."""
    if not any(each.requests for each in endpoints):
        console.print("Nothing to pay: all requests are answered.", highlight=False)
        return
    table = Table(
        "endpoint",
        "model",
        "requests",
        "tokens in",
        "tokens out",
        "dollars",
        title=f"Highest possible cost of the {what}",
    )
    for each in endpoints:
        numbers = (f"{number:,}" for number in (each.requests, each.tokens_in, each.tokens_out))
        table.add_row(each.endpoint, each.model, *numbers, "?" if each.dollars is None else f"{each.dollars:,.2f}")
    console.print(table)
    for each in endpoints:
        if each.dollars is None:
            problem = f"The token prices of {each.endpoint} are unknown"
            keys = f"endpoints.{each.endpoint}.input_price and output_price"
            console.print(f"{problem}: set {keys}, unless it is billed by the hour.", markup=False, highlight=False)


def _use(use: arithmetic.Usage, conf: config.Config) -> Iterator[tuple[str, str]]:
    yield "tokens in", _amount(use.tokens_in, ",.0f")
    yield "tokens out", _amount(use.tokens_out, ",.0f")
    if use.seconds:
        unit, name = next(unit for unit in UNITS if use.seconds.value < 120 * unit[0] or unit == UNITS[-1])
        yield "time", f"{_amount(use.seconds * (1 / unit), ',.1f')} {name}, as completions.{use.bound_by} allows"
    else:
        hours = conf.completions.batch.timeout_hours
        yield "time", f"at most {hours} hours: batch jobs run when the service has capacity"


def _bill(conf: config.Config, bill: arithmetic.Bill, mode: str, rows: int) -> Iterator[tuple[str, str]]:
    yield "tokens on demand", _dollars(bill.on_demand, "price unknown")
    if conf.teacher.kind == "bedrock":
        yield "tokens in batch jobs", _dollars(bill.batch, "batch price unknown")
    if bill.endpoint:
        yield "endpoint hours", _dollars(bill.endpoint)
    if bill.vcpu_hours and bill.gb_hours:
        hours = f"{_amount(bill.vcpu_hours, ',.2f')} vCPU-hours, {_amount(bill.gb_hours, ',.2f')} GB-hours"
        yield (
            "EMR driver, at most" if mode == "batch" else "EMR Serverless",
            f"{_dollars(bill.emr, 'a price of [emr] is 0')} ({hours})",
        )
    yield f"total, {mode}", _dollars(bill.total, "unknown")
    if bill.affordable is not None:
        yield "max_spend", f"${conf.completions.max_spend:,.2f} pays for {bill.affordable:,} of {rows:,} requests"


def _missing_price(conf: config.Config, mode: str) -> str:
    """Return which settings to give."""
    if conf.teacher.kind == "sagemaker":
        keys = "hourly_price, the price of all its instances together"
    else:
        keys = "batch_input_price and batch_output_price" if mode == "batch" else "input_price and output_price"
    return f"The price is unknown: set endpoints.{conf.completions.endpoint}.{keys}."


def _amount(amount: arithmetic.Amount, form: str) -> str:
    margin = "?" if amount.margin is None else format(amount.margin, form)
    return f"{amount.value:{form}} ± {margin}"


def _dollars(amount: arithmetic.Amount | None, unknown: str = "") -> str:
    """Format dollars with two digits, amounts below one dollar with four."""
    return f"${_amount(amount, ',.2f' if amount.value >= 1 else ',.4f')}" if amount else unknown
