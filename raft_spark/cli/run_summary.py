"""Versions of a run's tables -> the summary of `raft-spark run`: one row, the omitted rows, the next commands.

It is readable without colours and wraps to the width of the terminal.
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

from raft_spark.common import wording
from raft_spark.config import Config, Lake
from raft_spark.lake import browse, schemas, tables
from raft_spark.lake.filesystem import Storage
from raft_spark.monitoring import run_state
from raft_spark.recipe import prompts

MAX_BASE_ROWS = 8_192  # of base, searched for the example row: one row group
MAX_RECORDS = 100  # of the dataset, tried as the example row
PROGRAM = "raft-spark"
ANSWER_FIELDS = ("completion", "chosen", "messages", "conversations", "synthetic_answer", "response", "output")
NO_ANSWER = "no answer: "
REASONS = {
    "truncated": "the answer was cut at completions.max_new_tokens = {completions.max_new_tokens}",
    "refusal": "the answer says that it does not know, though the teacher had the oracle passages",
    "false quote": "the answer quotes words that are not in the oracle passages",
    "broken quote": "a quote of the answer has no beginning or no end",
    "no quote": "the answer quotes nothing",
    "false citation": "the answer cites the number of a passage that the teacher was not shown",
    "no answer line": "the answer has no last line that begins with the mark of the answer",
    "another decision": "the answer says yes, no or maybe, and the article says another of them",
    "no decision": "the answer does not begin with yes, no or maybe",
    "too short": "the answer has fewer words than dataset.min_words = {dataset.min_words}",
    "too long": "the answer has more words than dataset.max_words = {dataset.max_words}",
    "another language": "the answer is not in the language dataset.language = {dataset.language}",
    "empty answer": "the answer is empty",
    "longer than max_tokens": "the row has more tokens than dataset.max_tokens = {dataset.max_tokens}",
}


@dataclass(frozen=True, slots=True)
class Omission:
    """How many of all rows of a stage were omitted for one reason."""

    count: int
    total: int
    reason: str


@dataclass(frozen=True, slots=True)
class ExampleRow:
    """A row of the dataset, joined with its row of base. `passages` are (is oracle, text) in the order of the row."""

    split: str
    pubid: int
    question: str
    passages: list[tuple[bool, str]]
    answer: str


def omissions(conf: Config, version: tables.Version) -> list[Omission]:
    """Return what a stage omitted by reason, most first; [] for a stage that keeps every row."""
    counts = version.counts
    if version.table == schemas.ARTICLES:
        reasons, total = dict(counts["reasons"]), counts["read"]
        if counts.get("beyond_limit"):
            reasons[f"beyond articles.limit = {conf.articles.limit}"] = counts["beyond_limit"]
    elif version.table == schemas.DATASET:
        reasons = {_reason_text(reason, conf): count for reason, count in counts["rejected"].items()}
        total = counts["rows"]
    else:
        return []
    return [Omission(count, total, reason) for reason, count in sorted(reasons.items(), key=lambda pair: -pair[1])]


def _reason_text(reason: str, conf: Config) -> str:
    if reason.startswith(NO_ANSWER):
        return f"the teacher gave no answer: {reason.removeprefix(NO_ANSWER)}"
    return REASONS.get(reason, reason).format(completions=conf.completions, dataset=conf.dataset)


def omissions_text(conf: Config, versions: Iterable[tables.Version]) -> RenderableType:
    """Lay out what the stages omitted, with the share of their rows."""
    blocks: list[RenderableType] = []
    for version in versions:
        if ignored := version.counts.get("ignored_files"):
            blocks += [Text(f"Not read: files of other endings ({ignored})", "bold"), Text()]
        omitted = omissions(conf, version)
        if not omitted:
            continue
        count, total = sum(each.count for each in omitted), omitted[0].total
        what = "records" if version.table == schemas.ARTICLES else "rows"
        heading = f"Left out of {version.table}: {count:,} of {total:,} {what} ({wording.share(count, total)})"
        lines = Table.grid(padding=(0, 2))
        lines.add_column(justify="right", no_wrap=True)
        lines.add_column(justify="right", no_wrap=True)
        lines.add_column()
        for each in omitted:
            lines.add_row(f"{each.count:,}", wording.share(each.count, each.total), Text(each.reason))
        blocks += [Text(heading, "bold"), Padding(lines, (0, 0, 1, 2))]
    return Group(*blocks) if blocks else Text("No row was left out.\n", "bold")


def example(lake: Lake, base: tables.Version, dataset: tables.Version) -> ExampleRow | None:
    """Return a row of the dataset, with its oracle if possible; None when no record matches a row of `base`."""
    rows = list(_examples(lake, base, dataset))
    return next((row for row in rows if any(is_oracle for is_oracle, _ in row.passages)), rows[0] if rows else None)


def _examples(lake: Lake, base: tables.Version, dataset: tables.Version) -> Iterator[ExampleRow]:
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in browse.head(lake, base, MAX_BASE_ROWS):
        rows.setdefault(prompts.escape_markup(row["question"]), []).append(row)
    for record in browse.head(lake, dataset, MAX_RECORDS):
        texts = list(_texts(record))
        questions = [text.rpartition("Question: ")[2] for text in texts if "Question: " in text]
        question = str(record.get("question") or "".join(questions[-1:]))
        for row in rows.get(prompts.escape_markup(question), ()):
            if example_row := _match(row, record, "\n".join(texts)):
                yield example_row


def _match(row: Mapping[str, Any], record: Mapping[str, Any], text: str) -> ExampleRow | None:
    """Join a record with a row of base; None when the record does not contain the row's passages."""
    shown = [each for each in row["documents"] if each["text"] in text or prompts.escape_markup(each["text"]) in text]
    oracles = [each for each in row["documents"] if each["oracle"]]
    if not all(each in shown for each in oracles) or (row["documents"] and not shown):
        return None
    passages = [(each["oracle"], each["text"]) for each in shown]
    answer = next(_last_text(record[name]) for name in ANSWER_FIELDS if name in record)
    return ExampleRow(row["split"], row["pubid"], row["question"], passages, answer)


def _texts(value: Any) -> Iterator[str]:  # noqa: ANN401 - any JSON value
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(each)


def _last_text(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """Return the last text of a record's field, which is the assistant's answer in every format."""
    return list(_texts(value))[-1]


def layout(row: ExampleRow) -> RenderableType:
    """Lay out a row: question, marked passages, answer."""
    lines = Table.grid(padding=(0, 2))
    lines.add_column(no_wrap=True)
    lines.add_column()
    lines.add_row(Text("question", "bold"), Text(wording.visible(row.question), "bold"))
    for is_oracle, passage in row.passages:
        mark, style = ("ORACLE", "green") if is_oracle else ("distractor", "dim")
        lines.add_row(Text(mark, f"bold {style}"), Text(wording.visible(passage), style))
    lines.add_row(Text("answer", "bold cyan"), Text(wording.visible(row.answer.strip()), "cyan"))
    heading = Text(f"A row of the {row.split} split (pubid {row.pubid})", "bold")
    return Group(Text(), heading, Padding(lines, (0, 0, 1, 2)))


def next_steps(conf: Config, dataset: tables.Version, arguments: Sequence[str]) -> Iterator[Text]:
    """Yield lines with the paths of the dataset and the page, and three commands with the same `arguments`."""
    folder = browse.folder(conf.lake, dataset)
    yield Text.assemble(("Dataset  ", "bold"), folder)
    yield Text(f'         datasets.load_dataset("{folder}/{conf.dataset.formats[0]}")')
    if page := page_path(conf.lake):
        link = Style(link=Path(page).as_uri()) if "://" not in page else Style()
        yield Text.assemble(("Page     ", "bold"), (page, link))
    yield Text("Next", "bold")
    has_omissions = bool(omissions(conf, dataset))
    for command, what in commands(program(sys.argv[0]), arguments, has_omissions=has_omissions):
        yield Text.assemble("  ", (command, "cyan"), f"   # {what}")


def page_path(lake: Lake) -> str | None:
    """Return the path of the last run's page, None without one."""
    run, folder = run_state.read(lake), Storage.of(lake).at(schemas.COMPLETIONS, "runs")
    if run is None or folder.read(f"{run.id}.html") is None:
        return None
    return folder.path(f"{run.id}.html") if folder.is_local else f"{folder.root}/{run.id}.html"


def commands(typed: str, arguments: Sequence[str], *, has_omissions: bool) -> list[tuple[str, str]]:
    """Return the next three commands and what each does; `typed` is the program as the user types it."""
    settings = shlex.join(arguments)
    second = ("show dataset --quarantine", "omitted rows") if has_omissions else ("preview", "ask the teacher")
    verbs = (
        ("show dataset --rows 5", "more rows"),
        second,
        ("evaluation", "ask a student"),
    )
    return [(" ".join(filter(None, (typed, verb, settings))), what) for verb, what in verbs]


def program(started: str) -> str:
    """Return how to type this program: its name if the shell finds it, else the path that it was `started` by."""
    found = shutil.which(PROGRAM)
    if Path(started).name != PROGRAM or (found and Path(found).resolve() == Path(started).resolve()):
        return PROGRAM
    here = Path(started).absolute()
    return shlex.quote(str(here.relative_to(Path.cwd()) if here.is_relative_to(Path.cwd()) else here))
