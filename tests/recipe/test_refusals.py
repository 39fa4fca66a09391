"""An answer that says it does not know is found, however it says so; a finding about what is not known is none."""

import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raft_spark.recipe import refusals
from raft_spark.recipe.refusals import is_refusal

pytestmark = pytest.mark.row

HERE = Path(__file__).parent
REFUSALS = (HERE / "refusals.txt").read_text().splitlines()
OTHERS = (HERE / "no_refusals.txt").read_text().splitlines()


@pytest.mark.parametrize("apostrophe", ["'", "\u2019"])
def test_a_refusal_is_found_and_a_finding_is_none(apostrophe: str):
    assert [answer for answer in REFUSALS if not is_refusal(answer.replace("'", apostrophe))] == []
    assert [answer for answer in OTHERS if is_refusal(answer.replace("'", apostrophe))] == []


def test_what_passages_do_not_say_is_no_refusal_after_a_yes_or_an_answer():
    silence = "The passages do not mention children."
    assert is_refusal(silence)
    assert is_refusal(f"No. {silence}")
    assert not is_refusal(f"Yes. {silence}")
    assert not is_refusal(f"Pain fell by half. {silence}")
    assert not is_refusal("The passages do not mention children, but mortality fell in adults.")
    assert is_refusal("Pain fell by half. I don't know.")


@pytest.mark.parametrize(
    ("answer", "refuses"),
    [
        ("I don't know", True),
        ("I don\u2019t know.", True),
        ('"I do not know," the context is silent.', True),
        ("  i dont know", True),
        ("**I don't know**", True),
        ("I am not sure whether it works.", True),
        ("The context does not say. I don't know.", True),
        ("Based on the given context, I don't know.", True),
        ("I'm sorry, but I really don't know.", True),
        ("I'm not sure.", True),
        ("_I don't know_", True),
        ("Answer: I cannot answer this from the context.", True),
        ("They don't know", False),
        ("It works. I am not sure exactly how.", False),
        ("It works. I don't know why.", False),
        ("I don't knowingly omit anything: it works.", False),
        ("Yes.", False),
        ("", False),
    ],
)
def test_a_refusal_is_known_wherever_it_stands(answer: str, refuses: bool):  # noqa: FBT001 - a table
    assert is_refusal(answer) == refuses


def sentences(text: str) -> list[str]:
    plain = re.sub("[\u201c\u201d\u201e\u00ab\u00bb]", '"', re.sub("['\u2019\u2018\u02bc\u00b4`*_]", "", text))
    said = refusals._BEGIN.sub("", plain, count=1)
    return [" ".join(sentence.split()) for sentence in re.split(r"[.!?;]+\W*(?:\s|$)|\n", said)]


def is_refusal_by_the_patterns_alone(answer: str) -> bool:
    text = answer.lower()
    for sentence in sentences(text):
        author = refusals._AUTHOR.search(sentence)
        is_numeral = author and author.start() and refusals._NUMERAL.search(sentence)
        if (author and not is_numeral) or refusals._QUESTION.search(sentence):
            return True
    begin = re.match(r"(?s).{30}.*?\.(?= )|.*", text)[0]
    first = sentences(begin)[0]
    clauses = [0, *(comma.end() for comma in re.finditer(", ", first))]
    is_brief = refusals._FRAGMENT.fullmatch(first) or any(refusals._BRIEF.match(first, clause) for clause in clauses)
    is_silent = refusals._SILENT.search(first) or (len(begin) <= 120 and is_brief)
    return (
        bool(is_silent)
        and not begin.startswith("yes")
        and not first.startswith("yes")
        and not refusals._RESULT.search(text)
    )


words = st.sampled_from(
    sorted({*re.findall("[a-z]+", " ".join(refusals._PARTS.values())), *" ".join(REFUSALS + OTHERS).split()})
)
signs = st.sampled_from([*[" "] * 12, *",;-('*_`:/x\"\n\t\u00a0\u2014\u2019\u201c", "  ", ", ", ". ", "; ", " (", ": "])
lines = st.sampled_from(REFUSALS + OTHERS)


@st.composite
def spoilt_lines(draw: st.DrawFn) -> str:
    """A line with a sign or a word put in, or a character taken out, a few times."""
    line = draw(lines)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(line)))
        added = draw(signs | words.map(" {} ".format) | st.just(""))
        line = line[:at] + added + line[at + (not added) :]
    return line


texts = st.lists(st.builds(str.__add__, words, signs), max_size=12).map("".join)
joined = st.lists(spoilt_lines() | texts | st.text(max_size=20), min_size=1, max_size=3)


@example(" ", ["It was tried.", "I'm unaware of it."], str)
@given(st.sampled_from([" ", "\n", ". ", "\u00a0"]), joined, st.sampled_from([str, str.upper, str.title]))
@settings(deadline=None, max_examples=1_000)
def test_the_words_that_patterns_need_leave_out_nothing_that_they_match(sign: str, parts: list[str], case: type[str]):
    answer = case(sign.join(parts))
    assert is_refusal(answer) == is_refusal_by_the_patterns_alone(answer)


@example("Unsure.")
@given(st.from_regex("|".join(f"(?:{each.pattern})" for each in (refusals._BRIEF, refusals._FRAGMENT)), fullmatch=True))
@settings(deadline=None, max_examples=500)
def test_no_brief_refusal_lacks_the_words_that_its_pattern_needs(answer: str):
    assert is_refusal(answer) == is_refusal_by_the_patterns_alone(answer)


@pytest.mark.parametrize("answer", ["It was tried.\nI don't know.", "I`m not sure.", "Un*known*.", "\ti\tdo not know"])
def test_white_space_and_signs_within_words_hide_no_refusal(answer: str):
    assert is_refusal(answer)
