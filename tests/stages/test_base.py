"""articles -> base on a real Spark: the same rows whatever the partitions and the strategy, clear errors, no leak."""

import hashlib
import json
from pathlib import Path

import pytest

from conftest import Settle, article, write_articles
from raft_spark import config
from raft_spark.errors import InputError
from raft_spark.lake import blobs, parquet, schemas, tables
from raft_spark.stages import articles, base

pytestmark = pytest.mark.spark


def rows(conf: config.Config, table: str = schemas.BASE) -> list[dict[str, object]]:
    version = tables.require(conf.lake, table)
    found = [
        {**row, "split": piece["split"]}
        for piece in tables.row_groups(conf.lake, version)
        for row in parquet.read_row_group(piece).to_pylist()
    ]
    return sorted(found, key=lambda row: row["pubid"])


def digest(conf: config.Config) -> str:
    return hashlib.sha256(json.dumps(rows(conf), sort_keys=True).encode()).hexdigest()


@pytest.mark.parametrize(("shares", "task_counts"), [("{}", (1, 3, 17)), ("{bm25=0.5,mesh=0.3}", (1, 17))])
def test_the_rows_are_the_same_for_any_partitions_and_strategy(
    settled: Settle, shares: str, task_counts: tuple[int, ...]
):
    digests = {}
    for tasks in task_counts:
        for strategy in ("broadcast", "join"):
            conf = settled("lake.row_group_rows=7", f"base.strategy={strategy}", f"base.distractors_from={shares}")
            articles.run(conf)
            digests[tasks, strategy] = digest_with_tasks(conf, tasks)
    assert len(set(digests.values())) == 1, digests


def test_a_join_writes_the_same_files_as_a_broadcast(settled: Settle, monkeypatch: pytest.MonkeyPatch):
    files = []
    for strategy, blobs_at_once in (("broadcast", 256), ("join", 256), ("join", 1)):
        monkeypatch.setattr(blobs, "BLOBS_AT_ONCE", blobs_at_once)
        conf = settled("lake.row_group_rows=20", f"base.strategy={strategy}")
        articles.run(conf)
        files.append(drawn_with_tasks(conf, 3).files)
    assert files[0] == files[1] == files[2]


def test_a_join_of_rows_that_show_nothing_writes_the_same_files_as_a_broadcast(settled: Settle):
    files = []
    for strategy in ("broadcast", "join"):
        conf = settled(
            "base.distractors=0", "base.oracle_share=0.02", "base.absent=nothing", f"base.strategy={strategy}"
        )
        conf = conf.model_copy(update={"lake": conf.lake.model_copy(update={"row_group_rows": 20})})
        articles.run(conf)
        files.append(drawn_with_tasks(conf, 3).files)
    assert files[0] == files[1]
    assert 0 < sum(bool(row["documents"]) for row in rows(conf)) < 15, "some of the 15 row groups show nothing"


def test_articles_of_a_release_that_wrote_no_index_give_the_same_rows(settled: Settle):
    conf = settled()
    version = articles.run(conf)
    assert len([file for file in version.files if file.is_index]) == len(version.data()) > 1
    digests = [digest_with_tasks(conf, 2)]
    at = tables.files_folder(conf.lake, version)
    manifest = json.loads(at.read("manifest.json") or b"")
    manifest["files"] = [file for file in manifest["files"] if not file["path"].startswith("index/")]
    at.write("manifest.json", json.dumps(manifest).encode())
    at.delete("index")
    digests.append(digest_with_tasks(conf, 2))
    assert digests[0] == digests[1]


def digest_with_tasks(conf: config.Config, tasks: int) -> str:
    """Draw again with so many tasks, past the check that nothing has changed."""
    drawn_with_tasks(conf, tasks)
    return digest(conf)


def drawn_with_tasks(conf: config.Config, tasks: int) -> tables.Version:
    tables.storage(conf.lake, schemas.BASE).delete("")
    version = base.run(conf, tasks=tasks)
    assert len({file.path.rpartition("/")[2] for file in version.data()}) == tasks
    return version


def test_a_row_holds_what_the_design_says(settled: Settle):
    conf = settled()
    articles.run(conf)
    version = base.run(conf)
    by_pubid = {row["pubid"]: row for row in rows(conf, schemas.ARTICLES)}
    found = rows(conf)
    assert len(found) == len(by_pubid) == 300
    for row in found:
        own = by_pubid[row["pubid"]]
        assert row["question"] == own["question"]
        assert row["original_answer"] == own["long_answer"]
        assert row["oracle"] == "\n\n".join(own["passages"])
        assert row["split"] == own["split"]
        assert row["distracted"] == (not any(document["oracle"] for document in row["documents"]))
        others = {
            len(other["passages"]) for other in by_pubid.values() if other["split"] == row["split"] and other is not own
        }
        nearest = min(others, key=lambda size: (abs(size - len(own["passages"])), size))
        assert len(row["documents"]) == (nearest if row["distracted"] else len(own["passages"])) + 3
        for document in row["documents"]:
            source = by_pubid[document["pubid"]]
            assert source["split"] == row["split"]
            assert source["passages"][document["passage"]] == document["text"]
            assert document["oracle"] == (document["pubid"] == row["pubid"])
            assert document["oracle"] or document["text"] not in own["passages"]
    assert version.counts["distracted"]["train"] == sum(r["distracted"] for r in found if r["split"] == "train")


def test_no_test_passage_stands_in_a_training_row(tmp_path: Path, settled: Settle):
    approved = [
        f"Protocol {number % 5 if number < 60 else number} was approved by the committee of the hospital."
        for number in range(400)
    ]
    records = [
        article(
            number, [f"Trial {number} had {number} patients.", approved[number]], question=f"Did trial {number} work?"
        )
        for number in range(400)
    ]
    conf = settled(f"articles.source={write_articles(tmp_path / 'source/all.parquet', records)}", "base.distractors=2")
    version = articles.run(conf)
    assert version.counts["reasons"].keys() == {"the question or a passage stands in a held-out split too"}
    base.run(conf)
    found = rows(conf)
    held_out = {document["text"] for row in found if row["split"] == "test" for document in row["documents"]}
    held_out |= {text for row in rows(conf, schemas.ARTICLES) if row["split"] == "test" for text in row["passages"]}
    trained = {document["text"] for row in found if row["split"] == "train" for document in row["documents"]}
    assert held_out
    assert trained
    assert not held_out & trained


def test_too_few_articles_for_k_is_an_error_before_anything_is_written(settled: Settle):
    conf = settled("articles.source=sample:30", "base.distractors=20")
    articles.run(conf)
    with pytest.raises(
        InputError, match=r"split \w+ has \d+ articles, but a row there needs distractors from \d+ others"
    ):
        base.run(conf)
    assert tables.storage(conf.lake, schemas.BASE).list() == []


def test_the_articles_of_a_laptop_are_enough_for_its_settings(settled: Settle):
    laptop = config.load(["local.toml"])
    conf = settled(f"articles.source={laptop.articles.source}", files=("local.toml",))
    articles.run(conf)
    base.run(conf)
    assert len(rows(conf)) == int(laptop.articles.source.partition(":")[2])


def test_without_articles_the_error_names_the_stage_to_run(settled: Settle):
    with pytest.raises(InputError, match="run `raft-spark articles` first"):
        base.run(settled())


def test_nothing_new_is_nothing_to_do_and_a_new_seed_is_a_new_version(settled: Settle):
    conf = settled()
    articles.run(conf)
    first = base.run(conf)
    assert base.run(settled("base.strategy=join")).id == first.id
    second = base.run(settled("base.seed=1"))
    assert second.id != first.id
    assert [version.id for version in tables.history(conf.lake, schemas.BASE)] == [first.id, second.id]
    assert tables.load(conf.lake, schemas.BASE, first.id) == first


def test_k_0_without_oracle_leaves_rows_with_no_passage_in_both_strategies(settled: Settle):
    bare = ["base.distractors=0", "base.oracle_share=0.5", "base.absent=nothing"]
    found = []
    for strategy in ("broadcast", "join"):
        conf = settled(*bare, f"base.strategy={strategy}")
        articles.run(conf)
        tables.storage(conf.lake, schemas.BASE).delete("")
        base.run(conf)
        found.append(rows(conf))
    assert found[0] == found[1]
    assert {len(row["documents"]) == 0 for row in found[0]} == {True, False}
