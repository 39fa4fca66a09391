"""vocabulary.toml -> the words of the built-in articles: names, sentences with slots, and how a study can end."""

import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

Lexicon = Mapping[str, Sequence[str]]  # a word, and the texts that may replace it; a text can have words in braces


class OutcomeTerm(NamedTuple):
    """What a study measures: the share of patients to whom an event happened or, without an event, a mean."""

    noun: str
    event: str = ""
    unit: str = "percentage points"
    scale: float = 1.0


class Goal(NamedTuple):
    """What a subject should do to an outcome; `sign` is the direction of the change."""

    verb: str
    sign: int
    outcomes: tuple[OutcomeTerm, ...]
    subjects: tuple[Lexicon, ...]


class Finding(NamedTuple):
    """How a study ends: the effect in percentage points and the patients in a group, each from lowest to highest."""

    decision: str
    effect: tuple[int, int]
    patients: tuple[int, int]
    words: Lexicon


def _subject(study: Mapping[str, Any]) -> Lexicon:
    """Return the words of a study: those of its kind of subject, and its own."""
    kind = _DATA["kinds"][study["kind"]]
    questions = _DATA["questions"]["common"] + _DATA["questions"][kind["questions"]]
    return {**kind["words"], "question": questions, **study["words"]}


def _goal(goal: Mapping[str, Any]) -> Goal:
    outcomes = tuple(OutcomeTerm(**term) for name in goal["outcomes"] for term in _DATA["outcomes"][name])
    return Goal(goal["verb"], goal["sign"], outcomes, tuple(map(_subject, _DATA["subjects"][goal["subjects"]])))


def _finding(finding: Mapping[str, Any]) -> Finding:
    effect, patients = ((low, high) for low, high in (finding["effect"], finding["patients"]))
    return Finding(finding["decision"], effect, patients, finding["words"])


_DATA = tomllib.loads(resources.files("raft_spark.sources").joinpath("vocabulary.toml").read_text(encoding="utf-8"))
_NAMES = _DATA["names"]
_TOWNS = [head + tail for head in _DATA["towns"]["heads"] for tail in _DATA["towns"]["tails"]]
SYLLABLES: list[str] = [consonant + vowel for consonant in _NAMES["consonants"] for vowel in _NAMES["vowels"]]
ENDINGS: list[str] = [head + tail for head in _NAMES["ending_heads"] for tail in _NAMES["ending_tails"]]
NAMES = len(SYLLABLES) ** 3 * len(ENDINGS)
QUANTITIES: Mapping[str, Sequence[int]] = _DATA["quantities"]
SCENE: Lexicon = {"place": _TOWNS, "town": _TOWNS, **_DATA["scene"]}
GOALS = [_goal(goal) for goal in _DATA["goals"]]
SHARES: Lexicon = _DATA["measures"]["share"]
MEANS: Lexicon = _DATA["measures"]["mean"]
FINDINGS = [_finding(finding) for finding in _DATA["findings"] for _ in range(finding["weight"])]
SECTIONS: Mapping[str, Sequence[Sequence[str]]] = {
    label: [slot["sentences"] for slot in _DATA["sections"][name]] for label, name in _DATA["labels"].items()
}
LAYOUTS: list[list[str]] = [layout.split(" | ") for layout in _DATA["layouts"]]
TOPICS: Sequence[Sequence[str]] = _DATA["topics"]
