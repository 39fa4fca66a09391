"""Versions of a run's tables -> how the end of `raft-spark run` reads: one row, what was left out, what to do next.

All of it reads well without colours, and is wrapped to the width of the terminal.
"""

import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.style import Style
from rich.table import Table
from rich.text import Text

from raft_spark.config import Config, Lake
from raft_spark.lake import browse, schemas, tables
from raft_spark.lake.filesystem import Storage
from raft_spark.monitoring import run_state
from raft_spark.recipe import prompts

MAX_BASE_ROWS = 8_192  # that the shown row is looked for in: one row group
MAX_RECORDS = 100  # of the dataset that are tried
PROGRAM = "raft-spark"
ANSWER_FIELDS = ("completion", "chosen", "messages", "conversations", "synthetic_answer", "response", "output")
NO_ANSWER = "no answer: "
REASONS = {
    "truncated": "the answer was cut at completions.max_new_tokens = {completions.max_new_tokens}",
    "refusal": "the answer says that it does not know, though the teacher had the oracle passages",
    "false quote": "the answer quotes words that are not in the oracle passages",
    "broken quote": "a quote of the answer has no beginning or no end",
    "no quote": "the answer quotes nothing",
    "no answer line": "the answer has no last line that begins with <ANSWER>:",
    "another decision": "the answer says another of yes, no and maybe than the article does",
    "no decision": "the answer does not begin with yes, no or maybe",
    "too short": "the answer has fewer words than dataset.min_words = {dataset.min_words}",
    "too long": "the answer has more words than dataset.max_words = {dataset.max_words}",
    "another language": "the answer is not in the language dataset.language = {dataset.language}",
    "empty answer": "the answer is empty",
    "longer than max_tokens": "the row has more tokens than dataset.max_tokens = {dataset.max_tokens}",
}


@dataclass(frozen=True, slots=True)
class Omission:
    """How many of a stage's `whole` rows were left out, and why, in words."""

    count: int
    whole: int
    why: str


@dataclass(frozen=True, slots=True)
class ExampleRow:
    """A row of the dataset with the row of base that it was made of; `passages` are (is oracle, text) in the order shown."""

    split: str
    pubid: int
    question: str
    passages: list[tuple[bool, str]]
    answer: str


def omissions(conf: Config, version: tables.Version) -> list[Omission]:
    """Return what a stage left out by reason, most first; nothing for stages that leave no row out."""
    counts = version.counts
    if version.table == schemas.ARTICLES:
        found = dict(counts["reasons"])
        if counts.get("beyond_limit"):
            found[f"beyond articles.limit = {conf.articles.limit}"] = counts["beyond_limit"]
        whole = counts["read"]
    elif version.table == schemas.DATASET:
        found, whole = (
            {_reason_text(reason, conf): count for reason, count in counts["rejected"].items()},
            counts["rows"],
        )
    else:
        return []
    return [Omission(count, whole, why) for why, count in sorted(found.items(), key=lambda pair: -pair[1])]


def _reason_text(reason: str, conf: Config) -> str:
    if reason.startswith(NO_ANSWER):
        return f"the teacher gave no answer: {reason.removeprefix(NO_ANSWER)}"
    return REASONS.get(reason, reason).format(completions=conf.completions, dataset=conf.dataset)


def omissions_text(conf: Config, versions: Iterable[tables.Version]) -> RenderableType:
    """Say what the stages left out, with the share of their rows."""
    shown: list[RenderableType] = []
    for version in versions:
        found = omissions(conf, version)
        if not found:
            continue
        count, whole = sum(each.count for each in found), found[0].whole
        what = "records" if version.table == schemas.ARTICLES else "rows"
        heading = f"Left out of {version.table}: {count:,} of {whole:,} {what} ({_percent(count, whole)})"
        lines = Table.grid(padding=(0, 2))
        lines.add_column(justify="right", no_wrap=True)
        lines.add_column(justify="right", no_wrap=True)
        lines.add_column()
        for each in found:
            lines.add_row(f"{each.count:,}", _percent(each.count, each.whole), Text(each.why))
        shown += [Text(heading, "bold"), Padding(lines, (0, 0, 1, 2))]
    return Group(*shown) if shown else Text("No row was left out.\n", "bold")


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %"


def example(lake: Lake, base: tables.Version, dataset: tables.Version) -> ExampleRow | None:
    """Return a row of the dataset, one with its oracle where there is one; None when no row of `base` fits to it."""
    found = list(_examples(lake, base, dataset))
    return next(
        (each for each in found if any(is_oracle for is_oracle, _ in each.passages)), found[0] if found else None
    )


def _examples(lake: Lake, base: tables.Version, dataset: tables.Version) -> Iterator[ExampleRow]:
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in browse.head(lake, base, MAX_BASE_ROWS):
        rows.setdefault(prompts.escape_markup(row["question"]), []).append(row)
    for record in browse.head(lake, dataset, MAX_RECORDS):
        texts = list(_texts(record))
        questions = [text.rpartition("Question: ")[2] for text in texts if "Question: " in text]
        asked = str(record.get("question") or "".join(questions[-1:]))
        for row in rows.get(prompts.escape_markup(asked), ()):
            if fitting := _match(row, record, "\n".join(texts)):
                yield fitting


def _match(row: Mapping[str, Any], record: Mapping[str, Any], text: str) -> ExampleRow | None:
    """Bring a record's answer to a row of base; None where the record does not show the row's passages."""
    shown = [each for each in row["documents"] if each["text"] in text or prompts.escape_markup(each["text"]) in text]
    oracles = [each for each in row["documents"] if each["oracle"]]
    if not all(each in shown for each in oracles) or (row["documents"] and not shown):
        return None
    passages = [(each["oracle"], each["text"]) for each in shown]
    answer = next(_last_text(record[name]) for name in ANSWER_FIELDS if name in record)
    return ExampleRow(row["split"], row["pubid"], row["question"], passages, answer)


def _texts(value: Any) -> Iterator[str]:  # noqa: ANN401 - whatever a format writes
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(each)


def _last_text(value: Any) -> str:  # noqa: ANN401 - the same
    """Return the last text of a record's field: every format has what the assistant says at the end of it."""
    return list(_texts(value))[-1]


def layout(shown: ExampleRow) -> RenderableType:
    """Lay out a row: its question, its passages with their marks, its answer."""
    lines = Table.grid(padding=(0, 2))
    lines.add_column(no_wrap=True)
    lines.add_column()
    lines.add_row(Text("question", "bold"), Text(_visible(shown.question), "bold"))
    for is_oracle, passage in shown.passages:
        mark, style = ("ORACLE", "green") if is_oracle else ("distractor", "dim")
        lines.add_row(Text(mark, f"bold {style}"), Text(_visible(passage), style))
    lines.add_row(Text("answer", "bold cyan"), Text(_visible(shown.answer.strip()), "cyan"))
    heading = Text(f"A row of the {shown.split} split (pubid {shown.pubid})", "bold")
    return Group(Text(), heading, Padding(lines, (0, 0, 1, 2)))


def _visible(text: str) -> str:
    """Return text of data as a terminal may get it: one space for tabs and the like, escapes for control characters."""
    return "".join(
        sign
        if sign.isprintable() or sign == "\n"
        else " "
        if sign.isspace()
        else sign.encode("unicode_escape").decode()
        for sign in text
    )


def next_steps(conf: Config, dataset: tables.Version, arguments: Sequence[str]) -> Iterator[Text]:
    """Say where dataset and page are, and three commands that take the same `arguments`, a line each."""
    folder = browse.folder(conf.lake, dataset)
    yield Text.assemble(("Dataset  ", "bold"), folder)
    yield Text(f'         datasets.load_dataset("{folder}/{conf.dataset.formats[0]}")')
    if page := page_path(conf.lake):
        link = Style(link=Path(page).as_uri()) if "://" not in page else Style()
        yield Text.assemble(("Page     ", "bold"), (page, link))
    yield Text("Next", "bold")
    is_some_left_out = bool(omissions(conf, dataset))
    for command, what in commands(program(sys.argv[0]), arguments, is_some_left_out=is_some_left_out):
        yield Text.assemble("  ", (command, "cyan"), f"   # {what}")


def page_path(lake: Lake) -> str | None:
    """Return where the page of the last run lies, None without one."""
    run, folder = run_state.read(lake), Storage.of(lake).at(schemas.COMPLETIONS, "runs")
    if run is None or folder.read(f"{run.id}.html") is None:
        return None
    return folder.path(f"{run.id}.html") if folder.is_local else f"{folder.root}/{run.id}.html"


def commands(typed: str, arguments: Sequence[str], *, is_some_left_out: bool) -> list[tuple[str, str]]:
    """Return three commands to go on with and what each does."""
    again = shlex.join(arguments)
    second = ("show dataset --quarantine", "left out") if is_some_left_out else ("preview", "ask the teacher")
    verbs = (
        ("show dataset --rows 5", "more rows"),
        second,
        ("evaluation", "ask a student"),
    )
    return [(" ".join(filter(None, (typed, verb, again))), what) for verb, what in verbs]


def program(started: str) -> str:
    """Return what a person types for this program: its name where the shell finds it, else the path it was `started` by."""
    found = shutil.which(PROGRAM)
    if Path(started).name != PROGRAM or (found and Path(found).resolve() == Path(started).resolve()):
        return PROGRAM
    here = Path(started).absolute()
    return shlex.quote(str(here.relative_to(Path.cwd()) if here.is_relative_to(Path.cwd()) else here))
