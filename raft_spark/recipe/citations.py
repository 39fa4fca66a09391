"""chain of thought -> the passages that it cites by number, outside of its quotes: [2], [1, 3] or [1-3].

A citation is a bracket with nothing but numbers of up to three digits, so [95% CI] and [2019] are none. A quote is copied
from a passage, with the brackets that stand there.
"""

import re
from collections.abc import Callable, Iterator
from functools import cache

from raft_spark.config.templates import Marks

_DASH = "[-\u2010-\u2013]"
_NUMBERS = rf"\d{{1,3}}(?:\s*(?:[,;]|{_DASH})\s*\d{{1,3}})*"
_BRACKET = re.compile(rf"\[\s*({_NUMBERS})\s*\]")
_RANGE = re.compile(rf"(\d+)(?:\s*{_DASH}\s*(\d+))?")
_BLANK = r"[^\S\n]*"


@cache
def _quote_or_citation(marks: Marks) -> re.Pattern[str]:
    """Return the pattern of a quote with its marks, or of citations in a row with the blanks before them, as group 1."""
    begin, end, bracket = re.escape(marks.begin_quote), re.escape(marks.end_quote), _BRACKET.pattern
    citation = rf"{bracket}(?:{_BLANK}(?:(?:,|;|&|and){_BLANK})?{bracket})*"
    return re.compile(
        rf"{begin}(?:(?!{begin}|{end}).)*{end}|(^{citation}{_BLANK}|(?<![^\S\n]){_BLANK}{citation})",
        re.DOTALL | re.MULTILINE,
    )


def cited_numbers(completion: str, marks: Marks) -> set[int]:
    """Return the numbers of the passages that a chain of thought cites."""
    citations = (found[1] or "" for found in _quote_or_citation(marks).finditer(completion))
    return {number for text in citations for bracket in _BRACKET.findall(text) for number in _expand(bracket)}


def renumber(completion: str, place_of: Callable[[int], int | None], marks: Marks) -> str:
    """Return the chain of thought with other numbers. A citation is taken out if `place_of` has None for all its numbers."""

    def bracket(found: re.Match[str]) -> str:
        places = filter(None, map(place_of, _expand(found[1])))
        return f"[{', '.join(map(str, places))}]"

    def citation(found: re.Match[str]) -> str:
        if found[1] is None:
            return found[0]
        text = _BRACKET.sub(bracket, found[0])
        return text.replace("[]", "") if _BRACKET.search(text) else ""

    return _quote_or_citation(marks).sub(citation, completion)


def remove(completion: str, marks: Marks) -> str:
    """Return the chain of thought without citations."""
    return renumber(completion, lambda _: None, marks)


def _expand(numbers: str) -> Iterator[int]:
    """Yield the numbers of a bracket: 1-3 are 1, 2 and 3."""
    for first, last in _RANGE.findall(numbers):
        yield from range(int(first), int(last) + 1) if last else [int(first)]
