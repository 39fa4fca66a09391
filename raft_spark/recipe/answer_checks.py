"""completion -> its problems: quotes that are in no passage, no answer line, a wrong decision, a wrong length or language.

A completion of the style "cot" is a chain of thought: it quotes the passages between the marks prompts.BEGIN and
prompts.END, and its last line begins with prompts.ANSWER.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from raft_spark.config import Completions, Dataset
from raft_spark.endpoints import answer_text
from raft_spark.recipe import prompts, refusals

MIN_QUOTE_CHARS = 12  # without spaces; a shorter text may be in a passage by chance
MIN_LANGUAGE_CHARS = 40  # the language of a shorter text is a guess
_MARK = re.compile(rf"({re.escape(prompts.BEGIN)}|{re.escape(prompts.END)})")
_UNIFIED = str.maketrans(
    "\u2010\u2011\u2012\u2013\u2014\u2212\u2018\u2019\u201a\u201b\u2032\u201c\u201d\u201e\u201f\u2033",
    "------'''''\"\"\"\"\"",
)
_ANY_MARK = re.compile(r"#+\s*(?:begin|end)[ _-]?quote\s*#+", re.IGNORECASE)
_PUNCTUATION = ".,;:\"'*"
_LEADING = re.compile(rf"^(?:\.{{2,}}|(?!\.\d)[{_PUNCTUATION}])+")  # but not the point of .5
# A digit, or a letter of a script that puts spaces between words: Latin, Greek, Cyrillic.
_WORD = re.compile(r"[^\W\u0530-\u1dff\u2000-\U0010ffff]")
_FRACTION = re.compile(r"[.-]\d")
_NUMBER_BEFORE = re.compile(r"(?:\d,|[.\u00b7]|(?<![\w)\]])-)$")
_NUMBER_AFTER = re.compile(r"[.,\u00b7]\d")
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


def parse(completion: str) -> ParsedAnswer:
    """Return the parts of a chain of thought. The answer must be on the last line, and there must be only one."""
    thought, mark, after = completion.strip().partition(prompts.ANSWER)
    is_last_line = mark and prompts.ANSWER not in after and not _MARK.search(after) and "\n" not in after.strip()
    return ParsedAnswer(tuple(_quotes(thought)), after.strip() if is_last_line else "")


def _quotes(text: str) -> Iterator[str]:
    yield from ("" for mark in _ANY_MARK.findall(text) if mark not in (prompts.BEGIN, prompts.END))
    parts = _MARK.split(text)  # text, mark, text, mark, ...
    marks, texts_after = parts[1::2], parts[2::2]
    for number, mark in enumerate(marks):
        if mark == prompts.BEGIN:
            is_closed = number + 1 < len(marks) and marks[number + 1] == prompts.END
            yield texts_after[number].strip() if is_closed else ""
        elif number == 0 or marks[number - 1] != prompts.BEGIN:
            yield ""


def normalize(text: str) -> str:
    """Return the text without soft hyphens and other format characters, and with one kind of dash and of quotation mark."""
    unified = unicodedata.normalize("NFKC", text.translate(_UNIFIED)).translate(_UNIFIED)
    return "".join(char for char in unified if unicodedata.category(char) != "Cf")


def without_spaces(text: str) -> str:
    """Return the normalized text without white space."""
    return "".join(normalize(text).split())


def comparable_quote(quote: str) -> str:
    """Return the form of a quote that `QuoteSearch` finds: normalized, without white space and without outer punctuation."""
    return _LEADING.sub("", without_spaces(quote)).rstrip(_PUNCTUATION)


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


class QuoteSearch:
    """Searches a normalized text for comparable quotes. `packed` is the text without its white space."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._positions = [position for position, char in enumerate(text) if not char.isspace()]
        self.packed = "".join(text[position] for position in self._positions)

    def find(self, quote: str) -> tuple[int, int] | None:
        """Return where the quote begins and ends in the text, or None.

        The quote must begin and end at the boundary of a word or number: `effective` is not found in `ineffective`, nor
        5 mg in 0.5 mg.
        """
        start = self.packed.find(quote) if quote else -1
        while start >= 0:
            begin, end = self._positions[start], self._positions[start + len(quote) - 1] + 1
            before, after = self._text[max(0, begin - 2) : begin], self._text[end : end + 2]
            if not _starts_inside_word(quote, before) and not _ends_inside_word(quote, after):
                return begin, end
            start = self.packed.find(quote, start + 1)
        return None


def _starts_inside_word(quote: str, before: str) -> bool:
    """Say whether the first word or number of a quote begins before the quote; `before` are the two characters there."""
    if not _WORD.match(quote) and not _FRACTION.match(quote):
        return False
    return bool(_WORD.match(before[-1:]) or (quote[0].isdigit() and _NUMBER_BEFORE.search(before)))


def _ends_inside_word(quote: str, after: str) -> bool:
    """Say whether the last word or number of a quote ends after the quote; `after` are the two characters there."""
    if not _WORD.match(quote[-1]):
        return False
    return bool(_WORD.match(after) or (quote[-1].isdigit() and _NUMBER_AFTER.match(after)))


def contains_quote(quote: str, text: QuoteSearch, distance: float = 0.0) -> bool:
    """Say whether a text contains a comparable quote.

    A share `distance` of the quote's characters may differ from the best matching part of the text (rapidfuzz's partial
    ratio, which counts insertions and deletions). A quote that occurs only inside longer words or
    numbers does not count.
    """
    if text.find(quote):
        return True
    if not distance or quote in text.packed or len(quote) > len(text.packed):
        return False
    from rapidfuzz import fuzz  # noqa: PLC0415 - an optional package

    return fuzz.partial_ratio(quote, text.packed) >= 100 * (1 - distance)


def check_answer(
    completion: str, oracle: str, final_decision: str | None, completions: Completions, conf: Dataset
) -> Iterator[Problem]:
    """Yield the problems of a completion that was written from `oracle`. [dataset.gate] decides what follows from them."""
    answer = completion
    if completions.style == "cot":
        thought = parse(completion)
        yield from _check_quotes(thought.quotes, QuoteSearch(normalize(oracle)), conf.quote_distance)
        answer = thought.answer
    if answer_text.has_next_turn(completion):
        yield Problem("turn", "another turn")
    if answer:
        yield from _check_refusal(answer)
        yield from _check_decision(answer, final_decision, is_required=completions.decision)
        yield from _check_length(len(answer.split()), conf)
    else:
        yield Problem("answer", "no answer line")
    if conf.gate.language != "off" and len(completion) >= MIN_LANGUAGE_CHARS:
        yield from _check_language(completion, conf.language)


def _check_quotes(quotes: tuple[str, ...], oracle: QuoteSearch, distance: float) -> Iterator[Problem]:
    comparable = [comparable_quote(quote) for quote in quotes]
    if not all(contains_quote(quote, oracle, distance) for quote in filter(None, comparable)):
        yield Problem("quote", "false quote")
    if "" in comparable:
        yield Problem("quote", "broken quote")
    if not any(len(quote) >= MIN_QUOTE_CHARS for quote in comparable):
        yield Problem("quote", "no quote")


def _check_refusal(answer: str) -> Iterator[Problem]:
    if refusals.is_refusal(answer):
        yield Problem("refusal", "refusal")


def _check_decision(answer: str, final_decision: str | None, *, is_required: bool) -> Iterator[Problem]:
    """Compare the yes, no or maybe that the answer begins with. An answer must begin so only if the prompt requires it."""
    decision = read_decision(answer)
    if decision and final_decision and decision != final_decision.lower():
        yield Problem("decision", "another decision")
    if is_required and not decision and not refusals.is_refusal(answer):
        yield Problem("decision", "no decision")


def _check_length(words: int, conf: Dataset) -> Iterator[Problem]:
    if words < conf.min_words:
        yield Problem("length", "too short")
    if conf.max_words and words > conf.max_words:
        yield Problem("length", "too long")


def _check_language(text: str, expected: str) -> Iterator[Problem]:
    """Check the language with py3langid, which takes all of 699 real answers for English."""
    import py3langid  # noqa: PLC0415 - an optional package

    if py3langid.classify(text)[0] != expected:
        yield Problem("language", "another language")
