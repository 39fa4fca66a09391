"""completion -> its problems: quotes that are in no passage, citations of none, no answer line, a wrong decision, a wrong length or language.

A completion of the style "cot" is a chain of thought: it quotes the passages between two marks, and its last line begins
with a third one, see config.templates.Marks.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from raft_spark.config import Completions, Dataset
from raft_spark.config.templates import Marks
from raft_spark.endpoints import answer_text
from raft_spark.recipe import citations, prompts, quote_search, refusals

MIN_LANGUAGE_CHARS = 40  # the language of a shorter text is a guess
MARKS = Marks()
_ANY_MARK = re.compile(r"##*\s*(?:begin|end)[ _-]?quote\s*#+", re.IGNORECASE)
_LEAD = (  # what may stand before a decision
    r"(?:(?:(?:the|my|final|short|overall|correct)\s+)*(?:answer|response|decision|conclusion|verdict)(?:\s+(?:is|would\s+be))?"
    r"|a(?=\s*:)|(?:in|as\s+a)\s+(?:conclusion|summary|short|brief)|to\s+conclude|overall|therefore|thus|hence|so|well|indeed"
    r"|i(?:\s+would|['\u2019]d)?\s+(?:say|answer|conclude|think|believe)(?:\s+that)?"
    r"|(?:based\s+on|according\s+to|given)\s[^,.:;\n]{1,80}(?=,))\W+"
)
_DECISION = re.compile(
    rf"[\W_]*(?:{_LEAD}){{0,3}}_*(?:(yes|no|maybe)(?![^\W_])|(possibly|perhaps)(?=[\W_]*(?:$|[.,;:!\n])))",
    re.IGNORECASE,
)
# "No harm was seen." and "No-reflow predicts death." say no more than the beginning of a clause: "No it does not"
_NO_NOUN = re.compile(
    r"(?:[^\S\n]+|-)(?!(?:it|he|she|they|there|this|that|these|those|we|i|you|the|an?|because|since|as|but|although|though)\b)\w",
    re.IGNORECASE,
)
_OTHER = re.compile(r"[^\w.!?]*(?:(?:and|or|but)\s+)?(yes|no|maybe)(?=[\W_]*(?:$|[.,;:!?/\n]))", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """The parts of a chain of thought: its quotes and its answer.

    A quote is "" if a mark has no partner or is misspelt. The answer is "" if there is no answer line.
    """

    quotes: tuple[str, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class Problem:
    """What a check found: the name of the check in [dataset.gate], and the reason in words."""

    check: str
    reason: str


def parse(completion: str, marks: Marks = MARKS) -> ParsedAnswer:
    """Return the parts of a chain of thought. The answer must be on the last line, and there must be only one."""
    thought, mark, after = completion.strip().partition(marks.answer)
    is_last_line = (
        mark and marks.answer not in after and not quote_mark(marks).search(after) and "\n" not in after.strip()
    )
    return ParsedAnswer(tuple(_quotes(thought, marks)), after.strip() if is_last_line else "")


@cache
def quote_mark(marks: Marks) -> re.Pattern[str]:
    """Return the pattern of a mark around quotes."""
    return re.compile(rf"({re.escape(marks.begin_quote)}|{re.escape(marks.end_quote)})")


def _quotes(text: str, marks: Marks) -> Iterator[str]:
    begin, end = marks.begin_quote, marks.end_quote
    yield from ("" for mark in _ANY_MARK.findall(text) if mark not in (begin, end))
    parts = quote_mark(marks).split(text)  # text, mark, text, mark, ...
    found, texts_after = parts[1::2], parts[2::2]
    for number, mark in enumerate(found):
        if mark == begin:
            is_closed = number + 1 < len(found) and found[number + 1] == end
            yield texts_after[number].strip() if is_closed else ""
        elif number == 0 or found[number - 1] != begin:
            yield ""


def read_decision(answer: str) -> str | None:
    """Return the yes, no or maybe that an answer begins with, or None.

    A label or a phrase may stand before it: "Answer: yes", "In conclusion, no". Possibly and perhaps, alone in their clause,
    are maybe. None for two decisions ("yes and no") and for a no that belongs to a noun ("No harm was seen").
    """
    found = _DECISION.match(answer)
    if not found:
        return None
    decision = found[1].lower() if found[1] else "maybe"
    if decision == "no" and _NO_NOUN.match(answer, found.end()):
        return None
    other = _OTHER.match(answer, found.end())
    return decision if not other or other[1].lower() == decision else None


def check_answer(
    completion: str, oracle: str, final_decision: str | None, completions: Completions, conf: Dataset
) -> Iterator[Problem]:
    """Yield the problems of a completion that was written from `oracle`. [dataset.gate] decides what follows from them."""
    answer, marks = completion, completions.words.marks
    if completions.style == "cot":
        thought = parse(completion, marks)
        passages = [
            quote_search.QuoteSearch(quote_search.normalize(passage)) for passage in oracle.split(prompts.SEPARATOR)
        ]
        yield from _check_quotes(thought.quotes, passages, conf.quote_distance)
        if completions.cites_passages and citations.cited_numbers(completion, marks) - {*range(1, len(passages) + 1)}:
            yield Problem("citation", "false citation")
        answer = thought.answer
    if answer_text.has_next_turn(completion):
        yield Problem("turn", "another turn")
    if answer:
        is_refusal = refusals.is_refusal(answer, marks.unknown)
        if is_refusal:
            yield Problem("refusal", "refusal")
        is_required = completions.decision and not is_refusal
        yield from _check_decision(answer, final_decision, is_required=is_required)
        yield from _check_length(answer, conf)
    else:
        yield Problem("answer", "no answer line")
    if conf.gate.language != "off" and len(completion) >= MIN_LANGUAGE_CHARS:
        yield from _check_language(completion, conf.language)


def _check_quotes(
    quotes: tuple[str, ...], passages: list[quote_search.QuoteSearch], distance: float
) -> Iterator[Problem]:
    comparable = [quote_search.comparable_quote(quote) for quote in quotes]
    if not all(
        any(quote_search.contains_quote(quote, passage, distance) for passage in passages)
        for quote in filter(None, comparable)
    ):
        yield Problem("quote", "false quote")
    if "" in comparable:
        yield Problem("quote", "broken quote")
    if not any(quote_search.has_min_length(quote) for quote in comparable):
        yield Problem("quote", "no quote")


def _check_decision(answer: str, final_decision: str | None, *, is_required: bool) -> Iterator[Problem]:
    """Compare the yes, no or maybe that the answer begins with. An answer must begin so only if the prompt requires it, and it is no refusal."""
    decision = read_decision(answer)
    if decision and final_decision and decision != final_decision.lower():
        yield Problem("decision", "another decision")
    if is_required and not decision:
        yield Problem("decision", "no decision")


def _check_length(answer: str, conf: Dataset) -> Iterator[Problem]:
    if len(answer.split(maxsplit=conf.min_words)) < conf.min_words:
        yield Problem("length", "too short")
    if conf.max_words and len(answer.split(maxsplit=conf.max_words)) > conf.max_words:
        yield Problem("length", "too long")


def _check_language(text: str, expected: str) -> Iterator[Problem]:
    """Check the language with py3langid, which takes all of 699 real answers for English."""
    import py3langid  # noqa: PLC0415 - an optional package

    if py3langid.classify(text)[0] != expected:
        yield Problem("language", "another language")
