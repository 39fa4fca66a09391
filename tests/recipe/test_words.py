"""A domain other than medicine needs no code: its own marks, layout and refusal reach every place where words are read."""

from dataclasses import replace

import pytest

from raft_spark import config
from raft_spark.config import templates
from raft_spark.config.templates import Marks
from raft_spark.formats import targets
from raft_spark.formats.formats import FORMATS, TrainingRow
from raft_spark.inference import requests
from raft_spark.lake.filesystem import Storage
from raft_spark.recipe import answer_checks, prompts, refusals
from raft_spark.scoring import examples, judge, scores
from raft_spark.stages import evaluation

pytestmark = pytest.mark.row

MARKS = Marks(begin_quote="[[", end_quote="]]", answer="Verdict:", unknown="Das steht nicht da")
LAYOUT = '{user="{context}\\n\\n{question}\\n\\nQuote in [[ and ]], then Verdict:", passage="<doc>{passage}</doc>"}'
WORDS = (
    f"completions.prompts={{cot={{teacher={LAYOUT}, student={LAYOUT}, refusal='Not in the files.', "
    "marks={begin_quote='[[', end_quote=']]', answer='Verdict:', unknown='Das steht nicht da'}}}"
)
ORACLE = "The court heard the case.\n\nThe claim was dismissed in 2019."
GOOD = "It is short. [[The claim was dismissed in 2019.]] So it failed.\nVerdict: No, it was dismissed."
CONF = config.load(assignments=["completions.style=cot", WORDS, "dataset.absent_answer=refuse"])


def reasons(completion: str) -> list[str]:
    checked = answer_checks.check_answer(completion, ORACLE, "no", CONF.completions, CONF.dataset)
    return [problem.reason for problem in checked]


def training_row(completion: str, *, distracted: bool = False) -> TrainingRow:
    passages = ["The court heard the case.", "Rain fell."]
    joined = {
        "pubid": 1, "question": "Did it succeed?", "passages": passages, "oracle": ORACLE, "distracted": distracted,
        "original_answer": None,
    }  # fmt: skip
    return targets.training_row(joined, completion, CONF.dataset, CONF.completions)


def test_a_chain_of_thought_is_read_by_its_own_marks():
    assert answer_checks.parse(GOOD, MARKS) == answer_checks.ParsedAnswer(
        ("The claim was dismissed in 2019.",), "No, it was dismissed."
    )
    assert reasons(GOOD) == []
    assert reasons(GOOD.replace("2019", "2020")) == ["false quote"]
    assert reasons(GOOD.replace("]]", "")) == ["broken quote", "no quote"]
    assert reasons(GOOD.replace("Verdict:", "<ANSWER>:")) == ["no answer line"]


def test_a_refusal_in_its_own_words_is_found_beside_english_ones():
    assert reasons(GOOD.replace("No, it was dismissed.", "Das steht nicht da.")) == ["refusal"]
    assert reasons(GOOD.replace("No, it was dismissed.", "I don't know.")) == ["refusal"]
    assert refusals.is_refusal('"das steht nicht da"', MARKS.unknown)
    assert not refusals.is_refusal("Das steht da.", MARKS.unknown)


def test_targets_have_the_marks_and_the_refusal_of_the_template():
    assert training_row(GOOD).answer == "No, it was dismissed."
    refused = training_row(GOOD, distracted=True)
    assert (refused.completion, refused.answer) == ("Verdict: Not in the files.", "Not in the files.")


def test_a_prompt_without_a_system_turn_fits_every_format():
    row = replace(training_row(GOOD), rejected_answer="Verdict: Yes.")
    user = (
        "<doc>The court heard the case.</doc>\n\n<doc>Rain fell.</doc>\n\nDid it succeed?\n\n"
        "Quote in [[ and ]], then Verdict:"
    )
    turn = {"role": "user", "content": user}
    records = {name: FORMATS[name].record(row) for name in FORMATS if name != "answer_only"}
    assert records["messages"]["messages"] == [turn, {"role": "assistant", "content": GOOD}]
    assert records["prompt_completion"]["prompt"] == records["preference"]["prompt"] == [turn]
    assert records["jumpstart"] == {"instruction": "", "context": user, "response": GOOD}
    assert records["bedrock"]["system"] == []
    assert records["bedrock"]["messages"][0] == {"role": "user", "content": [{"text": user}]}
    assert (records["alpaca"]["instruction"], records["alpaca"]["system"]) == (user, "")
    assert (records["sharegpt"]["conversations"][0]["value"], records["sharegpt"]["system"]) == (user, "")


def test_the_length_of_a_row_counts_the_layout_of_its_passages():
    row = training_row("Yes.")
    count = targets.token_counter("")
    need = sum(
        targets.HEAD_TOKENS + count(text) + targets.TURN_TOKENS * 2 + count(turn["content"])
        for text, turn in [("Yes.", prompts.student_messages(row.question, [], row.completions)[-1])]
    )
    passages = sum(count(f"<doc>{text}</doc>") + count("\n\n") for text in row.passages)
    fits = [True, True]
    assert targets.fit_length(row, fits, "Yes.", count, need + passages) == row.passages
    assert targets.fit_length(row, fits, "Yes.", count, need + passages - 1) is None


def test_scores_examples_and_the_judge_read_the_same_marks():
    scored = scores.score(GOOD, "It failed.", ORACLE.split("\n\n"), [], "cot", MARKS)
    assert (scored["decision"], scored["quoted"]) == ("no", ["oracle"])
    assert scores.score("Das steht nicht da.", "", [], [], "answer", MARKS)["abstained"]
    spans = [(span.text, span.source) for span in examples.split_at_quotes(GOOD, ["oracle"], MARKS)]
    assert spans[1] == ("The claim was dismissed in 2019.", "oracle")
    row = {"metric": "relevance", "question": "Did it?", "text": GOOD, "passages": []}
    assert judge.build_request(row, CONF.completions, "m").prompt[-1]["content"] == "Answer: No, it was dismissed."


def test_the_judge_and_the_scores_of_words_see_no_citations():
    conf = config.load(assignments=["completions.style=cot", "completions.passage_marks=numbers"]).completions
    row = {
        "metric": "faithfulness",
        "question": "Did it?",
        "text": "So [1].\n<ANSWER>: No [2].",
        "passages": ["It [2] was."],
    }
    asked = judge.build_request(row, conf, "m").prompt[-1]["content"]
    assert asked == "Passages: It [2] was.\n\nQuestion: Did it?\n\nAnswer: So.\n<ANSWER>: No."
    task = evaluation.EvaluationTask(
        Storage("x"), "cot", conf.words.marks, None, 1, is_judged=False, cites_passages=True
    )
    case = dict.fromkeys(("pubid", "student", "setting", "distractors", "question", "final_decision"))
    case |= {"passages": [], "article_passages": [], "reference": "No.", "last_error": None}
    answer = {"completion": row["text"], "finish_reason": "stop"}
    scored = evaluation._score(case, answer, task)
    assert (scored["token_f1"], scored["answer"]) == (1.0, row["text"])


def test_a_student_s_citations_are_counted_by_whether_they_name_the_oracle():
    task = evaluation.EvaluationTask(Storage("x"), "cot", Marks(), None, 1, is_judged=False, cites_passages=True)
    case = dict.fromkeys(("pubid", "student", "setting", "distractors", "question", "final_decision", "reference"))
    shown = [{"text": text, "oracle": text != "Sheep."} for text in ("It was.", "Sheep.", "It fell.")]
    case |= {"passages": shown, "article_passages": ["It was.", "It fell."], "last_error": None}
    text = "A [1]. ##begin_quote##It was [3] of it.##end_quote## B [2][3]. C [7].\n<ANSWER>: No [1]."
    for found, counts in (({"completion": text, "finish_reason": "stop"}, (4, 2)), (None, (0, 0))):
        scored = evaluation._score(case, found, task)
        assert (scored["citations"], scored["citations_of_oracle"]) == counts
    bare = replace(task, cites_passages=False)
    assert evaluation._score(case, {"completion": text, "finish_reason": "stop"}, bare)["citations"] == 0


def test_only_words_and_marks_that_are_set_are_part_of_what_a_version_depends_on():
    def of(who: templates.Reader, *assignments: str) -> dict[str, object]:
        return requests.words_otherwise(config.load(assignments=assignments).completions, who)

    numbers, cot = "completions.passage_marks=numbers", "completions.style=cot"
    assert of("student") == of("teacher", numbers) == of("teacher", cot, "completions.passage_marks=tags") == {}
    law = requests.words_otherwise(CONF.completions, "student")["words_of_student"]
    assert sorted(law) == ["decision", "marks", "refusal", "student"]
    assert (
        len({str(of("student", f"completions.passage_marks={each}")) for each in ("template", "tags", "numbers")}) == 3
    )
    raft = [
        of("student", "completions.prompts=raft", f"completions.passage_marks={each}") for each in ("template", "tags")
    ]
    assert raft[0]["words_of_student"] == raft[1]["words_of_student"]
    assert raft[0] != raft[1]  # since tags in a passage are broken
    for who in ("teacher", "student"):
        assert of(who, numbers, cot)[f"words_of_{who}"]["citation"]


def test_what_a_further_passage_adds_is_counted():
    conf = CONF.completions  # <doc></doc> around each passage; a blank line is between them in the oracle too
    assert prompts.characters_between_passages(conf) == len("<doc></doc>")
    assert prompts.characters_between_passages(config.load().completions) == 0
    one, two = (prompts.teacher_request("q", oracle, "m", conf).characters for oracle in ("ab", "a\n\nb"))
    assert two - one == len("\n\n") + prompts.characters_between_passages(conf)
