"""conf/default.toml, the command tree, the public names -> settings.md, cli.md and api.md of this folder.

python docs/generate.py    # `make docs` runs it; a row test compares the pages with what it would write
"""

import inspect
import re
import textwrap
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

import raft_spark
from raft_spark.cli.main import main
from raft_spark.config import Config

DOCS = Path(__file__).parent
DEFAULTS = DOCS.parent / "conf/default.toml"
MARK = "<!-- docs/generate.py writes this page: `make docs` -->\n"
HEADER = re.compile(r"\[([\w.]+)\]\s*(?:# (.*))?")
SETTING = re.compile(r"([\w.]+) = (.*?)(?:\s+# (.*))?")
ITEM = re.compile(r" {2}(\w+) {2,}(.*)")
NAMES = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true` or `false`"}

API = """\
# Python API

Everything here is imported from `raft_spark`. `import raft_spark` starts nothing and loads neither Spark nor boto3.

A function that needs Spark uses the session that runs, or starts one, which later calls use too. The session ends with
the process, or with `SparkSession.getActiveSession().stop()`.
"""
ERRORS = """
## Errors

Each error is a `RaftError`.
Its `exit_status` is the [exit status](troubleshooting.md#exit-statuses) of the command line.
"""


@dataclass
class Section:
    """One [section] of the settings: what stands above its keys, and each key's default and comment."""

    name: str
    about: list[str] = field(default_factory=list)
    keys: dict[str, tuple[str, list[str]]] = field(default_factory=dict)


def sections(text: str) -> Iterator[Section]:
    """Yield the sections of a commented TOML file; a comment goes on in lines that hold a comment alone."""
    block: list[str] = []
    section, comment = Section(""), block
    for line in text.splitlines():
        if line.startswith("#"):
            block.append(line[1:].removeprefix(" "))
        elif found := HEADER.fullmatch(line):
            if section.name:
                yield section
            section = Section(found[1], [*block, found[2] or ""])
            block, comment = [], section.about
        elif found := SETTING.fullmatch(line):
            comment = [*block, found[3] or ""]
            block = []
            section.keys[found[1]] = found[2], comment
        elif line.lstrip().startswith("# "):
            comment.append(line.strip()[2:])
        elif not section.name:
            block = []
    yield section


def settings(text: str) -> str:
    """Return the page of settings: a table for each section."""
    schema = Config.model_json_schema()
    tables = [_section(section, schema) for section in sections(text)]
    return (
        f"{MARK}\n# Settings\n\n"
        "Settings come from `conf/default.toml`, then from each file that you name, then from each `--set section.key=value`;\n"
        "the last value wins. An unknown key, a value of another type and a value outside of its range end a command with\n"
        "status 2 before anything starts.\n" + "".join(tables)
    )


def _section(section: Section, schema: Mapping[str, Any]) -> str:
    kind = section.name.partition(".")[0]
    if kind == "endpoints" and not any(section.about):
        return ""  # another example; the first has the comment about all
    name = "endpoints.NAME" if kind == "endpoints" else section.name
    about = f"\n## [{name}]\n\n{_prose(section.about)}"
    if kind == "endpoints":
        return about + _models_keys(schema["$defs"]["Endpoint"])
    if kind == "prices":
        return about + _prices()
    known = _at(schema, section.name.split(".")).get("properties", {})
    rows = [
        (f"`{key}`", _meaning(" ".join(filter(None, comment)), allowed(known[key], schema), default))
        for key, (default, comment) in section.keys.items()
    ]
    return about + _table(("Setting", "Meaning"), rows)


def _meaning(comment: str, values: str, default: str) -> str:
    said = f"{_plain(comment)}<br>" if comment else ""
    return f"{said}Values: {values}. Default: `{default}`"


def _at(schema: Mapping[str, Any], path: Sequence[str]) -> Mapping[str, Any]:
    """Follow a path of sections through the settings' JSON schema."""
    here = schema
    for part in path:
        here = _resolved(here["properties"][part], schema)
    return here


def _resolved(here: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    return schema["$defs"][here["$ref"].rpartition("/")[2]] if "$ref" in here else here


def _models_keys(model: Mapping[str, Any]) -> str:
    """Return a table of keys that have their defaults in the model."""
    rows = [
        (f"`{key}`", allowed(known, {}), "needed" if key in model["required"] else _default(known.get("default")))
        for key, known in model["properties"].items()
    ]
    return _table(("Setting", "Values", "Default"), rows)


def _default(value: object) -> str:
    return f'`"{value}"`' if isinstance(value, str) else "" if value is None else f"`{value}`"


def _prices() -> str:
    """Return the price table of the default settings."""
    keys = ("input_price", "output_price", "batch_input_price", "batch_output_price", "hourly_price", "source", "date")
    prices = tomllib.loads(DEFAULTS.read_text())["prices"]
    rows = [(f"`{name}`", *(str(price.get(key, "")) for key in keys)) for name, price in prices.items()]
    return _table(("Model or instance", *(f"`{key}`" for key in keys)), rows)


def allowed(known: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Say in words which values a setting takes, from its JSON schema."""
    known = _resolved(known, schema)
    if "anyOf" in known:
        return " or ".join(allowed(each, schema) for each in known["anyOf"] if each.get("type") != "null")
    if "enum" in known or "const" in known:
        return ", ".join(f"`{value}`" if value else '`""`' for value in known.get("enum", [known.get("const")]))
    if "items" in known:
        return f"list of: {allowed(known['items'], schema)}"
    inner = known.get("additionalProperties")
    if isinstance(inner, dict) and "items" in inner:
        return f"table of names, each with a {allowed(inner, schema)}"
    low, high = known.get("minimum", known.get("exclusiveMinimum")), known.get("maximum")
    name = NAMES.get(known["type"], "table of names and text")
    if low is None:
        return name
    within = f"above {low:,}" if "exclusiveMinimum" in known else f"{low:,}"
    return f"{name}, {within} to {high:,}" if high is not None else f"{name}, {within} or more"


def _prose(lines: Sequence[str]) -> str:
    """Return comment lines as a paragraph, and `  name  what it is` with its indented lines as an item of a list."""
    blocks: list[str] = []
    for line in filter(None, lines):
        if found := ITEM.fullmatch(line):
            blocks.append(f"* `{found[1]}`: {_plain(found[2])}")
        elif not blocks or (blocks[-1].startswith("* ") and not line.startswith("     ")):
            blocks.append(_plain(line))
        else:
            blocks[-1] += f" {_plain(line.strip())}"
    return "".join(f"{_folded(block)}\n\n" for block in blocks)


def _folded(text: str) -> str:
    """Break a paragraph at 120 characters; an item of a list goes on two spaces to the right."""
    further = "  " if text.startswith("* ") else ""
    return textwrap.fill(text, 120, subsequent_indent=further, break_long_words=False, break_on_hyphens=False)


def _plain(text: str) -> str:
    """Return text of a comment as Markdown: what would be markup is escaped, but for code between backticks."""
    parts = re.split(r"(`[^`]*`)", text)
    escaped = [part if part.startswith("`") else re.sub(r"([*\[\]])", r"\\\1", part) for part in parts]
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in escaped)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def cli() -> str:
    """Return the page of the command line: a section for each verb, in the order of `raft-spark --help`."""
    context = click.Context(main, info_name="raft-spark")
    return f"{MARK}\n# Command line\n\n{_help(main)}\n" + "".join(_verbs(main, context))


def _verbs(group: click.Group, context: click.Context) -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        below = click.Context(command, info_name=name, parent=context)
        yield _verb(command, below)
        if isinstance(command, click.Group):
            yield from _verbs(command, below)


def _verb(command: click.Command, context: click.Context) -> str:
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    options = [each for each in command.get_params(context) if isinstance(each, click.Option)]
    records = [each.get_help_record(context) for each in options if "--help" not in each.opts]
    rows = [(f"`{record[0]}`", _plain(record[1])) for record in records if record]
    return f"\n## {context.command_path}\n\n```text\n{usage}\n```\n\n{_help(command)}\n" + (
        "\n" + _table(("Option", "Meaning"), rows) if rows else ""
    )


def _help(command: click.Command) -> str:
    """Return a help text as Markdown; a paragraph that click is to leave as it is becomes a block."""
    paragraphs = inspect.cleandoc(command.help or "").partition("\f")[0].split("\n\n")
    return "\n\n".join(
        f"```text\n{textwrap.dedent(paragraph.partition(chr(10))[2]).rstrip()}\n```"
        if paragraph.startswith("\b")
        else _folded(_plain(" ".join(paragraph.split())))
        for paragraph in paragraphs
    )


def api(names: Sequence[str], members: Mapping[str, object]) -> str:
    """Return the page of the public names: functions in the order of their definition, then types, then errors."""
    functions = [name for name, member in members.items() if name in names and inspect.isfunction(member)]
    found = [name for name in members if name.endswith("Error")]
    types = sorted({*names} - {*functions, *found})
    parts = [("\n## Functions\n", functions), ("\n## Types\n", types), (ERRORS, found)]
    blocks = (title + "".join(f"\n::: raft_spark.{name}\n" for name in part) for title, part in parts if part)
    return f"{MARK}\n{API}" + "".join(blocks)


def pages() -> dict[str, str]:
    """Return every generated page by its file name."""
    return {
        "settings.md": settings(DEFAULTS.read_text()),
        "cli.md": cli(),
        "api.md": api(getattr(raft_spark, "__all__", ()), vars(raft_spark)),
    }


if __name__ == "__main__":
    for name, page in pages().items():
        (DOCS / name).write_text(page)
