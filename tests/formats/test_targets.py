"""The target of a row with and without its oracle, and how a row is shortened."""

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from raft_spark import config
from raft_spark.endpoints import answer_text
from raft_spark.errors import InputError
from raft_spark.formats import formats, targets
from raft_spark.recipe import prompts, refusals

REFUSAL_ANSWER = "I don't know: the given passages do not answer the question."


pytestmark = pytest.mark.row

THOUGHT = "It was tried. ##begin_quote##It worked.##end_quote##\n<ANSWER>: Yes, it works."
PASSAGES = ["Sheep were counted.", "It was tried.", "It worked.", "Goats were not counted at all."]


def row(
    completion: str, *assignments: str, distracted: bool = True, oracle: tuple[int, ...] = ()
) -> formats.TrainingRow:
    conf = config.load(assignments=assignments)
    joined: dict[str, Any] = {
        "pubid": 7,
        "question": "Does it work?",
        "passages": PASSAGES,
        "oracle": "It was tried.\n\nIt worked.",
        "distracted": distracted,
        "original_answer": None,
    }
    text = answer_text.clean(completion).text
    return targets.training_row(joined, text, conf.dataset, conf.completions)


@pytest.mark.parametrize(
    ("absent", "style", "completion", "target", "answer"),
    [
        ("oracle", "cot", THOUGHT, THOUGHT, "Yes, it works."),
        ("answer_only", "cot", THOUGHT, "<ANSWER>: Yes, it works.", "Yes, it works."),
        ("refuse", "cot", THOUGHT, f"<ANSWER>: {REFUSAL_ANSWER}", REFUSAL_ANSWER),
        ("oracle", "answer", "It works.", "It works.", "It works."),
        ("answer_only", "answer", "It works.", "It works.", "It works."),
        ("refuse", "answer", "It works.", REFUSAL_ANSWER, REFUSAL_ANSWER),
    ],
)
def test_the_target_of_a_row_without_its_oracle_depends_on_the_settings_and_one_with_it_is_the_completion(
    absent: str, style: str, completion: str, target: str, answer: str
):
    settings = (f"dataset.absent_answer={absent}", f"completions.style={style}")
    without, with_oracle = row(completion, *settings), row(completion, *settings, distracted=False)
    assert (without.completion, without.answer) == (target, answer)
    assert with_oracle.completion == completion


def test_a_stored_thought_is_not_trained():
    assert row(f"<think>It worked?</think>\n{THOUGHT}", "completions.style=cot").completion == THOUGHT
    assert row("<think>It worked?</think>It works.<|eot_id|>").completion == "It works."


def test_the_refusal_that_is_trained_is_recognized_as_one():
    assert refusals.is_refusal(REFUSAL_ANSWER)


@given(st.sets(st.integers(0, 3), max_size=2), st.integers(0, 400))
def test_a_row_loses_distractors_only_and_only_as_many_as_it_must(oracle: set[int], most: int):
    found = row("It works.", distracted=not oracle, oracle=tuple(oracle))
    stays = [number in oracle for number in range(4)]
    words = targets.token_counter("")
    fitted = targets.fit_length(found, stays, "It works.", words, most)
    must = [PASSAGES[number] for number in sorted(oracle)] or [found.oracle]
    turns = prompts.student_messages(found.question, must if fitted is None else fitted, found.completions)
    length = sum(words(turn["content"]) for turn in turns) + words(found.completion) + targets.HEAD_TOKENS
    if fitted is None:
        rounded = 2 * len(must)  # each passage and each separator is rounded up by itself
        assert length + 3 * targets.TURN_TOKENS + rounded > most
        return
    assert length <= most
    assert [text for text in PASSAGES if text in fitted] == fitted
    assert set(must) <= set(fitted) or not oracle
    if most >= 400:
        assert fitted == PASSAGES


@pytest.mark.parametrize("absent", ["oracle", "refuse"])
def test_a_row_is_left_out_with_its_oracle_and_without_it_alike(absent: str):
    words = targets.token_counter("")
    without = row(THOUGHT, f"dataset.absent_answer={absent}", "completions.style=cot")
    with_it = row(THOUGHT, "completions.style=cot", distracted=False, oracle=(1, 2))
    first = [
        next(most for most in range(2_000) if targets.fit_length(found, stays, THOUGHT, words, most) is not None)
        for found, stays in ((without, [False] * 4), (without, WHOLE), (with_it, WHOLE))
    ]
    assert max(first) - min(first) <= 3  # tokens, as texts are rounded up


WHOLE = [False, True, True, False]  # the oracle, or its stand-in


def test_a_stand_in_loses_passages_after_all_other_distractors():
    found, words = row("It works."), targets.token_counter("")
    fits = [targets.fit_length(found, WHOLE, "It works.", words, most) for most in range(2_000)]
    kept = [{PASSAGES.index(text) for text in each} for each in fits if each is not None]
    assert {0, 1, 2, 3} in kept
    assert {1, 2} in kept
    assert all({1, 2} <= each for each in kept if each & {0, 3})


def test_a_rejected_answer_is_an_answer_and_another_one():
    conf = config.load()
    joined = {"pubid": 7, "question": "Does it work?", "passages": [], "oracle": "It worked.", "distracted": False,
              "original_answer": None}  # fmt: skip
    rejected = {
        answer: targets.training_row(
            joined | {"rejected_answer": answer}, " It works.", conf.dataset, conf.completions
        ).rejected_answer
        for answer in (" Sheep do.\n", " It works. ", "I don't know.", "", None)
    }
    assert list(rejected.values()) == ["Sheep do.", None, None, None, None]


def test_tokens_are_counted_by_the_tokenizer_that_is_named(tmp_path):
    model = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))  # noqa: S106 - no password
    model.pre_tokenizer = WhitespaceSplit()
    model.enable_truncation(2)
    model.enable_padding(length=9)
    model.save(str(tmp_path / "tokenizer.json"))
    conf = config.load(assignments=[f"dataset.tokenizer={tmp_path}/tokenizer.json"])
    assert targets.token_counter(targets.read_tokenizer(conf.dataset, conf.lake))("three short words") == 3
    assert targets.token_counter("")("three short words") == 6
    for missing in (tmp_path / "no.json", tmp_path / "bad.json"):
        (tmp_path / "bad.json").write_text("{}")
        wrong = config.load(assignments=[f"dataset.tokenizer={missing}"])
        with pytest.raises(InputError, match=r"it must be a tokenizer\.json"):
            targets.read_tokenizer(wrong.dataset, wrong.lake)


# Citations


NUMBERS = ("completions.style=cot", "completions.passage_marks=numbers")
ORACLE = ["It was tried.", "It worked.", "Pain fell.\n\nAll slept."]  # the last has two numbers for the teacher
DISTRACTORS = [f"Sheep {number} was counted." for number in range(1, 10)]


def cited_row(thought: str, passages: list[str], *assignments: str, **fields: Any) -> formats.TrainingRow:
    conf = config.load(assignments=[*NUMBERS, *assignments])
    joined = {"pubid": 7, "question": "Does it work?", "passages": passages, "oracle": "\n\n".join(ORACLE),
              "distracted": False, "original_answer": None, **fields}  # fmt: skip
    row = targets.training_row(joined, thought, conf.dataset, conf.completions)
    return targets.renumber_citations(row, DISTRACTORS[2])


def passages_by_number(row: formats.TrainingRow) -> dict[str, str]:
    """Return what stands behind each number in the student's prompt."""
    prompt = prompts.student_messages(row.question, row.passages, row.completions)[-1]["content"]
    context = prompt.removeprefix("Context: ").partition("\n\nQuestion: ")[0]
    return dict(re.findall(r"\[(\d+)\] ((?:(?!\n\n\[).)*)", context, re.DOTALL))


@given(st.permutations([*ORACLE, *DISTRACTORS]))
def test_a_citation_names_the_passage_that_the_teacher_cited_wherever_the_student_sees_it(passages: list[str]):
    found = cited_row("A [1]. B [2]. C [3]. D [4].\n<ANSWER>: Yes [2].", passages)
    shown, cited = passages_by_number(found), re.findall(r"\[(\d+)\]", found.completion)
    assert [shown[number] for number in cited] == [*ORACLE, ORACLE[-1], ORACLE[1]]
    assert re.sub(r"\d+", "", found.completion) == "A []. B []. C []. D [].\n<ANSWER>: Yes []."
    assert found.answer == "Yes."


@pytest.mark.parametrize("absent", ["oracle", "answer_only", "refuse"])
def test_a_row_without_its_oracle_cites_nothing(absent: str):
    found = cited_row(
        "It fell [2]: ##begin_quote##Pain fell in [3].##end_quote## So [1, 3].\n<ANSWER>: Yes [1], it does.",
        [*DISTRACTORS, "Pain fell."],
        f"dataset.absent_answer={absent}",
        distracted=True,
        rejected_answer="So [1].\n<ANSWER>: No [2].",
    )
    expected = {
        "oracle": "It fell: ##begin_quote##Pain fell in [3].##end_quote## So.\n<ANSWER>: Yes, it does.",
        "answer_only": "<ANSWER>: Yes, it does.",
        "refuse": f"<ANSWER>: {REFUSAL_ANSWER}",
    }
    assert found.completion == expected[absent]
    assert found.rejected_answer == "So.\n<ANSWER>: No."


def test_a_rejected_answer_cites_the_distractor_of_its_article():
    rejected, passages = "Sheep [1, 3].\n<ANSWER>: No [2].", [*ORACLE, *DISTRACTORS]
    assert cited_row("So [1].\n<ANSWER>: Yes.", passages, rejected_answer=rejected).rejected_answer == (
        "Sheep [6, 6].\n<ANSWER>: No [6]."
    )


def test_only_numbers_and_a_chain_of_thought_make_citations():
    for settings in (["completions.passage_marks=tags"], ["completions.style=finding"]):
        assert cited_row("A [1]. B [2].\n<ANSWER>: Yes [1].", [*DISTRACTORS, *ORACLE], *settings).completion == (
            "A [1]. B [2].\n<ANSWER>: Yes [1]."
        )


def test_a_row_that_is_shortened_cites_the_passages_that_are_left_and_fits():
    thought = "A [1]. B [2]. C [3]. " + "So [1][2]. " * 20 + "\n<ANSWER>: Yes."
    passages, kept = [*DISTRACTORS, *ORACLE], set()
    found = replace(cited_row("", passages), completion=thought)
    for most in range(900, 2_000):
        fitted = targets.fit_length(found, [text in ORACLE for text in passages], thought, len, most)
        if fitted is None:
            continue
        row = targets.renumber_citations(replace(found, passages=fitted))
        shown, cited = passages_by_number(row), re.findall(r"\[(\d+)\]", row.completion)
        assert [shown[number] for number in cited[:5]] == [*ORACLE, *ORACLE[:2]]
        turns = prompts.student_messages(row.question, row.passages, row.completions)
        length = sum(len(turn["content"]) for turn in turns) + len(row.completion)
        assert length + targets.HEAD_TOKENS + 3 * targets.TURN_TOKENS <= most
        kept.add(len(fitted))
    assert kept == {*range(3, 13)}
