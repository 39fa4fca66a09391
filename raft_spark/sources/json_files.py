"""bytes of a JSON file -> records: JSON Lines, one array, one object keyed by pubid, or records that span lines.

PubMedQA's own files (ori_pqal.json) are one object keyed by pubid, with other names of columns (`QUESTION`, `CONTEXTS`); their
records get the names of the copy on the hub. A line of JSON Lines that is no JSON is a record to reject. A document that is
no JSON is a ValueError, since nobody can say where its next record begins.
"""

import io
import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

HEAD_BYTES = 1 << 20  # of a file, from which `is_document` decides
CHUNK = 1 << 20  # characters that are read at once
_SPACE = re.compile(r"\s*")
_ARRAY = re.compile(r"\[\s*[{\]]")
_KEYED = re.compile(r'\{\s*"((?:[^"\\]|\\.)*)"\s*:\s*\{\s*(?:"((?:[^"\\]|\\.)*)")?')  # key and first name in its object
_FIELDS = frozenset({"pubid", "question", "context", "contexts", "labels", "meshes", "long_answer", "final_decision"})
_IN_CONTEXT = ("contexts", "labels", "meshes")
_KEY_CHARS = 1_000  # in which the first key of an object ends
_CUT = 16  # an error so close to the end of what was read may come from the end
_DECODER = json.JSONDecoder()


def is_document(head: bytes) -> bool:
    """Say whether a file that begins with these bytes is one or more JSON values that span lines. Otherwise it is JSON Lines."""
    text = head.decode("utf-8-sig", "replace").lstrip()
    if not text.startswith("{"):
        return bool(_ARRAY.match(text))
    first, newline, rest = text.partition("\n")
    try:
        record = json.loads(first)
    except (ValueError, RecursionError) as error:
        if newline and rest.strip():
            return not rest.lstrip().startswith("{")  # as the second line of JSON Lines does
        return bool(_KEYED.match(text) and _is_keyed(text)) or str(error).startswith("Extra data")
    return bool(record) and all(isinstance(value, dict) for value in record.values()) and _is_keyed(text)


def parse_line(line: bytes) -> Any:  # noqa: ANN401 - a line of JSON may hold anything
    """Return the record of one line, or the ValueError that says why there is none."""
    try:
        return _with_hub_names(json.loads(line.decode("utf-8-sig")))  # a file may begin with a byte-order mark
    except ValueError as error:
        return error
    except RecursionError:
        return ValueError("nested too deeply")


def parse_document(stream: io.BufferedReader) -> Iterator[tuple[int, Any]]:
    """Yield (line, record) of a document, which is read piece by piece.

    Bytes that are no UTF-8 become lone surrogates, which `check_record` rejects. Raises ValueError, which names the line.
    """
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape")
    for line, record in _records(_Document(text)):
        yield line, _with_hub_names(record)


def _records(document: "_Document") -> Iterator[tuple[int, Any]]:
    """Yield the elements of arrays, the values of objects keyed by pubid, and other values as they are."""
    while first := document.peek():
        if first == "[":
            yield from _elements(document)
        elif document.is_keyed():
            yield from _members(document)
        else:
            yield document.line, document.value()


def _elements(document: "_Document") -> Iterator[tuple[int, Any]]:
    document.skip("[")
    while document.peek() != "]":
        yield document.line, document.value()
        if document.peek() != "]":
            document.skip(",")
    document.skip("]")


def _members(document: "_Document") -> Iterator[tuple[int, Any]]:
    document.skip("{")
    while document.peek() != "}":
        line, key = document.line, document.value()
        document.skip(":")
        document.peek()
        value = document.value()
        pubid = int(key) if re.fullmatch("[0-9]{1,20}", str(key)) else key
        yield line, {"pubid": pubid, **value} if isinstance(value, dict) else value
        if document.peek() != "}":
            document.skip(",")
    document.skip("}")


class _Document:
    """The text of a document from the place that is parsed next on. `line` is the number of that place's line, from 1 on."""

    def __init__(self, text: TextIO) -> None:
        self._text, self._buffer, self._at = text, "", 0
        self._line, self._counted = (
            1,
            0,
        )  # the number of the line at the place in the buffer up to which lines are counted

    @property
    def line(self) -> int:
        self._count_lines()
        return self._line

    def _count_lines(self) -> None:
        self._line += self._buffer.count("\n", self._counted, self._at)
        self._counted = self._at

    def peek(self) -> str:
        """Skip white space; return the next character without taking it, "" at the end."""
        while True:
            self._at = _SPACE.match(self._buffer, self._at).end()  # type: ignore[union-attr]  # it matches everywhere
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._read():
                return ""

    def skip(self, expected: str) -> None:
        """Take this character. Raises ValueError if another one comes next."""
        found = self.peek()
        if found != expected:
            msg = f"line {self.line} has {found!r} where {expected!r} must be" if found else self._cut_off()
            raise ValueError(msg)
        self._at += 1

    def is_keyed(self) -> bool:
        """Say whether an object keyed by pubid comes next, and not a record that begins with an object, such as its context."""
        while len(self._buffer) - self._at < _KEY_CHARS and self._read():
            pass
        return _is_keyed(self._buffer[self._at : self._at + _KEY_CHARS])

    def value(self) -> Any:  # noqa: ANN401 - JSON may hold anything
        """Take the value that begins here. Raises ValueError if there is none."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self._buffer, self._at)
            except RecursionError as error:
                msg = f"line {self.line} is nested too deeply"
                raise ValueError(msg) from error
            except ValueError as error:
                if not (self._may_go_on(error) and self._read()):
                    raise ValueError(self._describe(error)) from error
                continue
            is_whole = end < len(self._buffer) and self._buffer[end] not in ".eE"  # otherwise a number may go on
            if is_whole or not self._read():
                self._at = end
                return value

    def _may_go_on(self, error: ValueError) -> bool:
        """Say whether the value may be right, only not read to its end yet."""
        return getattr(error, "pos", 0) >= len(self._buffer) - _CUT or _is_unterminated(error)

    def _describe(self, error: ValueError) -> str:
        place = getattr(error, "pos", self._at)
        if place >= len(self._buffer) or _is_unterminated(error):
            return self._cut_off()
        line = self.line + self._buffer.count("\n", self._at, place)
        return f"line {line}: {getattr(error, 'msg', error)}"

    def _cut_off(self) -> str:
        lines = self._buffer.count("\n", self._at)
        return f"it is cut off at line {self.line + lines}"

    def _read(self) -> bool:
        """Read more; at least as much as is left, so that a long value is parsed a few times only."""
        more = self._text.read(max(CHUNK, len(self._buffer) - self._at))
        if not more:
            return False
        self._count_lines()
        self._buffer, self._at, self._counted = self._buffer[self._at :] + more, 0, 0
        return True


def _is_unterminated(error: ValueError) -> bool:
    return getattr(error, "msg", "").startswith("Unterminated string")


def _is_keyed(text: str) -> bool:
    found = _KEYED.match(text)
    if found is None or found[1].lower() in _FIELDS:
        return False
    return found[1].isdecimal() or (found[2] or "").lower() in _FIELDS


def _with_hub_names(record: Any) -> Any:  # noqa: ANN401 - JSON may hold anything
    """Give a record of PubMedQA's own files the names that the copy on the hub has."""
    if not isinstance(record, dict) or "context" in record or not {"CONTEXTS", "contexts"} & record.keys():
        return record
    named = {name.lower() if name.lower() in _FIELDS else name: value for name, value in record.items()}
    context = {name: named.pop(name) for name in _IN_CONTEXT if name in named}
    return {**named, "context": context}
