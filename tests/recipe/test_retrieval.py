"""Hard distractors: passages of other articles of the split that fit the question, and no second oracle among them."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raft_spark import config
from raft_spark.config.fields import METHODS
from raft_spark.lake import parquet, schemas
from raft_spark.lake.filesystem import Storage
from raft_spark.recipe import corpus, retrieval, sampling, words
from raft_spark.sources import synthetic
from raft_spark.stages import base_rows

pytestmark = pytest.mark.row
Rows = list[dict[str, Any]]


class Lake:
    """Articles of the train split, with their corpus and their retriever."""

    def __init__(self, rows: Rows, folder: Path, *assignments: str) -> None:
        self.conf = config.load(assignments=assignments).base
        methods = sampling.methods(self.conf)
        table = pa.Table.from_pylist(rows, schemas.SCHEMAS[schemas.ARTICLES])
        at = Storage(str(folder / "articles"))
        with parquet.PartitionedWriter(at, table.schema, 0, row_group_rows=50) as writer:
            writer.write("data/split=train", table)
        self.groups = [{**group, "table": schemas.ARTICLES} for group in parquet.row_groups(at, writer.files)]
        corpus.write_texts(self.groups, corpus.build_index(self.groups, [], [len(rows), 0, 0], folder), folder)
        retrieval.build(self.groups, methods, folder)
        self.index = corpus.map_index(f"{folder}/{corpus.INDEX}")["train"]
        self.texts = corpus.map_texts(f"{folder}/{corpus.TEXTS}", f"{folder}/{corpus.INDEX}")
        self.retriever = retrieval.map_files(Storage(str(folder)), "train", tuple(methods))

    def draw(self) -> Rows:
        """Return the rows of base of all articles."""
        found = []
        for group in self.groups:
            articles = parquet.read_row_group(group)
            numbers = articles["number"].to_numpy()
            draws = base_rows.draw(numbers, self.index, self.retriever, self.conf)
            own, shown = base_rows.mapped_texts(numbers, draws, self.index, self.texts)
            found += base_rows.base_table(articles, draws, self.index, own, shown).to_pylist()
        return found


def invented(count: int) -> Rows:
    found = synthetic.articles(0, count, seed=3).to_pylist()
    return [
        article(number, row["question"], row["context"]["contexts"], row["context"]["meshes"])
        for number, row in enumerate(found)
    ]


def article(number: int, question: str, passages: list[str], meshes: list[str]) -> dict[str, Any]:
    return {"pubid": 100 + 7 * number, "question": question, "passages": passages, "meshes": meshes, "number": number}


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return Lake(invented(1500), tmp_path_factory.mktemp("lake"), "base.distractors_from={bm25=0.5,mesh=0.2}")


@pytest.fixture(scope="module")
def drawn(lake: Lake) -> Rows:
    return lake.draw()


def test_k_p_and_the_other_rules_of_a_row_hold_as_for_random_distractors(lake: Lake, drawn: Rows):
    counts = lake.index.count
    number_of = {int(pubid): number for number, pubid in enumerate(lake.index.pubid)}
    for row in drawn:
        own = counts[number_of[row["pubid"]]]
        assert len(row["documents"]) == 3 + own
        assert sum(document["oracle"] for document in row["documents"]) == (0 if row["distracted"] else own)
        texts = [document["text"] for document in row["documents"]]
        assert len(set(texts)) == len(texts)
        if row["distracted"]:
            assert not {*texts} & {*row["oracle"].split("\n\n")}
    share = np.mean([not row["distracted"] for row in drawn])
    assert share == pytest.approx(0.7, abs=4 * (0.7 * 0.3 / len(drawn)) ** 0.5)


def test_each_document_says_how_it_was_found(drawn: Rows):
    methods = Counter()
    for row in drawn:
        for document in row["documents"]:
            methods[document["method"]] += 1
            assert (document["method"] is None) == document["oracle"]
            assert (document["rank"] is None) == (document["score"] is None) == (document["method"] in {None, "random"})
            if document["rank"] is not None:
                assert 1 <= document["rank"] <= 20
                assert document["score"] > 0
    assert {*methods} == {None, *METHODS} - {"embedding"}


def test_methods_have_their_shares(tmp_path: Path):
    rows = Lake(invented(1500), tmp_path, "base.distractors_from={bm25=0.5,mesh=0.2}", "base.absent=singles").draw()
    singles = [
        document for row in rows if not row["distracted"] for document in row["documents"] if not document["oracle"]
    ]
    counts = Counter(document["method"] for document in singles)
    for method, share in {"bm25": 0.5, "mesh": 0.2}.items():
        # random passages take the place of what a method does not find
        assert counts[method] / len(singles) == pytest.approx(share, abs=0.05), counts


def test_near_passages_are_nearer_to_the_question_than_random_ones(lake: Lake, drawn: Rows):
    scores = {"bm25": [], "random": []}
    for row in drawn[:300]:
        question = {*row["question"].lower().split()}
        for document in row["documents"]:
            if document["method"] in scores:
                shared = question & {*document["text"].lower().split()}
                scores[document["method"]].append(len(shared) / len(question))
    assert np.mean(scores["bm25"]) > np.mean(scores["random"]) + 0.05


def test_passages_that_may_answer_the_question_too_are_left_out(tmp_path: Path):
    chance = random.Random(5)
    vocabulary = [f"word{number}" for number in range(300)]
    rows = [
        article(number, f"Does drug{number} help?", [f"drug{number} " + " ".join(chance.sample(vocabulary, 30))], [])
        for number in range(40)
    ]
    rows.append(article(40, "Does drug7 help?", [rows[7]["passages"][0] + " indeed"], []))  # nearly the same text
    rows.append(article(41, "Anything?", ["drug3 drug3 drug3"], []))  # fits the question better than its own article
    rows.append(
        article(42, "Anything?", ["drug5 " + " ".join(chance.sample(vocabulary, 60))], [])
    )  # and this one less well
    found = Lake(rows, tmp_path, "base.distractors_from={bm25=1}", "base.oracle_share=1").draw()
    shown = {
        number: {document["pubid"]: document["method"] for document in found[number]["documents"]}
        for number in (3, 5, 7)
    }
    assert shown[3].get(rows[41]["pubid"]) != "bm25"
    assert shown[7].get(rows[40]["pubid"]) != "bm25"
    assert shown[5][rows[42]["pubid"]] == "bm25"
    assert found[3]["second_oracles"] >= 1
    assert found[7]["second_oracles"] >= 1


def test_the_filter_holds_in_every_row(lake: Lake, drawn: Rows):
    signature = lambda texts: words.signatures(words.split(pa.array(texts)), len(texts))  # noqa: E731
    for row in drawn[:400]:
        own = signature(row["oracle"].split("\n\n"))
        found = [document["text"] for document in row["documents"] if document["rank"] is not None]
        if found:
            assert words.similarity(signature(found)[:, None], own[None]).max() < lake.conf.retrieval.max_similarity


def test_mesh_finds_articles_that_share_rare_terms(tmp_path: Path):
    rows = [
        article(number, f"question {number}", [f"text {number}"], ["Humans", f"Topic {number // 4}"])
        for number in range(80)
    ]
    found = Lake(
        rows, tmp_path, "base.distractors_from={mesh=1}", "base.oracle_share=1", "base.retrieval.window=3"
    ).draw()
    for row, source in zip(found, rows, strict=True):
        others = {document["pubid"] for document in row["documents"] if document["method"] == "mesh"}
        same_topic = {other["pubid"] for other in rows if other["meshes"] == source["meshes"]} - {row["pubid"]}
        assert others == same_topic


def test_what_is_not_found_is_drawn_at_random(tmp_path: Path):
    rows = [article(number, f"only{number}", [f"text{number} words{number}"], []) for number in range(30)]
    found = Lake(rows, tmp_path, "base.distractors_from={bm25=0.5,mesh=0.5}", "base.oracle_share=1").draw()
    assert Counter(document["method"] for row in found for document in row["documents"]) == {None: 30, "random": 90}


def test_without_a_share_rows_are_the_random_ones(tmp_path: Path, lake: Lake):
    plain = config.load().base
    articles = parquet.read_row_group(lake.groups[0])
    for conf, retriever in (
        (plain, None),
        (plain.model_copy(update={"distractors_from": {"random": 1.0}}), lake.retriever),
    ):
        draws = base_rows.draw(articles["number"].to_numpy(), lake.index, retriever, conf)
        assert not draws.shown.rank.any()
    assert sampling.methods(conf) == []


def test_the_own_abstract_is_found_first_for_real_questions(real_articles: str, tmp_path: Path):
    found = pq.read_table(real_articles).to_pylist()
    rows = [
        article(number, row["question"], row["context"]["contexts"], row["context"]["meshes"])
        for number, row in enumerate(found)
    ]
    real = Lake(rows, tmp_path, "base.distractors_from={bm25=1}")
    questions, pubids = pa.chunked_array([[row["question"] for row in rows]]), np.array([row["pubid"] for row in rows])
    hits = retrieval.search(questions, pubids, real.retriever, 1)
    assert np.mean(hits.row == hits.number) >= 0.93
    assert len(hits.row) == len(rows)
    near = [document for row in real.draw() for document in row["documents"] if document["method"] == "bm25"]
    assert len(near) > 2000
