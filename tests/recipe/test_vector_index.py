"""The nearest passages by embeddings: exactly those of the largest cosines, whatever is searched together, never an own one."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from raft_spark.recipe import vector_index
from raft_spark.recipe.ranking import Hits
from raft_spark.recipe.vector_index import VectorIndex

pytestmark = pytest.mark.row
Floats = NDArray[np.float64]
PASSAGES = 3  # of each article


def write(folder: Path, passages: Floats, questions: Floats) -> VectorIndex:
    """Write an index of articles with PASSAGES passages each; a vector of zeros is none."""
    vectors = np.concatenate([passages, questions])
    has = vectors.any(axis=1)
    np.save(folder / vector_index.VECTORS, vector_index.rounded(np.where(has[:, None], vectors, 1)))
    position = np.where(has, np.arange(len(vectors)), vector_index.NONE).astype(np.int32)
    rows = np.zeros(len(passages), vector_index.PASSAGE)
    rows["number"], rows["passage"] = np.divmod(np.arange(len(passages)), PASSAGES)
    rows["vector"] = position[: len(passages)]
    of_passages, of_questions = (folder / name for name in vector_index.file_names("train"))
    np.save(of_passages, rows[rows["vector"] >= 0])
    np.save(of_questions, position[len(passages) :])
    return VectorIndex(of_passages, of_questions, folder / vector_index.VECTORS)


def some_vectors(articles: int, dimensions: int = 48) -> tuple[Floats, Floats]:
    """Return vectors of passages and questions about some topics, so that a question has near passages."""
    random = np.random.default_rng(3)
    topics = random.normal(size=(20, dimensions))
    passages = topics[random.integers(0, 20, PASSAGES * articles)] + random.normal(
        size=(PASSAGES * articles, dimensions)
    )
    return passages, passages[::PASSAGES] + 2 * random.normal(size=(articles, dimensions))


def search(index: VectorIndex, numbers: list[int], count: int = 10) -> tuple[Hits, NDArray[np.int64]]:
    return index.search(np.array(numbers), 7 * np.array(numbers, np.uint64), count)


def found(hits: Hits, row: int) -> list[tuple[int, int, int, int]]:
    """Return number, passage, rank and score of the passages that a question finds."""
    columns = (of[hits.row == row].tolist() for of in (hits.number, hits.passage, hits.rank, hits.score))
    return list(zip(*columns, strict=True))


def test_the_nearest_passages_of_other_articles_are_found_with_their_cosine(tmp_path: Path):
    passages, questions = some_vectors(400)
    hits, best = search(write(tmp_path, passages, questions), [*range(400)])
    unit, asked = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (passages, questions))
    cosines = asked @ unit.T  # (questions, passages)
    for number in range(400):
        own = slice(PASSAGES * number, PASSAGES * (number + 1))
        assert best[number] / vector_index.SCALE == pytest.approx(cosines[number, own].max(), abs=0.001)
        cosines[number, own] = -1
        nearest = np.sort(cosines[number])[::-1][:10]
        of_row = found(hits, number)
        assert [rank for _, _, rank, _ in of_row] == [*range(1, 11)]
        assert [score / vector_index.SCALE for *_, score in of_row] == pytest.approx(nearest, abs=0.001)
        assert [cosines[number, PASSAGES * each[0] + each[1]] for each in of_row] == pytest.approx(nearest, abs=0.001)


def test_what_is_found_does_not_depend_on_what_is_searched_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    index = write(tmp_path, *some_vectors(200, 384))
    hits, best = search(index, [*range(200)])
    for size in (1, 7, 100):
        monkeypatch.setattr(vector_index, "QUESTIONS_AT_ONCE", size)
        monkeypatch.setattr(vector_index, "PASSAGES_AT_ONCE", 5 * size)
        for row in range(0, 200, 9):
            alone, own = search(index, [row])
            assert found(alone, 0) == found(hits, row)
            assert own[0] == best[row]


def test_a_product_is_exact_at_any_number_of_dimensions():
    random = np.random.default_rng(1)
    for dimensions in (3, 384, 16_384):
        one, other = vector_index.rounded(random.normal(size=(2, dimensions))).astype(np.int64)
        alike = vector_index.rounded(np.ones((1, dimensions)))[0].astype(np.int64)
        for a, b in ((one, other), (one, one), (alike, alike)):
            assert abs(a) @ abs(b) < 2**24  # so no partial sum is larger
            assert int(a.astype(np.float32) @ b.astype(np.float32)) == a @ b


def test_equal_passages_are_told_apart_by_the_question_not_by_their_place(tmp_path: Path):
    passages, questions = some_vectors(100)
    passages[3:], questions[:] = passages[3], passages[3] + 1  # all but those of the first article are the same
    hits, _ = search(write(tmp_path, passages, questions), [*range(100)])
    first = [found(hits, number)[0][:2] for number in range(1, 100)]
    assert len(set(first)) > 50


def test_a_text_without_vector_is_not_found_and_its_question_finds_nothing(tmp_path: Path):
    passages, questions = some_vectors(50)
    passages[9], questions[4], passages[15:18] = 0, 0, 0
    hits, best = search(write(tmp_path, passages, questions), [*range(50)], 150)
    assert (3, 0) not in {(number, passage) for number, passage in zip(hits.number, hits.passage, strict=True)}
    assert found(hits, 4) == []  # no question
    assert found(hits, 5) == []  # nothing tells what would answer it as well
    assert best[4] == best[5] == 0
    assert len(found(hits, 3)) > 50


def test_where_no_text_has_a_vector_nothing_is_found(tmp_path: Path):
    hits, best = search(write(tmp_path, np.zeros((6, 4)), np.zeros((2, 4))), [0, 1])
    assert len(hits.row) == 0
    assert best.tolist() == [0, 0]


def test_a_split_without_articles_has_an_index(tmp_path: Path):
    assert write(tmp_path, np.zeros((0, 4)), np.zeros((0, 4)))
