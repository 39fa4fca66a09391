"""record -> article, or the reason why it is rejected: the checks of a PubMedQA record."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from hashlib import blake2b
from typing import Any, NamedTuple

from raft_spark.config import Articles
from raft_spark.recipe.boilerplate import comparable_words, is_boilerplate
from raft_spark.sources.input_schema import is_missing

DECISIONS = ("yes", "no", "maybe")
MAX_PUBID = 2**63 - 1
_to_json = json.JSONEncoder(check_circular=False).encode


class Article(NamedTuple):
    """A valid record. `fingerprint` is a hash of its content. White space around texts is stripped."""

    pubid: int
    question: str
    passages: list[str]
    labels: list[str]
    meshes: list[str]
    long_answer: str | None
    final_decision: str | None
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that goes to the quarantine, and the reason."""

    pubid: int | None
    reason: str


class _RejectError(Exception):
    """Carries a reason from a check to `check_record`; other modules never see it."""


def check_record(record: Any, conf: Articles) -> Article | Rejected:  # noqa: ANN401 - a source may hold anything
    """Check one record of a source; its texts are str or bytes, and an invalid line of JSON is its ValueError."""
    pubid = None
    try:
        fields = _fields(record)
        pubid = _pubid(fields.get("pubid"))
        return _article(pubid, fields, conf)
    except _RejectError as reason:
        return Rejected(pubid, str(reason))


def leak_digests(texts: Sequence[str]) -> list[bytes]:
    """Return a hash of the words of each text in 8 bytes, big-endian; b"" for boilerplate. One call for many is faster.

    The texts of an article are its question and passages. No article may share a hash with an article of another split.
    """
    return [
        b"" if is_boilerplate(words) else blake2b(words, digest_size=8).digest() for words in comparable_words(texts)
    ]


def fingerprint(content: Sequence[object]) -> str:
    """Return the fingerprint of an article: of its question, passages, labels, meshes, long answer and decision."""
    return blake2b(_to_json(content).encode(), digest_size=16).hexdigest()


def _fields(record: Any) -> dict[str, Any]:  # noqa: ANN401 - a source may hold anything
    if isinstance(record, UnicodeDecodeError):
        raise _RejectError("invalid UTF-8 in the line")
    if isinstance(record, ValueError):
        raise _RejectError("invalid JSON")
    if not isinstance(record, dict):
        raise _RejectError(f"wrong type: the record is {_kind(record)}")
    return record


def _article(pubid: int, record: dict[str, Any], conf: Articles) -> Article:
    question = _text("question", record.get("question"), conf)
    if not question:
        raise _RejectError("no question")
    context = {} if is_missing(record.get("context")) else record["context"]
    if not isinstance(context, dict):
        raise _RejectError(f"wrong type: context is {_kind(context)}")
    passages = _texts("contexts", context.get("contexts"), conf)
    if not passages:
        raise _RejectError("no passage")
    if not all(passages):
        raise _RejectError("blank passage")
    if len(passages) > conf.max_passages:
        raise _RejectError("too many passages")
    decision = _text("final_decision", record.get("final_decision"), conf).lower() or None
    if decision not in (*DECISIONS, None):
        raise _RejectError("final_decision is not yes, no or maybe")
    labels, meshes = (_texts(name, context.get(name), conf) for name in ("labels", "meshes"))
    long_answer = _text("long_answer", record.get("long_answer"), conf) or None
    content = (question, passages, labels, meshes, long_answer, decision)
    return Article(pubid, *content, fingerprint(content))


def _pubid(value: Any) -> int:  # noqa: ANN401 - a source may hold anything
    if is_missing(value):
        raise _RejectError("no pubid")
    if isinstance(value, Decimal):  # of a column that an SQL database wrote; its scale is 0
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _RejectError(f"wrong type: pubid is {_kind(value)}")
    if not 0 <= value <= MAX_PUBID:
        raise _RejectError("pubid is out of range")
    return value


def _texts(name: str, values: Any, conf: Articles) -> list[str]:  # noqa: ANN401 - a source may hold anything
    values = [] if is_missing(values) else values
    if not isinstance(values, list):
        raise _RejectError(f"wrong type: {name} is {_kind(values)}")
    return [_text(name, value, conf) for value in values]


def _text(name: str, value: Any, conf: Articles) -> str:  # noqa: ANN401 - a source may hold anything
    """Return the stripped text, or "" for a missing one."""
    if is_missing(value):
        return ""
    if not isinstance(value, str | bytes):
        raise _RejectError(f"wrong type: {name} is {_kind(value)}")
    try:
        text = value.decode() if isinstance(value, bytes) else value
        text.encode()
    except UnicodeError as error:
        raise _RejectError(f"invalid UTF-8 in {name}") from error
    if len(text) > conf.max_text_chars:
        raise _RejectError(f"{name} is too long")
    return text.strip()


def _kind(value: Any) -> str:  # noqa: ANN401 - a source may hold anything
    names: dict[type, str] = {dict: "a table", list: "a list", str: "text", bytes: "text"}
    return names.get(type(value), type(value).__name__)
