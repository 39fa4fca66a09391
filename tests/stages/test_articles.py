"""PubMedQA -> articles on a real Spark: bad records go to quarantine with a reason, sums agree, numbers stay."""

import json
from pathlib import Path

import pytest

from conftest import Settle, article, write_articles
from raft_spark import config
from raft_spark.errors import InputError
from raft_spark.lake import browse, parquet, schemas, tables
from raft_spark.stages import articles

pytestmark = pytest.mark.spark


def rows(conf: config.Config) -> dict[int, dict[str, object]]:
    version = tables.require(conf.lake, schemas.ARTICLES)
    found = [
        {**row, "split": piece["split"]}
        for piece in tables.row_groups(conf.lake, version)
        for row in parquet.read_row_group(piece).to_pylist()
    ]
    return {row["pubid"]: row for row in found}


def records(*numbers: int) -> list[dict[str, object]]:
    return [
        article(number, [f"Trial {number} had {number} patients.", f"Arm {number} did well."]) for number in numbers
    ]


def test_bad_records_go_to_quarantine_with_their_reason_and_the_sums_agree(tmp_path: Path, settled: Settle):
    bad = [
        {**article(1001, ["x"]), "question": None},
        {**article(1002, ["x"]), "question": "   "},
        article(1003, []),
        article(1004, ["fine", " \n"]),
        {**article(1005, ["x"]), "question": 7},
        {**article(1006, ["x"]), "context": "a text"},
        article(1007, ["y" * 10_000_000]),
        {**article(1008, ["x"]), "pubid": "1008"},
        {**article(1009, ["x"]), "final_decision": "perhaps"},
    ]
    source = tmp_path / "source"
    write_articles(source / "good.parquet", records(*range(200)))
    write_articles(source / "again.parquet", records(5, 6, 300))
    lines = [json.dumps(record) for record in bad] + [
        "{broken",
        '["a list"]',
        "",
        json.dumps({**article(1010, ["x"]), "extra": 1}),
    ]
    (source / "bad.jsonl").write_bytes("\n".join(lines).encode() + b'\n{"pubid": 1011, "question": "\xff?"}\n')
    conf = settled(f"articles.source={source}")
    counts = articles.run(conf).counts
    assert counts["read"] == 200 + 3 + len(bad) + 2 + 1 + 1
    assert counts["read"] == counts["articles"] + counts["quarantined"] + counts["duplicates"] + counts["beyond_limit"]
    assert counts["articles"] == 202
    assert counts["duplicates"] == 2
    assert counts["reasons"] == {
        "blank passage": 1,
        "contexts is too long": 1,
        "duplicate pubid": 2,
        "final_decision is not yes, no or maybe": 1,
        "invalid JSON": 1,
        "invalid UTF-8 in the line": 1,
        "no passage": 1,
        "no question": 2,
        "wrong type: context is text": 1,
        "wrong type: pubid is text": 1,
        "wrong type: question is int": 1,
        "wrong type: the record is a list": 1,
    }
    version = tables.require(conf.lake, schemas.ARTICLES)
    quarantined = browse.head(conf.lake, version, 100, quarantine=True)
    assert len(quarantined) == counts["quarantined"] + counts["duplicates"]
    assert {row["pubid"] for row in quarantined if row["reason"] == "no question"} == {1001, 1002}
    assert all(row["source"] for row in quarantined)


def test_real_pubmedqa_rows_in_the_schema_that_datasets_gives(real_articles: Path, settled: Settle):
    conf = settled(f"articles.source={real_articles}")
    counts = articles.run(conf).counts
    assert counts["read"] == 699
    assert counts["articles"] + counts["quarantined"] == 699
    found = rows(conf)
    assert {row["final_decision"] for row in found.values()} == {"yes", "no", "maybe"}
    assert sum(len(row["passages"]) for row in found.values()) / len(found) > 3
    assert all(len(row["labels"]) == len(row["passages"]) for row in found.values())


def test_numbers_stay_when_articles_come_and_go(tmp_path: Path, settled: Settle):
    source = tmp_path / "source/all.parquet"
    conf = settled(f"articles.source={source}")
    write_articles(source, records(*range(10, 210)))
    articles.run(conf)
    before = rows(conf)
    dense = sorted(row["number"] for row in before.values() if row["split"] == "train")
    assert dense == list(range(len(dense)))
    write_articles(source, records(*range(150), *range(160, 230)))  # ten withdrawn, thirty new
    version = articles.run(conf)
    after = rows(conf)
    assert all(after[pubid]["number"] == row["number"] for pubid, row in before.items() if pubid in after)
    new = sorted(row["number"] for pubid, row in after.items() if pubid not in before and row["split"] == "train")
    assert new == list(range(len(dense), len(dense) + len(new)))
    assert version.counts["numbers"][0] == len(dense) + len(new)


def test_a_larger_limit_only_adds(settled: Settle, tmp_path: Path):
    found = []
    for limit in (50, 120, 0):
        conf = settled(f"articles.limit={limit}", f"lake.root={tmp_path / str(limit)}")
        counts = articles.run(conf).counts
        assert counts["articles"] == (limit or 300)
        assert counts["beyond_limit"] == 300 - counts["articles"]
        found.append(set(rows(conf)))
    assert found[0] < found[1] < found[2]


def test_nothing_new_is_nothing_to_do_and_a_touched_source_is_read_again(tmp_path: Path, settled: Settle):
    source = write_articles(tmp_path / "source/all.parquet", records(*range(50)))
    conf = settled(f"articles.source={source.parent}")
    first = articles.run(conf)
    assert articles.run(conf).id == first.id
    write_articles(source.parent / "more.parquet", records(51))
    assert articles.run(conf).counts["articles"] == 51


def test_no_good_article_is_an_error_and_nothing_is_published(tmp_path: Path, settled: Settle):
    source = tmp_path / "source.jsonl"
    source.write_text('{"pubid": 1, "question": " ", "context": {"contexts": ["p"]}}\n' * 3)
    conf = settled(f"articles.source={source}")
    with pytest.raises(InputError, match=r"no article is left of 3 records of .*; reasons: 3 no question$"):
        articles.run(conf)
    assert tables.storage(conf.lake, schemas.ARTICLES).list() == []


def test_a_folder_without_data_is_a_clear_error(tmp_path: Path, settled: Settle):
    with pytest.raises(InputError, match="no Parquet or JSON Lines file is there"):
        articles.run(settled(f"articles.source={tmp_path}/nothing"))
