"""texts -> their words, by which articles of two splits are compared, and whether they are boilerplate that many articles share."""

import html
import re
from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from raft_spark.recipe.quote_search import normalize

BOILERPLATE_LETTERS, BOILERPLATE_WORDS = 40, 6
_RUN = re.compile(r"([^\x00-\x7f][^\x00-\x7f]*)")  # three times as fast as with +
_OTHER = re.compile(r"[^\w\x00-\x7f]")
_BETWEEN = b"\xff"  # no text in UTF-8 has this byte
_SPACE = ord(" ")
_SHORT = 8  # characters of a run that is worth keeping: dashes, Greek letters
_ASCII = "".join(map(chr, range(128)))
_LOWER = re.sub(r"[\W_]", " ", _ASCII.lower()).encode() + bytes(range(128, 256))


def comparable_words(texts: Iterable[str]) -> list[bytes]:
    """Return the words of each text in lower case, whatever its white space, punctuation, dashes and form of Unicode are.

    Words are UTF-8, one space between two. All texts are one array, in which a space after a space is dropped.
    """
    joined = np.frombuffer(_BETWEEN.join(map(_fold, texts)).translate(_LOWER), np.uint8)
    is_space = joined == _SPACE
    is_kept = np.ones(len(joined), np.bool_)
    is_kept[1:] = ~(is_space[1:] & is_space[:-1])
    return [words.strip() for words in joined[is_kept].tobytes().split(_BETWEEN)]


def _fold(text: str) -> bytes:
    """Return the text in UTF-8, normalized; of what is not ASCII, letters and digits are folded and the rest is spaces."""
    text = html.unescape(text) if "&" in text else text
    if text.isascii():
        return text.encode()
    parts = _RUN.split(text)  # ASCII, other characters, ASCII, ...
    for at in range(1, len(parts), 2):
        before = parts[at - 1]
        run = before[-1:] + parts[at]
        parts[at - 1], parts[at] = before[:-1], _fold_short(run) if len(run) <= _SHORT else _fold_run(run)
    return "".join(parts).encode()


def _fold_run(run: str) -> str:
    """Fold characters that are not ASCII, with the ASCII character before them, which an accent may change.

    No form of Unicode joins them with anything further off.
    """
    return _OTHER.sub(" ", normalize(run).casefold())


_fold_short = lru_cache(10_000)(_fold_run)


def is_boilerplate(words: bytes) -> bool:
    """Say whether comparable words are too few to tell of one study, as "case series" is.

    They have less than BOILERPLATE_LETTERS letters, in BOILERPLATE_WORDS words at most.
    """
    text = words.decode()
    if len(text) >= 2 * BOILERPLATE_LETTERS or text.count(" ") >= BOILERPLATE_WORDS:
        return False
    return sum(map(str.isalpha, text)) < BOILERPLATE_LETTERS
