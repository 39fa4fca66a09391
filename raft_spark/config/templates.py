"""Define the prompt templates: the words of the teacher's and the students' prompts, and how a file of them is read.

A template has a file for each style, such as cot.toml. Those that come with the package are raft_spark/recipe/templates.
A file of the user's becomes part of the settings when they are loaded, so that every worker has its words.
"""

import functools
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from raft_spark.config import messages
from raft_spark.config.fields import Section
from raft_spark.errors import ConfigError

STYLES = ("answer", "cot", "finding")
FOLDER = Path(__file__).parents[1] / "recipe" / "templates"
DEFAULT = "medical"
_FIELD = re.compile(r"\{\{|\}\}|\{([a-z_]+)\}")
# Text from articles must not become part of a control token with the words around it: "<" before it, ">" after it.
_OPEN_BEFORE = re.compile(r"[<\uff1c\[][^\s>\]\uff1e]*$")
_TOUCHED_AFTER = re.compile(r"[\w|\uff5c>\]/]|\{(?!\{)")
# What answer_text takes out of an answer, and what prompts.escape_markup breaks in a target
_REWRITTEN = re.compile(
    r"<\s*/?\s*(?:answer|think|thought|reason|s>|eos|bos)|<[|\uff5c]|\[/?(?:inst|think)|[<\[]/?\w{2,30}_\w{1,30}[>\]]",
    re.IGNORECASE,
)
PassageMarks = Literal["template", "blank_lines", "numbers", "tags"]
Reader = Literal["teacher", "student"]
_LAYOUTS = {  # passage_marks -> passage, separator
    "blank_lines": ("{passage}", "\n\n"),
    "numbers": ("[{number}] {passage}", "\n\n"),
    "tags": ("<DOCUMENT>{passage}</DOCUMENT>", "\n"),
}
Words = Annotated[str, Field(max_length=20_000)]
Mark = Annotated[str, Field(min_length=2, max_length=100, pattern=r"^[!-~]([ -~]*[!-~])?$", examples=["<ANSWER>:"])]


def fill(text: str, fields: Mapping[str, str]) -> str:
    """Put fields into a text of a PromptLayout, all at once: braces in a field's value stay as they are. {{ and }} stand for
    braces.
    """
    return text.format_map(fields)


class PromptLayout(Section):
    """The words of one prompt. `user` has the fields {context} and {question}, `passage` {passage} and {number}."""

    system: Words = ""
    user: Words
    passage: Words = "{passage}"
    separator: Words = "\n\n"
    opening: Words = "Answer:"

    @model_validator(mode="after")
    def _has_its_fields(self) -> "PromptLayout":
        problems = [*_field_problems("user", self.user, {"context", "question"}, set())]
        problems += _field_problems("passage", self.passage, {"passage"}, {"number"})
        passages = self.passage + self.separator.replace("{", "{{").replace("}", "}}") + self.passage
        problems = problems or [*_touching(self.user.replace("{context}", passages))]
        if problems:
            raise ValueError(problems[0])
        return self


class Marks(Section):
    """How answers are read: the marks of a chain of thought, around each quote and before the answer on the last line; an
    answer that begins with `unknown` is a refusal, in addition to English ones.
    """

    begin_quote: Mark = "##begin_quote##"
    end_quote: Mark = "##end_quote##"
    answer: Mark = "<ANSWER>:"
    unknown: Annotated[str, Field(max_length=200)] = ""

    @model_validator(mode="after")
    def _differ(self) -> "Marks":
        marks = (self.begin_quote, self.end_quote, self.answer)
        for number, mark in enumerate(marks):
            if any(mark in other for other in marks[:number] + marks[number + 1 :]):
                msg = f"has the mark {mark!r} in another mark; it must have three marks of which none holds another"
                raise ValueError(msg)
            if _REWRITTEN.search(mark) and mark != Marks.model_fields["answer"].default:
                msg = f"has the mark {mark!r}, which is taken out of answers as markup; it must be another one"
                raise ValueError(msg)
        return self


class PromptTemplate(Section):
    """The words of one style: the prompts of teacher and student, and what both are told.

    `decision` is added where completions.decision asks for it, `citation` where a chain of thought may cite passages by
    their numbers. `refusal` is the target of a row without its oracle if dataset.absent_answer is "refuse".
    """

    teacher: PromptLayout
    student: PromptLayout
    marks: Marks = Marks()
    decision: Words = "The answer itself begins with yes, no or maybe."
    citation: Words = "You may cite a passage by its number in brackets after what you take from it, such as [1]."
    refusal: Annotated[str, Field(min_length=1, max_length=2000)] = (
        "I don't know: the given passages do not answer the question."
    )

    def problem(self, style: str) -> str:
        """Return what a chain of thought is not told, "" if nothing is missing."""
        if style != "cot":
            return ""
        for name, layout in (("teacher", self.teacher), ("student", self.student)):
            for mark in (self.marks.begin_quote, self.marks.end_quote, self.marks.answer):
                if mark not in layout.system + layout.user:
                    return f"{name} does not name the mark {mark!r}; its system or user must ask for it, as answers are read by it"
        return ""


def _field_problems(name: str, text: str, needed: set[str], optional: set[str]) -> Iterator[str]:
    found = [field for field in _FIELD.findall(text) if field]
    known = ", ".join(f"{{{field}}}" for field in sorted(needed | optional))
    for field in sorted({*found} - needed - optional):
        yield f"{name} has the unknown field {{{field}}}; the fields are {known}, and {{{{ }}}} stand for braces"
    for field in sorted(needed):
        if found.count(field) != 1:
            yield f"{name} has {{{field}}} {found.count(field)} times; it must be there once"
    if set("{}") & set(_FIELD.sub("", text)):
        yield f"{name} has a single brace; the fields are {known}, and {{{{ }}}} stand for braces"


def _touching(text: str) -> Iterator[str]:
    """Yield what is wrong where text from articles comes: it must not touch signs of which control tokens consist."""
    for found in _FIELD.finditer(text):
        if found[1] in (None, "number"):
            continue
        before, after = text[: found.start()], text[found.end() :]
        opening = _OPEN_BEFORE.search(_FIELD.sub("", before))
        if opening or _TOUCHED_AFTER.match(after):
            sign = opening[0] if opening else after[0]
            yield f"has {sign!r} next to {found[0]}; it must have a blank or a line break between, so that no text becomes markup"


def shipped_names() -> list[str]:
    """Return the names of the templates that come with the package."""
    return sorted(path.name for path in FOLDER.iterdir() if path.is_dir())


@functools.cache
def shipped(name: str, style: str) -> PromptTemplate:
    """Return a template that comes with the package. Raises ConfigError if it has no file for the style."""
    path = FOLDER / name / f"{style}.toml"
    if not path.is_file():
        styles = ", ".join(sorted(found.stem for found in path.parent.glob("*.toml")))
        msg = f"completions.prompts is {name!r}, which has the styles {styles}; completions.style must be one of them"
        raise ConfigError(msg)
    return parse(path.read_bytes(), str(path), style)


@functools.cache
def mark_passages(template: PromptTemplate, teacher: PassageMarks, student: PassageMarks) -> PromptTemplate:
    """Return the template with these marks between the passages of the teacher's and the students' prompts.

    Raises ValidationError, a ValueError, if text from articles would touch signs of which control tokens consist.
    """
    marked = {"teacher": _mark(template.teacher, teacher), "student": _mark(template.student, student)}
    return template.model_copy(update=marked)


def _mark(layout: PromptLayout, marks: PassageMarks) -> PromptLayout:
    if marks == "template":
        return layout
    passage, separator = _LAYOUTS[marks]
    return PromptLayout.model_validate({**layout.model_dump(), "passage": passage, "separator": separator})


def parse(content: bytes, source: str, style: str) -> PromptTemplate:
    """Return the template in a file. Raises ConfigError that names the file and what would be right."""
    try:
        fields = tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        msg = f"{source} is not UTF-8: {error}; save it as UTF-8"
        raise ConfigError(msg) from error
    except tomllib.TOMLDecodeError as error:
        msg = f"{source} is not TOML: {error}; correct the file there"
        raise ConfigError(msg) from error
    if problem := _problem(fields, style):
        msg = "\n".join(f"{source}: {line}" for line in problem.splitlines())
        raise ConfigError(msg)
    return PromptTemplate.model_validate(fields)


def _problem(fields: object, style: str) -> str:
    try:
        return PromptTemplate.model_validate(fields).problem(style)
    except ValidationError as error:
        return messages.explain(error, PromptTemplate.model_json_schema())


def _check_prompts(given: object) -> object:
    """Accept the name of a template of the package, or the words of styles as the loader reads them from files."""
    if isinstance(given, str):
        if given not in shipped_names():
            msg = f"it must be one of {', '.join(shipped_names())}, or the path of a folder or a .toml file"
            raise ValueError(msg)
        return given
    if not isinstance(given, dict) or not given or {*given} - {*STYLES}:
        msg = f"must be the name of a template, a path, or a table with some of {', '.join(STYLES)}"
        raise ValueError(msg)
    for style, fields in given.items():
        if problem := _problem(fields, style):
            msg = f"{style}: {problem}"
            raise ValueError(msg)
    return {style: PromptTemplate.model_validate(fields) for style, fields in given.items()}


Prompts = Annotated[str | dict[str, PromptTemplate], BeforeValidator(_check_prompts)]


def is_path(value: object) -> bool:
    """Return whether completions.prompts names a file or a folder, not a template of the package."""
    return isinstance(value, str) and ("/" in value or value.endswith(".toml"))


def read(path: str, style: str, lake: Mapping[str, Any]) -> dict[str, Any]:
    """Return the words of each style at a path: of `style` in a file, of all styles that a folder has.

    `lake` has the endpoint and the region of S3. Raises ConfigError if the words of `style` are missing or wrong.
    """
    is_file = path.endswith(".toml")
    files = {style: path} if is_file else {name: f"{path.rstrip('/')}/{name}.toml" for name in STYLES}
    contents = {name: _read_file(file, lake, is_needed=name == style) for name, file in files.items()}
    found = {name: parse(content, files[name], name) for name, content in contents.items() if content is not None}
    return {name: template.model_dump(exclude_unset=True) for name, template in found.items()}


def _read_file(path: str, lake: Mapping[str, Any], *, is_needed: bool) -> bytes | None:
    """Return the content of a file on the disk or in S3; None if it does not exist and is not needed."""
    if "://" in path:
        return _read_object(path, lake, is_needed=is_needed)
    try:
        return Path(path).expanduser().read_bytes()
    except FileNotFoundError as error:
        if not is_needed:
            return None
        raise _unreadable(path, error.strerror or "") from error
    except OSError as error:
        raise _unreadable(path, error.strerror or "") from error


def _read_object(uri: str, lake: Mapping[str, Any], *, is_needed: bool) -> bytes | None:
    from raft_spark.common import aws  # noqa: PLC0415 - boto3 is imported only for a template in S3

    if not re.match(r"s3a?://[a-z0-9][a-z0-9.-]+/.", uri):
        raise _unreadable(uri, "it is no s3://bucket/key")
    client = aws.connect("s3", str(lake.get("s3_region") or ""), str(lake.get("s3_endpoint") or ""))
    return aws.read_object(client, uri, is_needed=is_needed)


def _unreadable(path: str, reason: str) -> ConfigError:
    names = ", ".join(shipped_names())
    msg = (
        f"completions.prompts: {path} cannot be read ({reason}); it must be a .toml file, a folder with a file for "
        f"completions.style, or one of {names}"
    )
    return ConfigError(msg)
