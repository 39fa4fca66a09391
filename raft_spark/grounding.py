"""A completion -> what is wrong with it: quotes that are in no passage, no answer at its end, another decision, another
language. Pure.

A chain of thought (completions.style = "cot") reasons, quotes the passages between QUOTE's marks, and ends with ANSWER's line.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from raft_spark import prompts
from raft_spark.config import Completions, Dataset

SHORTEST = 12  # characters without spaces; what is shorter stands in a passage by chance
LEGIBLE = 40  # characters; the language of what is shorter is a guess
_MARK = re.compile(rf"({re.escape(prompts.BEGIN)}|{re.escape(prompts.END)})")
_SAME = str.maketrans(
    "\u2010\u2011\u2012\u2013\u2014\u2212\u2018\u2019\u201a\u201b\u2032\u201c\u201d\u201e\u201f\u2033",
    "------'''''\"\"\"\"\"",
)
_EDGES = " .,;:\"'\u2026"
_SPACED = r"[^\W\u0530-\u1dff\u2000-\U0010ffff]"  # digits, and letters of scripts whose words have spaces around them: Latin, Greek, Cyrillic
_WORD = re.compile(_SPACED)
_DECISION = re.compile(r"\W*(yes|no|maybe)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Thought:
    """A chain of thought, read: its quotes, "" for a mark that has no partner, and its answer, "" where it has none."""

    quotes: tuple[str, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class Found:
    """What a check found: its name in [dataset.gate], and the reason in words."""

    check: str
    reason: str


def read(completion: str) -> Thought:
    """Take a chain of thought apart. The answer is the last line's; one that goes on after it, or comes twice, is none."""
    before, mark, after = completion.strip().partition(prompts.ANSWER)
    is_last = mark and prompts.ANSWER not in after and not _MARK.search(after) and "\n" not in after.strip()
    return Thought(tuple(_quotes(before)), after.strip() if is_last else "")


def _quotes(text: str) -> Iterator[str]:
    pieces = _MARK.split(text)  # text, mark, text, mark, ...
    marks, inside = pieces[1::2], pieces[2::2]
    for number, mark in enumerate(marks):
        if mark == prompts.BEGIN:
            closed = number + 1 < len(marks) and marks[number + 1] == prompts.END
            yield inside[number].strip() if closed else ""
        elif number == 0 or marks[number - 1] != prompts.BEGIN:
            yield ""


def even(text: str) -> str:
    """Return a text that quotes can be sought in: no soft hyphens, one kind of dash and of quotation mark."""
    same = unicodedata.normalize("NFKC", text.translate(_SAME)).translate(_SAME)
    return "".join(sign for sign in same if unicodedata.category(sign) != "Cf")


def plain(text: str) -> str:
    """Return what counts of a text when it is compared: `even`, without spaces."""
    return "".join(even(text).split())


def bare(quote: str) -> str:
    """Return what counts of a quote: `plain`, and without the signs at its edges."""
    return plain(quote.strip(_EDGES))


def decision(answer: str) -> str | None:
    """Return the yes, no or maybe that an answer begins with, None where it begins otherwise."""
    said = _DECISION.match(answer)
    return said[1].lower() if said else None


def check(
    completion: str, oracle: str, final_decision: str | None, asked: Completions, conf: Dataset
) -> Iterator[Found]:
    """Yield what is wrong with a completion that was written from `oracle`, whatever [dataset.gate] makes of it."""
    answer = completion
    if asked.style == "cot":
        thought = read(completion)
        yield from _quoted(thought.quotes, even(oracle), conf.quote_distance)
        answer = thought.answer
    if answer:
        yield from _refusal(answer)
        yield from _decision(answer, final_decision, is_asked=asked.decision)
        yield from _length(len(answer.split()), conf)
    else:
        yield Found("answer", "no answer line")
    if conf.gate.language != "off" and len(completion) >= LEGIBLE:
        yield from _language(completion, conf.language)


def _quoted(quotes: tuple[str, ...], oracle: str, distance: float) -> Iterator[Found]:
    compared = [bare(quote) for quote in quotes]
    if not all(stands(quote, oracle, distance) for quote in compared):
        yield Found("quote", "false quote")
    if "" in quotes:
        yield Found("quote", "broken quote")
    if not any(len(quote) >= SHORTEST for quote in compared):
        yield Found("quote", "no quote")


def stands(quote: str, text: str, distance: float = 0.0) -> bool:
    """Say whether a `bare` quote stands in an `even` text, from the edge of a word or number to the edge of another; a share
    `distance` of its signs may differ (rapidfuzz's partial ratio: the best part of the text, by insertions and deletions).
    """
    is_there = not quote or verbatim(quote, text) is not None
    if is_there or not distance or len(quote) > len(text):
        return is_there
    from rapidfuzz import fuzz  # noqa: PLC0415 - only who asks for it needs the package

    return fuzz.partial_ratio(quote, plain(text)) >= 100 * (1 - distance)


def verbatim(quote: str, text: str) -> re.Match[str] | None:
    """Find a `bare` quote, not "", in an `even` text: no `effective` of `ineffective`, no 5 mg of 0.5 mg."""
    before = rf"(?<!{_SPACED})(?<!\d[.,])" if _WORD.match(quote[0]) else ""
    after = rf"(?!{_SPACED})(?![.,]\d)" if _WORD.match(quote[-1]) else ""
    return re.search(before + r"\s*".join(map(re.escape, quote)) + after, text)


def _refusal(answer: str) -> Iterator[Found]:
    if prompts.REFUSAL.match(answer):
        yield Found("refusal", "refusal")


def _decision(answer: str, final_decision: str | None, *, is_asked: bool) -> Iterator[Found]:
    """Compare the yes, no or maybe that an answer begins with; one that begins otherwise says none, if none was asked for."""
    said = decision(answer)
    if said and final_decision and said != final_decision.lower():
        yield Found("decision", "another decision")
    if is_asked and not said and not prompts.REFUSAL.match(answer):
        yield Found("decision", "no decision")


def _length(words: int, conf: Dataset) -> Iterator[Found]:
    if words < conf.min_words:
        yield Found("length", "too short")
    if conf.max_words and words > conf.max_words:
        yield Found("length", "too long")


def _language(text: str, expected: str) -> Iterator[Found]:
    """Of 699 real answers py3langid takes 699 for English."""
    import py3langid  # noqa: PLC0415 - only who asks for it needs the package

    if py3langid.classify(text)[0] != expected:
        yield Found("language", "another language")
