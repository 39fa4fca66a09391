"""A citation is a number in brackets outside of a quote; renumbered, it names the same passage at its new place."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft_spark.config.templates import Marks
from raft_spark.recipe import citations

pytestmark = pytest.mark.row

MARKS = Marks()
QUOTE = "##begin_quote##as [2] and [7, 8] showed##end_quote##"


@pytest.mark.parametrize(
    ("thought", "numbers"),
    [
        ("Pain fell [2].\n<ANSWER>: Yes [3].", {2, 3}),
        ("Pain fell [1, 3] and [ 5 ] rose.", {1, 3, 5}),
        ("Pain fell [1-3], then rose [5\u20136;9].", {1, 2, 3, 5, 6, 9}),
        ("[1][2] Pain fell.", {1, 2}),
        (f"It fell {QUOTE} [3].", {3}),
        (f"It fell {QUOTE.replace('##end_quote##', '')} [3].", {2, 3, 7, 8}),  # no quote without an end
        ("[95% CI], [95% CI 21-39], [1.2-3.4], [2019], [n = 4], [RCT], (3), 4] and [] are none.", set()),
        ("No such passage: [0].", {0}),
    ],
)
def test_a_citation_is_a_bracket_of_numbers_outside_of_quotes(thought: str, numbers: set[int]):
    assert citations.cited_numbers(thought, MARKS) == numbers


def test_a_citation_keeps_its_form_and_gets_its_passage_s_place():
    places = {1: 4, 2: 12, 3: 1}
    thought = f"[2] It fell {QUOTE} [1, 3], as [1] and [2]; CI [95%].\n[3] So did [1-3].\n<ANSWER>: Yes [1]."
    assert citations.renumber(thought, places.get, MARKS) == (
        f"[12] It fell {QUOTE} [4, 1], as [4] and [12]; CI [95%].\n[1] So did [4, 12, 1].\n<ANSWER>: Yes [4]."
    )
    assert citations.renumber("It fell [3, 9], and rose [9].", places.get, MARKS) == "It fell [1], and rose."


@pytest.mark.parametrize(
    ("thought", "expected"),
    [
        ("Pain fell [2]. It rose [1, 3] later.\n<ANSWER>: Yes [1].", "Pain fell. It rose later.\n<ANSWER>: Yes."),
        ("Pain fell [1][2], [3] and [4].", "Pain fell."),
        ("[1] Pain fell.\n[2] It rose.", "Pain fell.\nIt rose."),
        (f"It fell {QUOTE} [3] at last.", f"It fell {QUOTE} at last."),
        (f"{QUOTE}[3] So it fell.", f"{QUOTE} So it fell."),
        ("[95% CI 21-39], [2019] and p < 0.05 stay.", "[95% CI 21-39], [2019] and p < 0.05 stay."),
    ],
)
def test_a_citation_is_taken_out_with_the_blanks_before_it(thought: str, expected: str):
    assert citations.remove(thought, MARKS) == expected


@st.composite
def cited_thoughts(draw: st.DrawFn) -> tuple[list[int], list[str | int]]:
    """Return an order of the passages, and a thought in parts: texts, and numbers of passages that it cites."""
    order = draw(st.permutations(range(1, draw(st.integers(1, 15)) + 1)))
    parts = st.sampled_from(["It fell. ", " So\n", QUOTE, "[95% CI] ", "", "\n<ANSWER>: Yes"]) | st.sampled_from(order)
    return list(order), draw(st.lists(parts, max_size=12))


def written(parts: list[str | int]) -> str:
    return "".join(part if isinstance(part, str) else f"[{part}]" for part in parts)


@given(cited_thoughts())
def test_any_order_of_the_passages_changes_the_numbers_and_nothing_else(made: tuple[list[int], list[str | int]]):
    order, parts = made
    place_of = {number: place for place, number in enumerate(order, 1)}
    expected = written([part if isinstance(part, str) else place_of[part] for part in parts])
    assert citations.renumber(written(parts), place_of.get, MARKS) == expected
    assert citations.cited_numbers(written(parts), MARKS) == {part for part in parts if isinstance(part, int)}
    assert citations.renumber(expected, dict(enumerate(order, 1)).get, MARKS) == written(parts)


@pytest.mark.parametrize("part", [" ", "[1", "[1] ", "[1, ", "[1 ", "##begin_quote##", "[1] and ", "\n "])
def test_a_long_text_is_read_in_a_moment(part: str):
    begun = time.perf_counter()
    citations.remove(part * 20_000, MARKS)
    assert time.perf_counter() - begun < 1
    citations.remove("[1" + " " * 20_000, MARKS)
    citations.remove("[1]" + " " * 20_000, MARKS)
    assert time.perf_counter() - begun < 1
