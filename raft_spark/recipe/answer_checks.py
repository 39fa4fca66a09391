"""A completion -> what is wrong with it: quotes that are in no passage, no answer at its end, another decision, another
language. Pure.

A chain of thought (completions.style = "cot") reasons, quotes the passages between QUOTE's marks, and ends with ANSWER's line.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from raft_spark.config import Completions, Dataset
from raft_spark.recipe import prompts

MIN_QUOTE_CHARS = 12  # characters without spaces; what is shorter stands in a passage by chance
MIN_LANGUAGE_CHARS = 40  # characters; the language of what is shorter is a guess
_MARK = re.compile(rf"({re.escape(prompts.BEGIN)}|{re.escape(prompts.END)})")
_SAME = str.maketrans(
    "\u2010\u2011\u2012\u2013\u2014\u2212\u2018\u2019\u201a\u201b\u2032\u201c\u201d\u201e\u201f\u2033",
    "------'''''\"\"\"\"\"",
)
_LOOSE = re.compile(r"#+\s*(?:begin|end)[ _-]?quote\s*#+", re.IGNORECASE)
_EDGES = ".,;:\"'*"
_EDGE = re.compile(rf"^(?:\.{{2,}}|(?!\.\d)[{_EDGES}])+")  # before a quote; the point of .5 is none
_SPACED = r"[^\W\u0530-\u1dff\u2000-\U0010ffff]"  # digits, and letters of scripts whose words have spaces around them: Latin, Greek, Cyrillic
_WORD = re.compile(_SPACED)
_FRACTION = re.compile(r"[.-]\d")
_NUMBER_BEFORE = re.compile(r"(?:\d,|[.\u00b7]|(?<![\w)\]])-)$")
_NUMBER_AFTER = re.compile(r"[.,\u00b7]\d")
_DECISION = re.compile(r"[\W_]*(?:answer\s*:[\W_]*)?(yes|no|maybe)(?![^\W_])(?!-\w)", re.IGNORECASE)
# `No harm was seen.`, which is no answer no
_NO_SUCH = re.compile(r"[\W_]*no\s+(?!(?:it|he|she|they|there|this|that|these|those|we)\b)\w", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """A chain of thought, read: its quotes, "" for a mark that has no partner or is misspelt, and its answer, "" where it has none."""

    quotes: tuple[str, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class Problem:
    """What a check found: its name in [dataset.gate], and the reason in words."""

    check: str
    reason: str


def parse(completion: str) -> ParsedAnswer:
    """Take a chain of thought apart. The answer is the last line's; one that goes on after it, or comes twice, is none."""
    before, mark, after = completion.strip().partition(prompts.ANSWER)
    is_last = mark and prompts.ANSWER not in after and not _MARK.search(after) and "\n" not in after.strip()
    return ParsedAnswer(tuple(_quotes(before)), after.strip() if is_last else "")


def _quotes(text: str) -> Iterator[str]:
    yield from ("" for mark in _LOOSE.findall(text) if mark not in (prompts.BEGIN, prompts.END))
    pieces = _MARK.split(text)  # text, mark, text, mark, ...
    marks, inside = pieces[1::2], pieces[2::2]
    for number, mark in enumerate(marks):
        if mark == prompts.BEGIN:
            closed = number + 1 < len(marks) and marks[number + 1] == prompts.END
            yield inside[number].strip() if closed else ""
        elif number == 0 or marks[number - 1] != prompts.BEGIN:
            yield ""


def normalize(text: str) -> str:
    """Return a text that quotes can be sought in: no soft hyphens, one kind of dash and of quotation mark."""
    same = unicodedata.normalize("NFKC", text.translate(_SAME)).translate(_SAME)
    return "".join(sign for sign in same if unicodedata.category(sign) != "Cf")


def without_spaces(text: str) -> str:
    """Return what counts of a text when it is compared: `even`, without spaces."""
    return "".join(normalize(text).split())


def comparable_quote(quote: str) -> str:
    """Return what counts of a quote: `plain`, and without the signs at its edges."""
    return _EDGE.sub("", without_spaces(quote)).rstrip(_EDGES)


def read_decision(answer: str) -> str | None:
    """Return the yes, no or maybe that an answer begins with, None where it begins otherwise."""
    said = _DECISION.match(answer)
    return said[1].lower() if said else None


class QuoteSearch:
    """An `even` text that `bare` quotes are sought in: without its spaces, and with where each sign was."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = [at for at, sign in enumerate(text) if not sign.isspace()]
        self.bare = "".join(text[at] for at in self._at)

    def find(self, quote: str) -> tuple[int, int] | None:
        """Return where a quote begins and ends, None where it does not stand from the edge of a word or number to the edge of
        another: no `effective` of `ineffective`, no 5 mg of 0.5 mg.
        """
        start = self.bare.find(quote) if quote else -1
        while start >= 0:
            begin, end = self._at[start], self._at[start + len(quote) - 1] + 1
            before, after = self._text[max(0, begin - 2) : begin], self._text[end : end + 2]
            if not _goes_on_before(quote, before) and not _goes_on_after(quote, after):
                return begin, end
            start = self.bare.find(quote, start + 1)
        return None


def _goes_on_before(quote: str, before: str) -> bool:
    """Say whether the word or number that a quote begins with begins earlier; `before` are the two signs there."""
    if not _WORD.match(quote) and not _FRACTION.match(quote):
        return False
    return bool(_WORD.match(before[-1:]) or (quote[0].isdigit() and _NUMBER_BEFORE.search(before)))


def _goes_on_after(quote: str, after: str) -> bool:
    if not _WORD.match(quote[-1]):
        return False
    return bool(_WORD.match(after) or (quote[-1].isdigit() and _NUMBER_AFTER.match(after)))


def contains_quote(quote: str, text: QuoteSearch, distance: float = 0.0) -> bool:
    """Say whether a `bare` quote stands in a text; a share `distance` of its signs may differ (rapidfuzz's partial ratio: the best
    part of the text, by insertions and deletions), but not where a word or number is cut.
    """
    if text.find(quote):
        return True
    if not distance or quote in text.bare or len(quote) > len(text.bare):
        return False
    from rapidfuzz import fuzz  # noqa: PLC0415 - only who asks for it needs the package

    return fuzz.partial_ratio(quote, text.bare) >= 100 * (1 - distance)


def check_answer(
    completion: str, oracle: str, final_decision: str | None, asked: Completions, conf: Dataset
) -> Iterator[Problem]:
    """Yield what is wrong with a completion that was written from `oracle`, whatever [dataset.gate] makes of it."""
    answer = completion
    if asked.style == "cot":
        thought = parse(completion)
        yield from _quoted(thought.quotes, QuoteSearch(normalize(oracle)), conf.quote_distance)
        answer = thought.answer
    if answer:
        yield from _refusal(answer)
        yield from _decision(answer, final_decision, is_asked=asked.decision)
        yield from _length(len(answer.split()), conf)
    else:
        yield Problem("answer", "no answer line")
    if conf.gate.language != "off" and len(completion) >= MIN_LANGUAGE_CHARS:
        yield from _language(completion, conf.language)


def _quoted(quotes: tuple[str, ...], oracle: QuoteSearch, distance: float) -> Iterator[Problem]:
    compared = [comparable_quote(quote) for quote in quotes]
    if not all(contains_quote(quote, oracle, distance) for quote in filter(None, compared)):
        yield Problem("quote", "false quote")
    if "" in compared:
        yield Problem("quote", "broken quote")
    if not any(len(quote) >= MIN_QUOTE_CHARS for quote in compared):
        yield Problem("quote", "no quote")


def _refusal(answer: str) -> Iterator[Problem]:
    if prompts.REFUSAL_PATTERN.search(answer):
        yield Problem("refusal", "refusal")


def _decision(answer: str, final_decision: str | None, *, is_asked: bool) -> Iterator[Problem]:
    """Compare the yes, no or maybe that an answer begins with; one that begins otherwise says none, if none was asked for."""
    said = read_decision(answer) if is_asked or not _NO_SUCH.match(answer) else None
    if said and final_decision and said != final_decision.lower():
        yield Problem("decision", "another decision")
    if is_asked and not said and not prompts.REFUSAL_PATTERN.search(answer):
        yield Problem("decision", "no decision")


def _length(words: int, conf: Dataset) -> Iterator[Problem]:
    if words < conf.min_words:
        yield Problem("length", "too short")
    if conf.max_words and words > conf.max_words:
        yield Problem("length", "too long")


def _language(text: str, expected: str) -> Iterator[Problem]:
    """Of 699 real answers py3langid takes 699 for English."""
    import py3langid  # noqa: PLC0415 - only who asks for it needs the package

    if py3langid.classify(text)[0] != expected:
        yield Problem("language", "another language")
