"""PubMedQA -> articles on a real Spark: bad records go to quarantine with a reason, sums agree, numbers stay."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import Settle, article, write_articles
from raft_spark import config
from raft_spark.errors import InputError
from raft_spark.lake import browse, parquet, schemas, tables
from raft_spark.sources import huggingface
from raft_spark.stages import articles, refresh, registry

pytestmark = pytest.mark.spark


def rows(conf: config.Config) -> dict[int, dict[str, object]]:
    version = tables.require(conf.lake, schemas.ARTICLES)
    found = [
        {**row, "split": piece["split"]}
        for piece in tables.row_groups(conf.lake, version)
        for row in parquet.read_row_group(piece).to_pylist()
    ]
    return {row["pubid"]: row for row in found}


def test_files_of_the_hub_give_the_same_articles_whenever_they_arrive(
    tmp_path: Path, settled: Settle, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(huggingface, "revision", lambda _source: "1f2e")
    copy = tmp_path / "lake/sources/hf-own-data-all/1f2e"
    names = [f"part-{number:05d}.parquet" for number in range(3)]
    for number, name in enumerate(names):
        write_articles(copy / name, records(*range(90 * number, 90 * number + 100)))
    found = []
    for waves in ([names], [names[:1], names[1:]], [[name] for name in names]):
        monkeypatch.setattr(huggingface, "copied", lambda *_, waves=waves: iter(waves))
        conf = settled("articles.source=hf:own/data/all", "lake.row_group_rows=20")
        tables.storage(conf.lake, schemas.ARTICLES).delete("")
        found.append(articles.run(conf))
    assert found[0].counts["read"] == 300
    assert found[0].counts["duplicates"] == 20
    assert found[0].files == found[1].files == found[2].files


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


@pytest.mark.parametrize("stage", [articles.run, refresh.run])
def test_too_many_records_in_quarantine_are_an_error_that_names_them_and_nothing_is_published(
    tmp_path: Path, settled: Settle, stage: Callable[[config.Config], object]
):
    bad = [{**article(pubid, ["p"]), "question": None} for pubid in range(1_000, 1_011)]
    source = write_articles(tmp_path / "source/a.parquet", [*records(*range(40)), *bad])
    conf = settled(f"articles.source={source.parent}")
    with pytest.raises(InputError) as caught:
        stage(conf)
    assert str(caught.value) == (
        f"11 of 51 records of {source.parent} (21.6 %) are in quarantine, more than articles.max_quarantined_share = 0.2; "
        "nothing was published. Reasons: 11 no question. Correct the source, or raise the setting to go on without these records"
    )
    assert tables.current(conf.lake, schemas.ARTICLES) is None


def test_a_larger_bound_lets_them_pass_and_leaves_the_table_as_it_would_be(tmp_path: Path, settled: Settle):
    bad = [{**article(pubid, ["p"]), "question": None} for pubid in range(1_000, 1_011)]
    source = write_articles(tmp_path / "source/a.parquet", [*records(*range(40)), *bad])
    (source.parent / "notes.csv").write_text("pubid\n")
    conf = settled(f"articles.source={source.parent}", "articles.max_quarantined_share=0.25")
    version = articles.run(conf)
    assert version.counts["ignored_files"] == "notes.csv"
    assert registry.ARTICLES.describe(version.counts) == (
        "40 articles of 51 records; left out: 11 of 51, 21.6 % (11 no question); not read: files of other endings (notes.csv)"
    )
    assert (
        articles.run(settled(f"articles.source={source.parent}", "articles.max_quarantined_share=0.9")).id == version.id
    )


def test_held_out_articles_are_in_test_with_the_passages_they_share(tmp_path: Path, settled: Settle):
    shared = [article(pubid, ["The trial enrolled forty men and followed them for two years."]) for pubid in (7, 900)]
    others = (pubid for pubid in range(60) if pubid != 7)
    source = write_articles(tmp_path / "a.parquet", [*records(*others), *shared])
    (tmp_path / "ids.txt").write_text("7\n9\n123456\n")
    conf = settled(
        f"articles.source={source}",
        f"articles.holdout={tmp_path}/ids.txt",
        "articles.test_share=0",
        "articles.validation_share=0",
    )
    version = articles.run(conf)
    assert version.counts["splits"] == {"train": 58, "validation": 0, "test": 2}
    assert version.counts["holdout"] == {"pubids": 3, "found": 2}
    assert {pubid: row["split"] for pubid, row in rows(conf).items() if pubid in (7, 8, 9, 900)} == {
        7: "test",
        8: "train",
        9: "test",
    }
    assert version.counts["reasons"] == {"the question or a passage stands in a held-out split too": 1}
    (tmp_path / "ids.txt").write_text("8\n")
    assert articles.run(conf).counts["splits"] == {"train": 60, "validation": 0, "test": 1}
    (tmp_path / "ids.txt").write_text("1000\n1001\n")
    with pytest.raises(
        InputError, match=r"ids.txt': none of its 2 pubids is in .*a\.parquet; it must name articles of the source$"
    ):
        articles.run(conf)
    with pytest.raises(InputError, match=r"'pubmedqa-test': none of its 500 .*; .* labelled ones: hf:.*/pqa_labeled$"):
        articles.run(settled(f"articles.source={source}", "articles.holdout=pubmedqa-test"))


def test_shards_that_differ_and_a_document_beside_lines_are_one_table(tmp_path: Path, settled: Settle):
    found = records(*range(60))
    whole = pa.Table.from_pylist(found)
    source = tmp_path / "named [v2]"
    source.mkdir()
    pq.write_table(whole.slice(0, 20).select(["context", "question", "pubid"]), source / "a-0.parquet")
    pq.write_table(
        whole.slice(20, 20).set_column(0, "pubid", pa.array(range(20, 40), pa.int32())), source / "a-1.parquet"
    )
    keyed = {str(each["pubid"]): {**each["context"], "QUESTION": each["question"]} for each in found[40:]}  # type: ignore[dict-item]
    (source / "b.json").write_text(json.dumps(keyed, indent=1))
    conf = settled(f"articles.source={source}")
    counts = articles.run(conf).counts
    assert (counts["read"], counts["articles"], counts["quarantined"]) == (60, 60, 0)
    assert rows(conf)[41]["passages"] == ["Trial 41 had 41 patients.", "Arm 41 did well."]
    assert [rows(conf)[pubid]["long_answer"] for pubid in (1, 21, 41)] == [None, "It does.", None]


def test_a_document_that_is_no_json_ends_the_stage_with_its_line(tmp_path: Path, settled: Settle):
    (tmp_path / "a.json").write_text(json.dumps(records(*range(30)), indent=1)[:-9])
    conf = settled(f"articles.source={tmp_path}/a.json")
    with pytest.raises(InputError, match=r"a\.json is no JSON: it is cut off at line \d+; it must be JSON Lines"):
        articles.run(conf)
    assert tables.current(conf.lake, schemas.ARTICLES) is None


def test_a_folder_without_data_is_a_clear_error(tmp_path: Path, settled: Settle):
    with pytest.raises(InputError, match="no Parquet or JSON file is there"):
        articles.run(settled(f"articles.source={tmp_path}/nothing"))
