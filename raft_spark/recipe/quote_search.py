"""text, quote -> whether the quote stands in the text, whatever its dashes, quotation marks, white space and emphasis are."""

import bisect
import html
import itertools
import re
import unicodedata
from functools import cached_property

MIN_QUOTE_CHARS = 12  # without spaces; a shorter text may be in a passage by chance
_UNIFIED = str.maketrans(
    dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-")
    | dict.fromkeys("\u2018\u2019\u201a\u201b\u2032", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"')
    | {"\u2265": ">=", "\u2264": "<=", "\u2a7e": ">=", "\u2a7d": "<=", "\u00b1": "+/-", "\u00d7": "x"}
)
_UNIFIED_SIGN = re.compile(f"[{''.join(map(chr, _UNIFIED))}]")
_FORMAT = re.compile(  # the characters of the Unicode category Cf
    "[\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff"
    "\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001"
    "\U000e0020-\U000e007f]"
)
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"  # scripts without spaces between words
# What is not compared: white space, but for one between two words; the separator of thousands in 1,234 and 1 234.
# The pattern begins with a set of characters, which `re` finds fast; most are a space between two letters, which is kept.
_IGNORED = re.compile(
    r"[\s,](?!(?<=[A-Za-z]\s)[A-Za-z])(?:"
    rf"(?<=\s)(?:(?<!\w\s)|(?!\s*\w)|(?<=[{_UNSPACED}]\s)|(?=\s*[{_UNSPACED}]))"
    r"|(?<=[ ,])(?=\d{3}(?!\d))(?:(?<=(?<![\d.])\d.)|(?<=(?<![\d.])\d\d.)|(?<=(?<![\d.])\d\d\d.)))"
)
_SPACES = str.maketrans(dict.fromkeys("\t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\u2028\u2029", " "))
_EMPHASIS = re.compile(r"(?<!\w)(\*{1,3}|_{1,3}|`)(?=\S)(.+?)(?<=\S)\1(?!\w)", re.DOTALL)
ELLIPSIS = "\u2026"
_ELLIPSIS = re.compile(r"\s*(?:\[\s*\.{3,}\s*\]|\(\s*\.{3,}\s*\)|\.{3,}|\.(?: \.){2,})\s*")
_FIRST_WORD = re.compile(r"[^\W\d_][a-z]*(?![^\W_])")
_NEGATION = r"(?:\b(?:not|no|never|without|neither|nor|cannot|hardly|barely|lack of|absence of|fail(?:s|ed)? to|unlikely to)\b|n't\b)"
_ANY_NEGATION = re.compile(_NEGATION, re.IGNORECASE)
_NEGATION_BEFORE = re.compile(rf"(?:{_NEGATION}(?:\s+\w+ly)?\s+|\bnon-?\s*)\W?$", re.IGNORECASE)
_EXCEPTION_AFTER = re.compile(
    r"\s*[,;(-]*\s*(?:(?:but|and|though|although)\s+)?(?:except|unless|only\b|but\s+not|not\s+(?:in|if|when|among|for)\b|other\s+than"
    r"|apart\s+from|aside\s+from|excluding|with\s+the\s+exception|save\s+for|provided\s+that)",
    re.IGNORECASE,
)
_CONTEXT_CHARS = 40
# Digits, signs and negations, which must be equal whatever quote_distance is; "increased" counts, as "ineffective" does
_EXACT = re.compile(
    rf"\d+(?:[.,\u00b7]\d+)*|[<>=+%]|-(?=\.?\d)|{_NEGATION}|\bnon(?=-)|\b(?:un|in|im|ir|il|non|dis)[a-z]{{4,}}",
    re.IGNORECASE,
)
_PUNCTUATION = ".,;:\"'*"
_LEADING = re.compile(rf"^(?:\.{{2,}}|(?!\.\d)[{_PUNCTUATION}])+")  # but not the point of .5
# A digit, or a letter of a script that puts spaces between words: Latin, Greek, Cyrillic.
_WORD = re.compile(r"[^\W\u0530-\u1dff\u2000-\U0010ffff]")
_FRACTION = re.compile(r"[.-]\d")
_NUMBER_BEFORE = re.compile(r"(?:\d,|[.\u00b7]|(?<![\w)\]])-)$")
_NUMBER_AFTER = re.compile(r"[.,\u00b7]\d")


def normalize(text: str) -> str:
    """Return the text with one kind of dash, of quotation mark and of >=, without format characters and HTML entities."""
    text = html.unescape(text) if "&" in text else text
    if text.isascii():
        return text
    return _FORMAT.sub("", _unify(unicodedata.normalize("NFKC", _unify(text))))


def _unify(text: str) -> str:
    return _UNIFIED_SIGN.sub(lambda sign: _UNIFIED[ord(sign[0])], text)  # five times as fast as `translate`


def comparable_quote(quote: str) -> str:
    """Return the form of a quote that `QuoteSearch` finds: normalized, packed, without emphasis and outer punctuation.

    ELLIPSIS stands between the parts of a quote that leaves something out.
    """
    plain = normalize(quote)
    plain = _EMPHASIS.sub(r"\2", plain) if "*" in plain or "_" in plain or "`" in plain else plain
    plain = _ELLIPSIS.sub(ELLIPSIS, plain) if ".." in plain or ". ." in plain else plain
    parts = (_LEADING.sub("", _pack(part.strip())).rstrip(_PUNCTUATION) for part in plain.split(ELLIPSIS))
    return ELLIPSIS.join(filter(None, parts))


def _pack(text: str) -> str:
    return _with_plain_spaces(_IGNORED.sub("", text))


def _with_plain_spaces(text: str) -> str:
    return text if text.isprintable() else text.translate(_SPACES)


def has_min_length(quote: str) -> bool:
    """Say whether a comparable quote has MIN_QUOTE_CHARS without spaces."""
    return len(quote.replace(" ", "")) >= MIN_QUOTE_CHARS


class QuoteSearch:
    """Searches a normalized text, that of one passage, for comparable quotes."""

    def __init__(self, text: str) -> None:
        self._text = text

    @cached_property
    def _kept(self) -> list[str]:
        """The parts of the text between the characters that are ignored."""
        return _IGNORED.split(self._text)

    @cached_property
    def packed(self) -> str:
        """The text without what is ignored."""
        return _with_plain_spaces("".join(self._kept))

    @cached_property
    def _ignored(self) -> list[int]:
        """For each ignored character, how many characters of `packed` are before it."""
        return list(itertools.accumulate(map(len, self._kept[:-1])))

    def _position(self, index: int) -> int:
        """Return the position in the text of a character of `packed`."""
        return index + bisect.bisect_right(self._ignored, index)

    def find(self, quote: str) -> tuple[int, int] | None:
        """Return where the quote begins and ends in the text, or None.

        Each of its parts must begin and end at the boundary of a word or number: `effective` is not found in `ineffective`,
        nor 5 mg in 0.5 mg. It may not begin right after a negation nor end right before an exception, nor leave out a
        negation between its parts. The first letter may be small or capital.
        """
        first, *others = quote.split(ELLIPSIS)
        found = self._find_part(first, 0) or self._find_part(_with_other_case(first), 0)
        for part in others:
            following = self._find_part(part, found[1]) if found else None
            if not found or not following or _ANY_NEGATION.search(self._text, found[1], following[0]):
                return None
            found = found[0], following[1]
        return found

    def is_near(self, quote: str, start: int, stop: int) -> bool:
        """Say whether this part of `packed`, in whole words, has the digits, signs and negations of the quote and is whole."""
        start = self.packed.rfind(" ", 0, start) + 1 if start and self.packed[start - 1] != " " else start
        rest = self.packed.find(" ", stop)
        stop = len(self.packed) if rest < 0 else rest
        part = self.packed[start:stop].strip()
        return _exact(quote) == _exact(part) and (
            self.find(part) is not None or self.find(part.rstrip(_PUNCTUATION)) is not None
        )

    def _find_part(self, quote: str, begin_at: int) -> tuple[int, int] | None:
        start = self.packed.find(quote) if quote else -1
        while start >= 0:
            begin, end = self._position(start), self._position(start + len(quote) - 1) + 1
            if begin >= begin_at and self._is_whole(quote, begin, end):
                return begin, end
            start = self.packed.find(quote, start + 1)
        return None

    def _is_whole(self, quote: str, begin: int, end: int) -> bool:
        before, after = self._text[max(0, begin - _CONTEXT_CHARS) : begin], self._text[end : end + _CONTEXT_CHARS]
        is_cut = _starts_inside_word(quote, before[-2:]) or _ends_inside_word(quote, after[:2])
        return not (is_cut or _NEGATION_BEFORE.search(before) or _EXCEPTION_AFTER.match(after))


def _with_other_case(quote: str) -> str:
    """Return the quote with its first letter small or capital instead, "" if the first word has other capital letters."""
    return quote[0].swapcase() + quote[1:] if _FIRST_WORD.match(quote) else ""


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
    ratio, which counts insertions and deletions), but no digit, sign or negation. A quote that occurs only inside longer
    words or numbers does not count.
    """
    if text.find(quote):
        return True
    if not distance or ELLIPSIS in quote or quote in text.packed or len(quote) > len(text.packed):
        return False
    from rapidfuzz import fuzz  # noqa: PLC0415 - an optional package

    best = fuzz.partial_ratio_alignment(quote, text.packed, score_cutoff=100 * (1 - distance))
    return best is not None and text.is_near(quote, best.dest_start, best.dest_end)


def _exact(text: str) -> list[str]:
    return [found.lower() for found in _EXACT.findall(text)]
