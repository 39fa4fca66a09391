"""What students are shown: as many passages with and without the oracle, k's distractors among those of a larger k."""

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft_spark import config
from raft_spark.errors import ConfigError, InputError
from raft_spark.recipe import retrieval, term_index, words
from raft_spark.scoring import conditions, judge
from raft_spark.scoring.conditions import Condition
from support.corpus_index import index_of

pytestmark = pytest.mark.row

COUNTS = np.array([3, 1, 4, 0, 2, 3, 1, 2, 5, 2, 3, 1])
INDEX = index_of(COUNTS)
TEXTS = pa.array([f"passage {number}" for number in range(int(COUNTS.sum()))], pa.large_string())
NUMBERS = np.flatnonzero(COUNTS)


def shown(setting: str, k: int = 0, numbers: np.ndarray = NUMBERS) -> list[list[tuple[str, bool]]]:
    found = conditions.passages(numbers, INDEX, TEXTS, Condition(setting, k), config.load())
    return [[(each["text"], each["oracle"]) for each in passages] for passages in found]


def others(passages: list[tuple[str, bool]]) -> list[str]:
    return [text for text, is_oracle in passages if not is_oracle]


def test_with_the_oracle_there_are_all_its_passages_and_k_others():
    for number, passages in zip(NUMBERS, shown("with", 3), strict=True):
        own = {f"passage {INDEX.first[number] + place}" for place in range(COUNTS[number])}
        assert {text for text, is_oracle in passages if is_oracle} == own
        assert len(others(passages)) == len(set(others(passages)) - own) == 3


def test_without_it_there_are_as_many_and_none_of_its_own():
    counts = np.tile(COUNTS, 30)  # several articles of each number of passages
    index, texts = (
        index_of(counts),
        pa.array([f"passage {number}" for number in range(counts.sum())], pa.large_string()),
    )
    conf, numbers = config.load(), np.flatnonzero(counts)
    without, full = (
        conditions.passages(numbers, index, texts, Condition(setting, 3), conf) for setting in ("without", "with")
    )
    for one, other in zip(without, full, strict=True):
        assert len(one) == len(other)
        assert not any(each["oracle"] for each in one)
        own = {each["text"] for each in other if each["oracle"]}
        assert not own & {each["text"] for each in one}
        singles = {each["text"] for each in other if not each["oracle"]}
        assert singles <= {each["text"] for each in one}


def test_alone_is_the_oracle_and_closed_is_nothing():
    assert [len(passages) for passages in shown("alone")] == COUNTS[NUMBERS].tolist()
    assert all(is_oracle for passages in shown("alone") for _, is_oracle in passages)
    assert shown("closed") == [[]] * len(NUMBERS)


@pytest.mark.parametrize("setting", ["with", "without"])
def test_a_larger_k_only_adds_and_the_rest_keeps_its_order(setting: str):
    for few, many in zip(shown(setting, 2), shown(setting, 5), strict=True):
        assert [passage for passage in many if passage in few] == few


@pytest.mark.parametrize("setting", ["with", "without", "alone"])
def test_an_article_is_shown_the_same_in_any_company(setting: str):
    one_by_one = [shown(setting, 2, np.array([number]))[0] for number in NUMBERS]
    assert one_by_one == shown(setting, 2)


def test_distractors_are_random_whatever_base_takes():
    near = config.load(assignments=["base.distractors_from={bm25=1.0}"])
    for setting in ("with", "without"):
        assert conditions.passages(NUMBERS, INDEX, TEXTS, Condition(setting, 3), near) == conditions.passages(
            NUMBERS, INDEX, TEXTS, Condition(setting, 3), config.load()
        )


def retrieved(
    folder: Path, corpus: list[list[str]], questions: list[str], count: int, asked: list[int] | None = None
) -> list[list[tuple[str, bool]]]:
    """Return the best passages of articles with these passages and questions, for those that are `asked` (all)."""
    counts = np.array([*map(len, corpus)])
    texts = pa.array([text for passages in corpus for text in passages], pa.large_string())
    path, index = folder / "test-bm25.arrow", index_of(counts)
    row, passage = np.repeat(np.arange(len(counts)), counts), np.concatenate([*map(np.arange, counts)])
    with term_index.IndexWriter(path) as writer:
        writer.add(row, passage, words.split(texts.cast(pa.string())))
    retriever = retrieval.Retriever({retrieval.BM25: term_index.TermIndex(path)}, {}, np.empty((0, 32), np.uint8))
    numbers = np.arange(len(counts)) if asked is None else np.array(asked)
    of_articles = {"pubid": index.pubid[numbers], "number": numbers, "question": [questions[at] for at in numbers]}
    found = conditions.best_passages(pa.table(of_articles), index, texts, retriever, count)
    return [[(each["text"], each["oracle"]) for each in passages] for passages in found]


def test_the_passages_of_all_articles_that_fit_a_question_best_are_shown_the_best_first(tmp_path: Path):
    corpus = [
        ["Aspirin, pain, kidney."],
        ["Weather and wind.", "Aspirin, pain, sleep."],
        ["Aspirin, diet, sugar."],
        ["Children at school."],
    ]
    questions = ["Aspirin for pain of the kidney?", "Kidney pain by aspirin?", "Which school?", "Why?"]
    first, second, third, last = retrieved(tmp_path, corpus, questions, 9)
    assert first == [(corpus[0][0], True), (corpus[1][1], False), (corpus[2][0], False)]  # 3, 2 and 1 words of it
    assert second == [(corpus[0][0], False), (corpus[1][1], True), (corpus[2][0], False)]
    assert third == [(corpus[3][0], False)]  # fewer than 9, for no other passage has one of its words
    assert last == []
    assert retrieved(tmp_path, corpus, questions, 2) == [first[:2], second[:2], third, []]


sentences = st.lists(st.sampled_from("abcd"), min_size=1, max_size=3).map(" ".join)


@settings(max_examples=20)
@given(st.lists(st.tuples(st.lists(sentences, min_size=1, max_size=3), sentences), min_size=2, max_size=6))
def test_what_a_smaller_k_is_shown_comes_first_with_a_larger_k_and_in_any_company(
    tmp_path_factory: pytest.TempPathFactory, articles: list[tuple[list[str], str]]
):
    folder, (corpus, questions) = tmp_path_factory.getbasetemp(), map(list, zip(*articles, strict=True))
    most = retrieved(folder, corpus, questions, 9)
    for k in (1, 2, 5):  # though many passages are the same text
        assert retrieved(folder, corpus, questions, k) == [passages[:k] for passages in most]
    assert [retrieved(folder, corpus, questions, 9, [at])[0] for at in range(len(corpus))] == most


def test_more_rows_only_add_articles():
    pubids = INDEX.pubid[COUNTS > 0]
    taken = [
        set(pubids[conditions.is_selected(pubids, conditions.last_hash(INDEX, rows))]) for rows in (1, 4, 9, 99, 0)
    ]
    assert [len(found) for found in taken] == [1, 4, 9, 11, 11]
    assert taken == sorted(taken, key=len)
    assert all(few <= many for few, many in itertools.pairwise(taken))


def test_a_split_too_small_for_its_draws_is_named_before_anything_is_asked():
    conditions.check_split_size(INDEX, config.load(assignments=["evaluation.distractors=[1, 5]"]).evaluation)
    with pytest.raises(
        InputError, match=r"the test split has 11 articles, but a row needs distractors from 11 others.*\(1, 6\)"
    ):
        conditions.check_split_size(INDEX, config.load(assignments=["evaluation.distractors=[6, 1]"]).evaluation)


def test_what_is_retrieved_needs_no_other_article():
    asked = config.load(assignments=["evaluation.settings=retrieved,closed", "evaluation.distractors=[1, 100]"])
    conditions.check_split_size(INDEX, asked.evaluation)
    with pytest.raises(InputError, match="the test split has 0 articles"):
        conditions.check_split_size(index_of(np.zeros(3, np.int64)), asked.evaluation)


def test_an_article_alone_needs_no_other_article():
    asked = config.load(assignments=["evaluation.settings=alone,closed"])
    index = index_of(np.array([2]))
    conditions.check_split_size(index, asked.evaluation)
    found = conditions.passages(np.array([0]), index, TEXTS[:2], Condition("alone", 0), asked)
    assert sorted(each["text"] for each in found[0]) == ["passage 0", "passage 1"]


def test_students_are_asked_with_the_limits_and_words_of_completions():
    conf = config.load(assignments=["completions.style=cot", "completions.temperature=0.7", "completions.in_flight=3"])
    own = conditions.endpoint_settings(conf, "fake")
    assert own.teacher.model == "fake"
    asked = own.completions
    assert (asked.style, asked.in_flight, asked.temperature, asked.max_new_tokens) == ("cot", 3, 0.0, 512)
    row = {"question": "Why?", "passages": [{"text": "One.", "oracle": True}, {"text": "Two.", "oracle": False}]}
    sent = conditions.build_request(row, asked, "fake")
    assert sent.parameters == {"temperature": 0.0, "top_p": 1.0, "max_tokens": 512}
    assert sent.prompt[1]["content"] == "Context: One.\n\nTwo.\n\nQuestion: Why?"
    assert "##begin_quote##" in sent.prompt[0]["content"]


def test_a_student_and_a_judge_get_what_their_own_endpoints_are_sent():
    conf = config.load(
        assignments=[
            'endpoints.small={kind="openai", url="http://127.0.0.1:1/v1", model="s", system="user", leave_out=["top_p"]}',
            "endpoints.small.parameters={seed=1}",
            'endpoints.small.rename={max_tokens="max_completion_tokens"}',
            "completions.parameters={reasoning_effort='low'}",
            "evaluation.students=small",
            "evaluation.judge=small",
        ]
    )
    row = {"question": "Why?", "passages": [{"text": "One.", "oracle": True}]}
    asked = conditions.build_request(row, conditions.endpoint_settings(conf, "small").completions, "s")
    assert (asked.changes.add, asked.changes.leave_out) == ({"seed": 1}, ("top_p",))
    assert asked.changes.rename == {"max_tokens": "max_completion_tokens"}
    assert [turn["role"] for turn in asked.prompt] == ["user"]
    judged = {"metric": "relevance", "question": "Why?", "text": "So.", "passages": []}
    judging = judge.build_request(judged, judge.endpoint_settings(conf).completions, "s")
    assert judging.changes == asked.changes
    assert [turn["role"] for turn in judging.prompt] == ["user"]


@pytest.mark.parametrize(
    ("assignments", "sentence"),
    [
        (
            ["evaluation.students=embedded,nobody"],
            r"evaluation.students names nobody; each must be one of .*: embedded, fake",
        ),
        (
            ["endpoints.twin.kind=fake", "endpoints.twin.model=fake", "evaluation.students=fake,twin"],
            "which have the same model 'fake'",
        ),
        (
            ["endpoints.old.kind=sagemaker", "endpoints.old.endpoint_name=old", "evaluation.students=old"],
            "names old, whose codec 'tgi' sends one text",
        ),
        (["evaluation.distractors=[0]"], "evaluation.distractors.0 is 0; it must be a whole number in 1..100"),
        (["evaluation.settings=[]"], "evaluation.settings is .*a list of 1 or more"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_sentence(assignments: list[str], sentence: str):
    with pytest.raises(ConfigError, match=sentence):
        config.load(assignments=assignments)
