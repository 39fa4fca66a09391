"""Versions and rows -> what a person reads in a terminal."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from raft_spark import config
from raft_spark.cli import run_summary
from raft_spark.common import wording
from raft_spark.costs import arithmetic
from raft_spark.errors import InputError
from raft_spark.inference.previews import Preview
from raft_spark.lake import browse, refs, tables
from raft_spark.monitoring import progress, run_state
from raft_spark.stages import registry

if TYPE_CHECKING:  # these need Spark
    from raft_spark.costs.estimate_evaluation import CostBound
    from raft_spark.stages.refresh import RefreshRecord

Done = tuple[str, tables.Version, bool, float]
LONG_TEXT = 600
UNITS = ((1, "seconds"), (60, "minutes"), (3600, "hours"))


def line(name: str, version: tables.Version, new: bool, seconds: float) -> str:  # noqa: FBT001 - a fact, not a switch
    """Say in one line what a stage did."""
    done = f"{_rows(version)}, {seconds:.1f} s" if new else "nothing to do"
    return f"{name:<12} {done}"


def summary(
    console: Console, conf: config.Config, done: Sequence[Done], seconds: float, arguments: Sequence[str]
) -> None:
    """Show rows per stage, one row of the dataset, what was left out and why, and what to do next.

    `arguments` are the settings files and --set options that the run was given.
    """
    versions = {name: version for name, version, _, _ in done}
    dataset = versions[registry.DATASET.name]
    if any(new for _, _, new, _ in done):
        table = Table("stage", "rows", "seconds")
        for name, version, new, took in done:
            table.add_row(name, _rows(version), f"{took:.1f}" if new else "-")
        console.print(table)
        shown = run_summary.example(conf.lake, versions[registry.BASE.name], dataset)
        console.print(run_summary.layout(shown) if shown else _record(browse.head(conf.lake, dataset, 1)[0]))
        console.print(run_summary.omissions_text(conf, versions.values()))
    else:
        console.print(f"Nothing to do: the dataset is up to date ({seconds:.1f} s).")
    for line_ in run_summary.next_steps(conf, dataset, arguments):
        console.print(line_, soft_wrap=True, highlight=False)


def show(console: Console, conf: config.Config, version: tables.Version, rows: int, *, quarantine: bool) -> None:
    """Show the first rows of a version."""
    for row in browse.head(conf.lake, version, rows, quarantine=quarantine):
        console.print(_base_row(row) if "documents" in row else _record(row))


def preview(console: Console, shown: Preview) -> None:
    """Show all that went and came."""
    sent = (
        shown.prompt
        if isinstance(shown.prompt, str)
        else "\n\n".join(f"[{m['role']}]\n{m['content']}" for m in shown.prompt)
    )
    console.print(Panel(Text(wording.visible(sent)), title=f"prompt · pubid {shown.pubid}"))
    console.print(Panel(Text(wording.visible(shown.completion)), title="completion", border_style="green"))
    console.print(
        wording.visible(
            f"{shown.seconds:.2f} s, {shown.prompt_tokens} tokens in, {shown.completion_tokens} out, "
            f"finished by {shown.finish_reason}, key {shown.key}"
        ),
        markup=False,
    )


def follow(console: Console, lake: config.Lake, *, once: bool) -> None:
    """Show the last run until it ends. Raises InputError where there is none."""
    first = run_state.read(lake)
    if first is None:
        msg = f"{lake.root} tells of no run of completions; start one with `raft-spark completions`"
        raise InputError(msg)

    def told() -> run_state.Run:
        return run_state.read(lake, first.id) or first

    def is_over(seconds: float) -> bool:
        time.sleep(0 if once else seconds)
        return once or told().state != "asking" or told().is_silent

    progress.follow(told, is_over, console)
    run = told()
    why = f" ({run.reason})" if run.reason else f", but silent since {run.updated_at}" if run.is_silent else ""
    console.print(f"{run.state}{why}: {progress.status_line(run)}", highlight=False, soft_wrap=True)


def history(console: Console, versions: Iterable[tables.Version], now: refs.Refs) -> None:
    """List versions with their rows and inputs."""
    table = Table("", "version", "rows", "made", "from")
    for version in versions:
        inputs = ", ".join(f"{name} {found}" for name, found in version.inputs.items())
        table.add_row(_marks(version, now), version.id, _rows(version), version.created_at, inputs)
    console.print(table)


def _marks(version: tables.Version, now: refs.Refs) -> str:
    marks = {
        "current": now.tables.get(version.table) == version.id,
        "pinned": version.id in now.pinned,
        "rolled back": version.id in now.left,
    }
    return ", ".join(mark for mark, is_true in marks.items() if is_true)


def refreshed(console: Console, done: "RefreshRecord") -> None:
    """Show what a refresh changed and looked at."""
    if done.outcome == "nothing new":
        console.print(f"Nothing new: {done.reason}.", highlight=False)
        return
    table = Table("table", "new", "changed", "withdrawn", "same", title="What was published")
    for name, found in done.changes.items():
        table.add_row(name, *(f"{count:,}" for count in (found.new, found.changed, found.withdrawn, found.same)))
    console.print(table)
    for gate in done.gates:
        console.print(f"ok: {gate}", highlight=False)
    for name, version in done.after.items():
        console.print(f"{name:<12} {version}", highlight=False)


def estimate(console: Console, conf: config.Config, told: arithmetic.Estimate) -> None:
    """Show what the completions stage would cost, and which setting to give where a price is missing."""
    again = len(conf.completions.retry_temperatures)
    not_counted = f"answers that the dataset rejects, each asked for again up to {again} times" if again else ""
    if not told.to_ask:
        console.print(f"Nothing to pay: all {told.requests:,} requests are answered.", highlight=False)
        if not_counted:
            console.print(f"Not counted: {not_counted}, where a run has not done so yet.", highlight=False)
        return
    table = Table("", told.model or conf.completions.endpoint, title="What the completions would cost", min_width=60)
    table.add_row("requests", f"{told.to_ask:,} to ask, {told.requests - told.to_ask:,} known")
    if not_counted:
        table.add_row("not counted", not_counted)
    table.add_row("told by", f"{told.sampled} answers, {told.asked_now} of them asked and stored now")
    if told.use and told.bill:
        for name, text in [*_use(told.use, told.mode), *_bill(conf, told.bill, told.mode, told.to_ask)]:
            table.add_row(name, text)
    console.print(table)
    if not told.use:
        console.print("No answer tells of tokens: let it ask some, --ask 5.", highlight=False)
    elif told.bill and told.bill.model is None:
        console.print(_missing_price(conf, told.mode), markup=False, highlight=False)


def bounds(console: Console, found: "Sequence[CostBound]") -> None:
    """Show what the evaluation would cost at most, and which setting to give where a price is missing."""
    if not any(each.requests for each in found):
        console.print("Nothing to pay: all requests are answered.", highlight=False)
        return
    table = Table(
        "endpoint", "model", "requests", "tokens in", "tokens out", "dollars", title="The evaluation, at most"
    )
    for each in found:
        numbers = (f"{number:,}" for number in (each.requests, each.tokens_in, each.tokens_out))
        table.add_row(each.endpoint, each.model, *numbers, "?" if each.dollars is None else f"{each.dollars:,.2f}")
    console.print(table)
    for each in found:
        if each.dollars is None:
            known = f"No price of {each.endpoint}'s tokens is known"
            keys = f"endpoints.{each.endpoint}.input_price and output_price; one that costs by the hour costs its hours"
            console.print(f"{known}: give {keys}.", markup=False, highlight=False)


def _use(use: arithmetic.Usage, mode: str) -> Iterator[tuple[str, str]]:
    yield "tokens in", _amount(use.tokens_in, ",.0f")
    yield "tokens out", _amount(use.tokens_out, ",.0f")
    if use.seconds:
        unit, name = next(unit for unit in UNITS if use.seconds.value < 120 * unit[0] or unit == UNITS[-1])
        yield "time", f"{_amount(use.seconds * (1 / unit), ',.1f')} {name}, as completions.{use.bound_by} allows"
    else:
        yield "time", f"hours: {mode} jobs run when there is room"


def _bill(conf: config.Config, bill: arithmetic.Bill, mode: str, rows: int) -> Iterator[tuple[str, str]]:
    yield "tokens on demand", _dollars(bill.on_demand, "no price known")
    if conf.teacher.kind == "bedrock":
        yield "tokens in batch jobs", _dollars(bill.batch, "no batch price known")
    if bill.endpoint:
        yield "endpoint's hours", _dollars(bill.endpoint)
    if bill.vcpu_hours and bill.gb_hours:
        hours = f"{_amount(bill.vcpu_hours, ',.2f')} vCPU-hours, {_amount(bill.gb_hours, ',.2f')} GB-hours"
        yield "EMR Serverless", f"{_dollars(bill.emr, 'emr.vcpu_hour and emr.gb_hour are 0')} ({hours})"
    yield f"total, {mode}", _dollars(bill.total, "unknown")
    if bill.affordable is not None:
        yield "max_spend", f"${conf.completions.max_spend:,.2f} pay for {bill.affordable:,} of {rows:,} requests"


def _missing_price(conf: config.Config, mode: str) -> str:
    """Say which settings to give."""
    if conf.teacher.kind == "sagemaker":
        keys = "hourly_price, of all its instances"
    else:
        keys = "batch_input_price and batch_output_price" if mode == "batch" else "input_price and output_price"
    return f"No price is known: give endpoints.{conf.completions.endpoint}.{keys}."


def _amount(amount: arithmetic.Amount, form: str) -> str:
    margin = "?" if amount.margin is None else format(amount.margin, form)
    return f"{amount.value:{form}} ± {margin}"


def _dollars(amount: arithmetic.Amount | None, unknown: str = "") -> str:
    """Say dollars to the cent, small sums to a hundredth of one."""
    return f"${_amount(amount, ',.2f' if amount.value >= 1 else ',.4f')}" if amount else unknown


def _rows(version: tables.Version) -> str:
    return registry.find(version.table).describe(version.counts)


def _base_row(row: Mapping[str, Any]) -> Panel:
    text = Text.assemble(("question: ", "bold"), wording.visible(row["question"]), "\n")
    for document in row["documents"]:
        mark, style = ("ORACLE", "green") if document["oracle"] else ("distractor", "dim")
        text.append(f"\n[{mark}, pubid {document['pubid']}] ", "bold " + style)
        text.append(_short(document["text"]) + "\n", style)
    text.append("\noriginal answer: ", "bold")
    text.append(_short(str(row["original_answer"])))
    left_out = " · oracle left out" if row["distracted"] else ""
    return Panel(text, title=f"pubid {row['pubid']} · {row.get('split', '')}{left_out}")


def _record(row: Mapping[str, Any]) -> Panel:
    text = Text()
    for name, value in row.items():
        turns = (
            value if isinstance(value, list) and value and isinstance(value[0], dict) and "role" in value[0] else None
        )
        for label, content in [(turn["role"], turn["content"]) for turn in turns] if turns else [(name, value)]:
            text.append(f"{wording.visible(str(label))}: ", "bold cyan")
            text.append(_short(content if isinstance(content, str) else json.dumps(content, default=str)) + "\n")
    return Panel(text)


def _short(text: str) -> str:
    text = wording.visible(text)
    return text if len(text) <= LONG_TEXT else f"{text[: LONG_TEXT // 2]} ... {text[-LONG_TEXT // 2 :]}"
