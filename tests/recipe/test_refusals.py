"""An answer that says it does not know is found, however it says so; a finding about what is not known is none."""

from pathlib import Path

import pytest

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
