"""Texts are compared by their words, many at a time; a plain and slow search for words says the same."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft_spark.recipe.boilerplate import comparable_words, is_boilerplate
from raft_spark.recipe.quote_search import normalize

pytestmark = pytest.mark.row


def slow_words(text: str) -> str:
    """Say the rule: the words are the longest runs of letters and digits of the normalized text, with case folded."""
    return " ".join(re.findall(r"[^\W_]+", normalize(text).casefold()))


# what a form of Unicode joins, splits or removes; white space of all kinds; entities; letters that fold to two
_TRICKY = [
    *"eE&;_ \t\n\x00\x1c\xa0\u2028\u00ad\u200d\u0301\u0338\u0345\u2212\u00b1\u2265\u00bd\ufb01\u00df\u0130\u03c2\u212a"
]
_TRICKY += [
    "&amp;",
    "&lt",
    "&#xe9;",
    "&#xD800;",
    "&eacute;",
    "\u1100",
    "\u1161",
    "\u11a8",
    "\uac00",
    "\U0001f600",
    "\u6587",
    "\u0416",
]
tricky = st.lists(st.sampled_from(_TRICKY), max_size=12).map("".join)
texts = st.lists(tricky | st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=5)


@given(texts)
def test_words_are_those_of_the_plain_search(texts: list[str]):
    assert [words.decode() for words in comparable_words(texts)] == [slow_words(text) for text in texts]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ""),
        (" .,-_ ", ""),
        ("Forty-one  MEN (p&lt;0.05)", "forty one men p 0 05"),
        ("e\u0301 E\u0301 \u00c9", "\u00e9 \u00e9 \u00e9"),
        ("fol\u00adlowed \u2265 \u00bd Stra\u00dfe", "followed 1 2 strasse"),
        ("\u6587\u5b57\u3001\u6587", "\u6587\u5b57 \u6587"),
    ],
)
def test_words_by_hand(text: str, words: str):
    assert comparable_words([text, "next", text]) == [words.encode(), b"next", words.encode()]


@pytest.mark.parametrize("words", ["case series", "a" * 39, "\u6587" * 39, "1" * 79, "a b c d e f"])
def test_boilerplate_has_few_letters_in_few_words(words: str):
    assert is_boilerplate(words.encode())


@pytest.mark.parametrize("words", ["a" * 40, "\u6587" * 40, "1" * 80, "a b c d e f g"])
def test_more_letters_or_words_are_no_boilerplate(words: str):
    assert not is_boilerplate(words.encode())
