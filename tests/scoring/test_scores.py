"""The scores of an answer, computed by hand: word overlap, decision, where its quotes are found."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from raft_spark.scoring import scores

pytestmark = pytest.mark.row

ORACLE = ["Pain fell by 30% within two hours.", "No harm was seen in 40 patients. Costs were not told."]
DISTRACTORS = ["The lamp was blue in every second room."]
FEW_WORDS = st.text(alphabet="abAB1İK é-_\n")  # so that two texts share some, in another order
ROUGE = RougeScorer(["rouge1", "rougeL"])
QUOTE = "##begin_quote##{}##end_quote##"


def scored(answer: str | None, style: str = "answer") -> dict[str, object]:
    return scores.score(answer, "The drug works well", ORACLE, DISTRACTORS, style)


@pytest.mark.parametrize(
    ("answer", "reference", "token_f1", "rouge_l"),
    [
        ("The cat sat.", "the cat", 0.8, 0.8),  # 2 of 3 words, 2 of 2: 2 * (2/3 * 1) / (2/3 + 1)
        ("Sat cat the", "the cat", 0.8, 0.4),  # the same words, but only one in order: 2 * (1/3 * 1/2) / (1/3 + 1/2)
        ("the the the", "the cat", 0.4, 0.4),  # a word counts as often as the reference has it
        ("A dog", "the cat", 0.0, 0.0),
        ("THE cat", "the cat!", 1.0, 1.0),
    ],
)
def test_words_are_compared_as_rouge_does(answer: str, reference: str, token_f1: float, rouge_l: float):
    found = scores.overlap(answer, reference)
    assert (found.token_f1, found.rouge_l) == pytest.approx((token_f1, rouge_l))


@settings(max_examples=300)
@given(FEW_WORDS | st.text(), FEW_WORDS | st.text())
def test_words_are_scored_as_rouge_score_does_to_the_last_bit(answer: str, reference: str):
    theirs = ROUGE.score(reference, answer)
    ours = scores.token_f1(answer, reference), scores.rouge_l(answer, reference)
    assert ours == (theirs["rouge1"].fmeasure, theirs["rougeL"].fmeasure)


@pytest.mark.parametrize(
    ("answer", "reference", "f1"),
    [
        ("The cat sat.", "the cat", 2 / 3),  # cat sat, cat: 1 of 2, 1 of 1
        ("A dog", "the dog!", 1.0),
        ("The dog, a DOG and an owl", "dog owl", 2 * (2 / 4 * 1) / (2 / 4 + 1)),  # dog dog and owl
        ("follow-up", "followup", 1.0),  # a sign is taken out, not replaced by a space
        ("30% (95% CI 21-39)", "30 95 ci 2139", 1.0),
        ("na\u00efve T\u2013cells", "na\u00efve T\u2013cells", 1.0),  # ROUGE splits both words
        ("theatre", "atre", 0.0),
        ("The", "a", 0.0),
    ],
)
def test_squads_words_are_those_of_its_script(answer: str, reference: str, f1: float):
    assert scores.overlap(answer, reference).squad_f1 == pytest.approx(f1)


@pytest.mark.parametrize(
    ("answer", "abstained"),
    [
        ("I'm sorry, but I can't assist with that.", True),
        ("As an AI language model, I don't have access to medical records.", True),
        ("The passages do not provide any information about the effect of the drug.", True),
        ("Based on the provided passages, it is not possible to determine whether it works.", True),
        ("Unfortunately, the text does not mention the drug.", True),
        ("There is not enough information in the passages to answer the question.", True),
        ("The question cannot be answered from the given context.", True),
        ("No, the passages do not contain information about the drug.", True),
        ("Yes, it does, although its mechanism is not known.", False),
        ("Maybe, there is insufficient evidence to recommend screening.", False),
        ("No, the optimal dose is unknown.", False),
        ("The study did not find a difference between the groups.", False),
    ],
)
def test_a_student_that_was_not_trained_abstains_in_its_own_words(answer: str, abstained: bool):  # noqa: FBT001 - an expected value
    assert scored(answer)["abstained"] is abstained


def test_bleu_and_chrf_are_shares():
    same = scores.overlap("The drug works well in most patients.", "The drug works well in most patients.")
    assert (same.bleu, same.chrf) == pytest.approx((1, 1))
    none = scores.overlap("xyz", "The drug works well in most patients.")
    assert none.bleu == none.chrf == 0


@settings(max_examples=25)
@given(st.text(), st.text())
def test_every_score_of_any_answer_is_a_share(answer: str, reference: str):
    found = scores.overlap(answer, reference)
    assert all(0 <= share <= 1 + 1e-9 for share in (found.token_f1, found.rouge_l, found.bleu, found.chrf))


@pytest.mark.parametrize(
    ("answer", "style", "decision"),
    [
        ("Yes, it does.", "answer", "yes"),
        (" **NO** - it does not", "answer", "no"),
        ("Maybe.", "answer", "maybe"),
        ("It does, yes.", "answer", None),
        ("Yesterday it did.", "answer", None),
        ('The answer to this question is "Yes"', "answer", "yes"),
        ("The answer to this question is: No, no, no.", "answer", "no"),
        ('The answer to the question "Does "test and treat" work?" is:\n\nMaybe.', "answer", "maybe"),
        (' the correct answer to your question would be "no".', "answer", "no"),
        ("The answer to this question is:", "answer", None),
        ("The answer to this question is a matter of yes and no.", "answer", None),
        ('The answer to the question "Is it, yes?" is in the text.', "answer", None),
        ("So.\n<ANSWER>: The answer to this question is yes.", "cot", "yes"),
        ("It may.\n<ANSWER>: No, it does not.", "cot", "no"),
        ("Yes, it seems.\n<ANSWER>: It does.", "cot", None),
        ("Yes, it does.", "cot", None),
        (None, "answer", None),
        (None, "cot", None),
    ],
)
def test_the_decision_is_what_the_answer_begins_with(answer: str | None, style: str, decision: str | None):
    assert scored(answer, style)["decision"] == decision


def test_a_request_that_failed_is_worth_nothing():
    assert scored(None) == {
        "decision": None,
        "abstained": False,
        "token_f1": 0.0,
        "squad_f1": 0.0,
        "rouge_l": 0.0,
        "bleu": 0.0,
        "chrf": 0.0,
        "quoted": [],
        "quotes": 0,
        "quotes_of_oracle": 0,
        "quotes_of_distractors": 0,
    }


@pytest.mark.parametrize(
    ("answer", "style", "abstained"),
    [
        ("I don't know.", "answer", True),
        ("I do not know whether it works.", "answer", True),
        ("It is what I don't know.", "answer", False),
        ("The passages are of lamps.\n<ANSWER>: I don't know.", "cot", True),
        ("I don't know yet.\n<ANSWER>: Yes.", "cot", False),
        ("I don't know.", "cot", True),
    ],
)
def test_to_abstain_is_seen_in_the_answer(answer: str, style: str, abstained: bool):  # noqa: FBT001 - an expected value
    assert scored(answer, style)["abstained"] is abstained


def test_a_chain_of_thought_is_compared_by_its_answer_line_and_all_of_it_where_there_is_none():
    assert scored("Much was said.\n<ANSWER>: The drug works well", "cot")["rouge_l"] == pytest.approx(1)
    assert scored("The drug works well", "cot")["rouge_l"] == pytest.approx(1)


def test_quotes_are_found_in_the_oracle_in_a_distractor_or_nowhere():
    quotes = [
        "Pain fell by 30 % within two",
        "no harm was seen in",
        "lamp was blue in every",
        "two hours",
        "No harm was seen in 40",
    ]
    answer = " ".join(map(QUOTE.format, quotes)) + " ##begin_quote##Pain fell by 30%\n<ANSWER>: Yes."
    found = scored(answer, "cot")
    assert found["quoted"] == ["oracle", "oracle", "distractor", "nowhere", "oracle", "nowhere"]
    assert (found["quotes"], found["quotes_of_oracle"], found["quotes_of_distractors"]) == (6, 3, 1)


def test_what_needs_no_model_is_the_question_its_best_sentence_the_last_two_and_the_majority():
    found = scores.baseline_answers("Does it work?", ORACLE, "No harm was seen.", "yes")
    assert found == {
        "the question itself": "Does it work?",
        "the last two sentences": "No harm was seen in 40 patients. Costs were not told.",
        "the best sentence": "No harm was seen in 40 patients.",
        "the majority's decision": "Yes.",
    }
    assert "the majority's decision" not in scores.baseline_answers("Does it work?", ORACLE, "No.", None)
