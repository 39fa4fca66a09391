"""Print stages, table rows, versions, previews and the progress of runs in a terminal."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from raft_spark import config
from raft_spark.cli import run_summary
from raft_spark.common import wording
from raft_spark.errors import InputError
from raft_spark.inference.previews import Preview
from raft_spark.lake import browse, refs, tables
from raft_spark.monitoring import progress, run_state
from raft_spark.stages import registry

if TYPE_CHECKING:  # needs Spark
    from raft_spark.stages.refresh import RefreshRecord

StageRow = tuple[str, tables.Version, bool, float]  # stage, version, whether it is new, seconds
LONG_TEXT = 600


def stage_line(stage: StageRow) -> str:
    """Return what a stage did in one line."""
    name, version, is_new, seconds = stage
    result = f"{_rows(version)}, {seconds:.1f} s" if is_new else "nothing to do"
    return f"{name:<12} {result}"


def summary(
    console: Console, conf: config.Config, stages: Sequence[StageRow], seconds: float, arguments: Sequence[str]
) -> None:
    """Show the rows of each stage, one row of the dataset, the omitted rows with their reasons, and the next commands.

    `arguments` are the settings files and --set options of the run.
    """
    versions = {name: version for name, version, _, _ in stages}
    dataset = versions[registry.DATASET.name]
    if any(is_new for _, _, is_new, _ in stages):
        table = Table("stage", "rows", "seconds")
        for name, version, is_new, duration in stages:
            table.add_row(name, _rows(version), f"{duration:.1f}" if is_new else "-")
        console.print(table)
        row = run_summary.example(conf.lake, versions[registry.BASE.name], dataset)
        console.print(run_summary.layout(row) if row else _record_panel(browse.head(conf.lake, dataset, 1)[0]))
        console.print(run_summary.omissions_text(conf, versions.values()))
    else:
        console.print(f"Nothing to do: the dataset is up to date ({seconds:.1f} s).")
    for line in run_summary.next_steps(conf, dataset, arguments):
        console.print(line, soft_wrap=True, highlight=False)


def show(console: Console, conf: config.Config, version: tables.Version, rows: int, *, quarantine: bool) -> None:
    """Show the first rows of a version."""
    for row in browse.head(conf.lake, version, rows, quarantine=quarantine):
        console.print(_base_panel(row) if "documents" in row else _record_panel(row))


def preview(console: Console, result: Preview) -> None:
    """Show a request to the teacher and its answer."""
    prompt = (
        result.prompt
        if isinstance(result.prompt, str)
        else "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in result.prompt)
    )
    console.print(Panel(Text(wording.visible(prompt)), title=f"prompt · pubid {result.pubid}"))
    headers = "\n".join(f"{name}: {value}" for name, value in result.headers.items())
    body = json.dumps(result.body, ensure_ascii=False, indent=2)
    console.print(Panel(Text(wording.visible(f"POST {result.url}\n{headers}\n\n{body}")), title="call"))
    console.print(Panel(Text(wording.visible(result.completion)), title="completion", border_style="green"))
    console.print(
        wording.visible(
            f"{result.seconds:.2f} s, {_tokens(result.prompt_tokens)} in, {_tokens(result.completion_tokens)} out, "
            f"finish reason {result.finish_reason}, key {result.key}"
        ),
        markup=False,
    )


def _tokens(count: int | None) -> str:
    return "tokens not counted" if count is None else f"{count} tokens"


def follow(console: Console, lake: config.Lake, *, once: bool) -> None:
    """Show the last run of completions until it ends, or only once. Raises InputError without a run."""
    first = run_state.read(lake)
    if first is None:
        msg = f"{lake.root} has no run of completions yet; start one with `raft-spark completions`"
        raise InputError(msg)

    def current() -> run_state.Run:
        return run_state.read(lake, first.id) or first

    def is_over(seconds: float) -> bool:
        time.sleep(0 if once else seconds)
        return once or current().state != "asking" or current().is_silent

    progress.follow(current, is_over, console)
    run = current()
    note = (
        f" ({run.reason})" if run.reason else f", but no sign of life since {run.updated_at}" if run.is_silent else ""
    )
    console.print(f"{run.state}{note}: {progress.status_line(run)}", highlight=False, soft_wrap=True)


def history(console: Console, versions: Iterable[tables.Version], pointers: refs.Refs) -> None:
    """List versions with their rows and inputs."""
    table = Table("", "version", "rows", "created", "made from")
    for version in versions:
        inputs = ", ".join(f"{name} {input_id}" for name, input_id in version.inputs.items())
        table.add_row(_marks(version, pointers), version.id, _rows(version), version.created_at, inputs)
    console.print(table)


def _marks(version: tables.Version, pointers: refs.Refs) -> str:
    marks = {
        "current": pointers.tables.get(version.table) == version.id,
        "pinned": version.id in pointers.pinned,
        "rolled back": version.id in pointers.left,
    }
    return ", ".join(mark for mark, is_true in marks.items() if is_true)


def refresh_result(console: Console, record: "RefreshRecord") -> None:
    """Show the changes of a refresh, its gates and the published versions."""
    if record.outcome == "nothing new":
        console.print(f"Nothing new: {record.reason}.", highlight=False)
        return
    table = Table("table", "new", "changed", "withdrawn", "same", title="Published rows")
    for name, rows in record.changes.items():
        table.add_row(name, *(f"{count:,}" for count in (rows.new, rows.changed, rows.withdrawn, rows.same)))
    console.print(table)
    for gate in record.gates:
        console.print(f"ok: {gate}", highlight=False)
    for name, version in record.after.items():
        console.print(f"{name:<12} {version}", highlight=False)


def _rows(version: tables.Version) -> str:
    return registry.find(version.table).describe(version.counts)


def _base_panel(row: Mapping[str, Any]) -> Panel:
    text = Text.assemble(("question: ", "bold"), wording.visible(row["question"]), "\n")
    for document in row["documents"]:
        mark, style = ("ORACLE", "green") if document["oracle"] else ("distractor", "dim")
        found = f", {document['method']} {document['rank']}" if document.get("rank") else ""
        text.append(f"\n[{mark}, pubid {document['pubid']}{found}] ", "bold " + style)
        text.append(_short(document["text"]) + "\n", style)
    text.append("\noriginal answer: ", "bold")
    text.append(_short(str(row["original_answer"])))
    note = " · without oracle" if row["distracted"] else ""
    return Panel(text, title=f"pubid {row['pubid']} · {row.get('split', '')}{note}")


def _record_panel(row: Mapping[str, Any]) -> Panel:
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
    """Escape control characters and cut the middle out of a long text."""
    text = wording.visible(text)
    return text if len(text) <= LONG_TEXT else f"{text[: LONG_TEXT // 2]} ... {text[-LONG_TEXT // 2 :]}"
