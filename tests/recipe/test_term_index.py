"""What a search promises: the scores of BM25, the same hits for any parts and batches, bounded work."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raft_spark.recipe import ranking, term_index, words
from raft_spark.recipe.term_index import SCALE, IndexWriter, TermIndex

pytestmark = pytest.mark.row
WORDS = ["aspirin", "dose", "heart", "of", "placebo", "the", "trial", "zinc"]
texts = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)


def terms(found: Sequence[str]) -> term_index.Terms:
    return words.split(pa.array(found, pa.string()))


def index_of(documents: Sequence[str], folder: Path, batch: int = 4) -> TermIndex:
    path = folder / "index.arrow"
    with IndexWriter(path) as writer:
        for start in range(0, len(documents), batch):
            part = documents[start : start + batch]
            writer.add(np.arange(start, start + len(part)), np.zeros(len(part), np.int32), terms(part))
    assert [each.name for each in folder.iterdir()] == [path.name]
    return TermIndex(path)


def hits_of(index: TermIndex, questions: Sequence[str], count: int = 20, **options) -> list[list[tuple[int, int]]]:
    hits, _ = index.search(terms(questions), np.arange(len(questions)).astype(np.uint64), count, **options)
    found = [[] for _ in questions]
    for row, number, rank, score in zip(hits.row, hits.number, hits.rank, hits.score, strict=True):
        found[row].append((int(number), int(score)))
        assert len(found[row]) == rank
    return found


def bm25(question: str, documents: Sequence[str], k1: float = 1.5, b: float = 0.75) -> list[float]:
    """The plain formula, as Lucene has it."""
    bags = [Counter(document.split()) for document in documents]
    mean = sum(bag.total() for bag in bags) / len(bags)
    scores = []
    for bag in bags:
        score = 0.0
        for word in set(question.split()):
            having = sum(word in other for other in bags)
            norm = k1 * (1 - b + b * bag.total() / mean) if mean else k1
            idf = math.log(1 + (len(bags) - having + 0.5) / (having + 0.5))
            score += idf * bag[word] * (k1 + 1) / (bag[word] + norm) if bag[word] else 0
        scores.append(score)
    return scores


@given(documents=st.lists(texts, min_size=1, max_size=25), question=texts)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_scores_are_those_of_bm25(tmp_path_factory, documents: list[str], question: str):
    found = dict(hits_of(index_of(documents, tmp_path_factory.mktemp("index")), [question], len(documents))[0])
    for number, expected in enumerate(bm25(question, documents)):
        # each factor is rounded: idf to 1/128, the weight, at most 2.5, to 1/256
        assert found.get(number, 0) / SCALE == pytest.approx(expected, abs=len(WORDS) * (2.5 / 256 + 4 / 512))
        assert (number in found) == (expected > 0)


@given(
    documents=st.lists(texts, min_size=1, max_size=40),
    questions=st.lists(texts, min_size=1, max_size=9),
    count=st.integers(1, 9),
    postings=st.integers(0, 40),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_hits_do_not_depend_on_parts_batches_or_other_questions(
    tmp_path_factory, monkeypatch, documents: list[str], questions: list[str], count: int, postings: int
):
    with monkeypatch.context() as patched:
        patched.setattr(term_index, "BLOCK_BITS", 1)
        whole = hits_of(
            index_of(documents, tmp_path_factory.mktemp("whole"), batch=100), questions, count, postings=postings
        )
        patched.setattr(term_index, "PART_DOCUMENTS", 3)
        patched.setattr(term_index, "BATCH_POSTINGS", 7)
        patched.setattr(ranking, "RUNS", 2)
        patched.setattr(ranking, "MOST_EQUAL", 2)
        in_parts = index_of(documents, tmp_path_factory.mktemp("parts"), batch=2)
        assert hits_of(in_parts, questions, count, postings=postings) == whole
    assert all(len(of_question) <= count for of_question in whole)
    scores = [[score for _, score in of_question] for of_question in whole]
    assert scores == [sorted(of_question, reverse=True) for of_question in scores]


def test_equal_scores_are_spread_over_questions_instead_of_the_first_documents(tmp_path: Path):
    index = index_of(["aspirin dose"] * 50, tmp_path, batch=50)
    best = [found[0][0] for found in hits_of(index, ["aspirin"] * 200, 1)]
    assert len(set(best)) > 40


def test_own_documents_are_not_found_and_their_best_score_is_told(tmp_path: Path):
    path = tmp_path / "index.arrow"
    with IndexWriter(path) as writer:
        writer.add(np.array([7, 7, 3]), np.array([0, 1, 0]), terms(["zinc zinc", "zinc trial", "zinc dose trial"]))
    keys = np.zeros(2, np.uint64)
    hits, best = TermIndex(path).search(terms(["zinc", "zinc"]), keys, 9, own=np.array([7, 5]))
    assert hits.number[hits.row == 0].tolist() == [3]
    assert sorted(hits.number[hits.row == 1].tolist()) == [3, 7, 7]
    assert best[0] == hits.score[hits.row == 1].max()
    assert best[1] == 0


def bounded(index: TermIndex, question: str, own: int, postings: int) -> dict[int, int]:
    """Return the score of each document that is found."""
    keys, number = np.zeros(1, np.uint64), np.array([own])
    hits, _ = index.search(terms([question]), keys, 1000, number, postings)
    return dict(zip(hits.number.tolist(), hits.score.tolist(), strict=True))


def test_a_rare_word_is_looked_up_everywhere_and_a_common_one_around_the_own_document(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(term_index, "BLOCK_BITS", 3)  # 10 blocks of 8 documents
    monkeypatch.setattr(term_index, "COMMON", 1)  # no word is left out
    documents = ["the heart"] * 80
    documents[1] = documents[44] = documents[78] = "the zinc"
    index = index_of(documents, tmp_path, batch=100)
    exact, found = bounded(index, "the zinc", 44, 0), bounded(index, "the zinc", 44, 30)
    assert len(exact) == 79
    # 28 of 30 entries are left for "the", which 80 documents have: 3 blocks of 10, and the one of document 44 is in the middle
    assert sorted(found) == [1, *range(32, 44), *range(45, 56), 78]
    assert found[1] < exact[1]  # "zinc" alone
    assert {number: score for number, score in found.items() if 32 <= number < 56} == {
        number: score for number, score in exact.items() if 32 <= number < 56
    }


@given(
    documents=st.lists(texts, min_size=1, max_size=60),
    question=st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(" ".join),
    own=st.integers(0, 59),
    postings=st.integers(1, 60),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_bound_costs_documents_but_never_raises_a_score(
    tmp_path_factory, monkeypatch, documents: list[str], question: str, own: int, postings: int
):
    with monkeypatch.context() as patched:
        patched.setattr(term_index, "BLOCK_BITS", 2)
        patched.setattr(term_index, "COMMON", 1)
        index = index_of(documents, tmp_path_factory.mktemp("index"))
        exact, found = bounded(index, question, own, 0), bounded(index, question, own, postings)
    assert all(score <= exact[number] for number, score in found.items())
    entries = sum(word in document.split() for document in documents for word in set(question.split()))
    if entries <= postings:
        assert found == exact
    block = own // 4
    beside = [number for number in exact if number // 4 == block]  # always within the window
    assert own >= len(documents) or all(found[number] == exact[number] for number in beside)


def test_a_bounded_question_leaves_out_common_words_but_its_rarest(tmp_path: Path):
    documents = ["the heart"] * 90 + ["the"] * 10
    documents[1] = documents[44] = "the heart zinc"
    index = index_of(documents, tmp_path, batch=100)
    assert bounded(index, "the heart zinc", 99, 30) == bounded(index, "zinc", 99, 0)
    assert bounded(index, "the heart", 99, 30) == bounded(index, "heart", 99, 0)
    assert bounded(index, "the heart zinc", 99, 192) == bounded(index, "the heart zinc", 99, 0)


def test_of_many_equal_scores_enough_are_found_whatever_their_hashes(tmp_path: Path, monkeypatch):
    index = index_of(["aspirin dose"] * 500 + ["aspirin aspirin"] * 3 + ["zinc"] * 500, tmp_path, batch=999)
    few = hits_of(index, ["aspirin"] * 50, 9)
    monkeypatch.setattr(ranking, "MOST_EQUAL", 0)  # too few of each question are among them
    assert hits_of(index, ["aspirin"] * 50, 9) == few
    monkeypatch.setattr(ranking, "MOST_EQUAL", 100)  # all are
    assert hits_of(index, ["aspirin"] * 50, 9) == few
    assert all({500, 501, 502} == {number for number, _ in found[:3]} for found in few)


def test_bounded_questions_find_documents_in_all_of_the_index(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(term_index, "BLOCK_BITS", 3)
    index = index_of(["the heart", "zinc"] * 200, tmp_path, batch=400)
    found = [bounded(index, "the heart", own, 40) for own in range(400)]
    assert max(map(len, found)) <= 40  # of 200
    assert {number for of_question in found for number in of_question} == set(range(0, 400, 2))
    keys = np.arange(200).astype(np.uint64)
    # without own documents, the key chooses the window
    hits, _ = index.search(terms(["the heart"] * 200), keys, 1, postings=40)
    assert len(set(hits.number.tolist())) > 100


def test_an_index_without_documents_finds_nothing(tmp_path: Path):
    assert hits_of(index_of([], tmp_path), ["zinc", ""]) == [[], []]


def test_words_are_runs_of_letters_and_digits_in_any_script_and_case():
    found = words.split(pa.array(["TNF-\u03bb (IL_6): 3.5mg", "", "  ", "tnf \u039b"]))
    assert np.bincount(found.document, minlength=4).tolist() == [6, 0, 0, 2]
    assert found.term[0] == found.term[6]
    assert found.term[1] == found.term[7]


@given(left=st.sets(st.integers(0, 60)), right=st.sets(st.integers(0, 60), min_size=1))
def test_signatures_estimate_the_jaccard_similarity(left: set[int], right: set[int]):
    left = left | right if len(left) % 2 else left or {99}
    pair = terms([" ".join(f"w{each}" for each in sorted(of, key=hash)) for of in (left, right)])
    one, other = words.signatures(pair, 2)
    exact = len(left & right) / len(left | right)
    assert words.similarity(one, other) == pytest.approx(exact, abs=0.45)
    if left == right:
        assert words.similarity(one, other) == 1
