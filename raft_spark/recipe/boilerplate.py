"""text -> its words, by which articles of two splits are compared, and whether it is boilerplate that many articles share."""

import re

from raft_spark.recipe.answer_checks import normalize

BOILERPLATE_LETTERS, BOILERPLATE_WORDS = 40, 6
_WORD = re.compile(r"[^\W_]+")


def comparable_words(text: str) -> str:
    """Return the words of a text in lower case, whatever its white space, punctuation, dashes and form of Unicode are."""
    return " ".join(_WORD.findall(normalize(text).casefold()))


def is_boilerplate(words: str) -> bool:
    """Say whether comparable words are too few to tell of one study, as "case series" is.

    They have less than BOILERPLATE_LETTERS letters, in BOILERPLATE_WORDS words at most.
    """
    if len(words) >= 2 * BOILERPLATE_LETTERS or words.count(" ") >= BOILERPLATE_WORDS:
        return False
    return sum(map(str.isalpha, words)) < BOILERPLATE_LETTERS
