"""Requests to a judge and the metrics from its replies, computed by hand; an unreadable reply gives no score."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft_spark import config
from raft_spark.recipe import prompts
from raft_spark.scoring import judge, scores, summary
from support.scored_rows import scored_rows, summary_of

pytestmark = pytest.mark.row

QUESTION = "Does aspirin ease pain after a fracture?"
CONF = config.load().completions


def statements(*supported: int) -> str:
    return json.dumps({"statements": [{"statement": "It eased pain.", "supported": bool(each)} for each in supported]})


def questions(*guesses: str, noncommittal: bool = False) -> str:
    return json.dumps({"questions": guesses, "noncommittal": noncommittal})


def test_faithfulness_is_the_share_of_statements_that_the_passages_bear():
    assert judge.parse_reply("faithfulness", statements(1, 1, 0), QUESTION) == pytest.approx(2 / 3)
    assert judge.parse_reply("faithfulness", statements(), QUESTION) is None


def test_relevance_is_how_like_the_question_the_questions_are_and_nothing_where_the_answer_evades():
    assert judge.parse_reply("relevance", questions(QUESTION, QUESTION), QUESTION) == pytest.approx(1)
    half = judge.parse_reply("relevance", questions(QUESTION, "Xyz?"), QUESTION)
    assert half == pytest.approx((1 + scores.chrf("Xyz?", QUESTION)) / 2)
    assert judge.parse_reply("relevance", questions(QUESTION, noncommittal=True), QUESTION) == 0


def test_a_reply_may_stand_in_a_fence_with_words_around():
    fenced = f"Here it is:\n```json\n{statements(1)}\n```\nI hope it helps."
    assert judge.parse_reply("faithfulness", fenced, QUESTION) == 1


@given(st.none() | st.text() | st.sampled_from(['{"statements": "all"}', "{}", '{"questions": []}', "[1]", "}{"]))
def test_what_cannot_be_read_says_nothing_and_why(reply: str | None):
    judged = {metric: {"reply": reply, "error": None if reply else "timeout"} for metric in scores.JUDGE_METRICS}
    scored = judge.score(QUESTION, "Yes.", ["passage"], judged)
    assert scored == {"faithfulness": None, "relevance": None, "judge_error": "unreadable" if reply else "timeout"}


@pytest.mark.parametrize("first", [{"reply": "?", "error": None}, {"reply": None, "error": "filtered"}])
def test_a_failure_that_may_pass_is_the_one_that_is_told(first: dict[str, str | None]):
    timeout = {"reply": None, "error": "timeout"}
    for faithfulness, relevance in ((first, timeout), (timeout, first)):
        judged = {"relevance": relevance, "faithfulness": faithfulness}
        assert judge.score(QUESTION, "Yes.", ["passage"], judged)["judge_error"] == "timeout"


@pytest.mark.parametrize(("most", "limit"), [(96, 1024), (800, 1600)])
def test_a_judge_has_room_to_repeat_the_longest_answer_as_statements(most: int, limit: int):
    conf = config.load(assignments=["evaluation.judge=fake", f"evaluation.max_new_tokens={most}"])
    assert judge.endpoint_settings(conf).completions.max_new_tokens == limit


def test_an_answer_that_never_came_is_neither_faithful_nor_relevant():
    none = {"faithfulness": 0.0, "relevance": 0.0, "judge_error": None}
    assert judge.score(QUESTION, None, ["passage"], {}) == none
    assert judge.score(QUESTION, None, [], {}) == {**none, "faithfulness": None}


def test_the_judge_of_relevance_is_not_told_the_question_and_no_text_speaks_for_somebody_else():
    said = "Yes.<|im_end|>"
    sent = {
        metric: prompts.judge_request(metric, QUESTION, said, ["It <|im_start|>did."], "judge", CONF)
        for metric in scores.JUDGE_METRICS
    }
    assert QUESTION in sent["faithfulness"].prompt[-1]["content"]
    assert QUESTION not in str(sent["relevance"].prompt)
    assert not any(token in str(each.prompt) for each in sent.values() for token in ("<|im_end|>", "<|im_start|>"))


def test_of_a_chain_of_thought_the_answer_alone_is_to_be_relevant():
    row = {"question": QUESTION, "text": "It is long.\n<ANSWER>: Yes, it does.", "passages": ["It did."]}
    sent = {
        metric: judge.build_request({**row, "metric": metric}, CONF, "judge").prompt[-1]
        for metric in scores.JUDGE_METRICS
    }
    assert sent["relevance"]["content"] == "Answer: Yes, it does."
    assert "It is long." in sent["faithfulness"]["content"]


def test_the_outcome_tells_what_was_judged_and_what_was_not():
    rows = [{**row, "faithfulness": 0.5, "relevance": None, "judge_error": "timeout"} for row in scored_rows()]
    scored = summary.markdown(summary_of(rows, "evaluation.judge=fake"))
    sheet = scored.partition("## As judged by fake")[2].partition("## ")[0]
    assert "| base | no passage | 0.500 [0.500, 0.500] | \N{EN DASH} | 1.000 [0.912, 1.000] |" in sheet
    assert "As judged by" not in summary.markdown(summary_of(rows))
