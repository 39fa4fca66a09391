"""The gates of a refresh: on numbers by hand, and on rows of real versions."""

import dataclasses
from pathlib import Path

import pyarrow as pa
import pytest

from conftest import Make, Settle
from raft_spark import config
from raft_spark.lake import dataframes, parquet, schemas, session, tables
from raft_spark.recipe import leakage
from raft_spark.stages import articles, base, gates
from raft_spark.stages.gates import Changes, GateResult


def named(found: list[GateResult], part: str) -> GateResult:
    (gate,) = (gate for gate in found if part in gate.name)
    return gate


@pytest.mark.row
def test_a_number_at_either_end_of_its_range_passes_and_nan_does_not():
    assert GateResult("x", 0.2, 0, 0.2).passed
    assert not GateResult("x", 0.21, 0, 0.2).passed
    assert not GateResult("x", float("nan"), 0, 1).passed
    assert str(GateResult("share of x", 0.25, 0, 0.2)) == "share of x is 0.25, it must be in 0..0.2"


@pytest.mark.row
def test_changes_are_shares_of_the_previous_version():
    conf = config.load(assignments=["refresh.max_withdrawn_share=0.1", "refresh.max_changed_share=0.3"]).refresh
    grown = Changes(new=1_000, changed=0, withdrawn=10, same=90)
    rows = Changes(new=1_000, changed=31, withdrawn=0, same=69)
    withdrawn, changed = gates.check_changes(grown, rows, conf)
    assert (withdrawn.found, withdrawn.passed) == (0.1, True)
    assert (changed.found, changed.passed) == (0.31, False)
    assert all(gate.passed for gate in gates.check_changes(Changes(5, 0, 0, 0), Changes(5, 0, 0, 0), conf))


@pytest.mark.row
@pytest.mark.parametrize(
    ("counted", "area"),
    [
        ([(3, False, 50), (4, False, 50), (3, True, 50), (4, True, 50)], 0.5),  # the same lengths
        ([(3, False, 100), (4, True, 100)], 1.0),  # longer without its oracle, always
        ([(4, False, 100), (3, True, 100)], 0.0),
        ([(3, False, 100), (3, True, 50), (4, True, 50)], 0.75),  # half of the pairs tied, half above
        ([(3, False, 100)], 0.5),  # no row without its oracle
    ],
)
def test_how_well_a_length_predicts_is_the_area_under_the_roc_curve(counted: list[tuple[int, bool, int]], area: float):
    assert gates._length_gate("passages", counted, 0.05).found == pytest.approx(area)


@pytest.mark.row
def test_chance_alone_does_not_fail_a_gate_of_few_rows():
    few = [(3, False, 2), (4, True, 1), (3, True, 1)]
    many = [(length, missing, count * 500) for length, missing, count in few]
    assert gates._length_gate("passages", few, 0.05).passed
    assert not gates._length_gate("passages", many, 0.05).passed


@pytest.mark.row
def test_tables_made_from_other_versions_than_they_are_published_with_are_counted(tmp_path: Path):
    conf = config.load(assignments=[f"lake.root={tmp_path}"])

    def published(table: str, *inputs: tables.Version) -> tables.Version:
        new = tables.open_draft(conf.lake, table, "0" * 16)
        return tables.publish(new, conf, [], {version.table: version for version in inputs}, {})

    old, new = published("articles"), published("articles")
    from_old, from_new = published("base", old), published("base", new)
    dataset = published("dataset", from_new)
    for versions, mixed in (
        ((new, from_new, dataset), 0),
        ((old, from_new, dataset), 1),
        ((old, from_old, dataset), 1),
    ):
        found = gates.check_lineage({version.table: version for version in versions})
        assert (found.found, found.passed) == (mixed, not mixed)


@pytest.fixture
def built(settled: Settle, make: Make) -> tuple[config.Config, dict[str, tables.Version]]:
    conf = settled()
    make(conf, articles, base)
    return conf, {schemas.ARTICLES: articles.run(conf), schemas.BASE: base.run(conf)}


@pytest.mark.spark
def test_what_the_stages_make_passes_and_each_fault_is_named(
    built: tuple[config.Config, dict[str, tables.Version]],
):
    conf, new = built
    spark = session.start(conf)
    found = gates.check_rows(spark, conf, new)
    assert all(gate.passed for gate in found), [str(gate) for gate in found]
    assert len(found) == 10

    lost = {**new[schemas.ARTICLES].counts, "read": 301}
    unlucky = {**new[schemas.BASE].counts, "distracted": dict.fromkeys(schemas.SPLITS, 60)}
    wrong = {
        schemas.ARTICLES: dataclasses.replace(new[schemas.ARTICLES], counts=lost),
        schemas.BASE: dataclasses.replace(new[schemas.BASE], counts=unlucky),
    }
    failed = [gate.name for gate in gates.failed(gates.check_rows(spark, conf, wrong))]
    assert failed == ["records read beyond those accounted for", "share of rows with their oracle"]


@pytest.mark.row
def test_files_with_other_columns_than_their_table_are_counted(tmp_path: Path):
    conf = config.load(assignments=[f"lake.root={tmp_path}"])
    new = tables.open_draft(conf.lake, schemas.BASE, "0" * 16)
    columns = list(schemas.SCHEMAS[schemas.BASE])
    written = {
        "right": pa.schema(columns),
        "of the release before": pa.schema(columns[:-1]),
        "one lost": pa.schema(columns[1:]),
        "wrong": schemas.QUARANTINE,
    }
    files = [
        parquet.write_file(new.storage, f"data/{name}.parquet", schema.empty_table())
        for name, schema in written.items()
    ]
    gate = gates._schema(conf.lake, tables.publish(new, conf, files, {}, {}))
    assert (gate.name, gate.found, gate.passed) == ("files of base with other columns", 2, False)


@pytest.mark.spark
def test_rows_whose_length_predicts_their_missing_oracle_are_found(settled: Settle, make: Make):
    conf = settled("base.absent=nothing")
    make(conf, articles, base)
    leaks = leakage.measure(session.start(conf), conf.lake, base.run(conf))
    passages = named(gates._length_gates(leaks, 0.05), "passages")
    assert not passages.passed
    assert passages.found < 0.1


@pytest.mark.spark
def test_changes_are_counted_row_by_row(settled: Settle):
    few, more = settled("articles.limit=200"), settled("articles.limit=210")
    old = {schemas.ARTICLES: articles.run(few), schemas.BASE: base.run(few)}
    new = {schemas.ARTICLES: articles.run(more), schemas.BASE: base.run(more)}
    spark = session.start(few)
    grown = gates.changes(spark, few.lake, old[schemas.ARTICLES], new[schemas.ARTICLES])
    assert grown == Changes(new=10, changed=0, withdrawn=0, same=200)
    rows = gates.changes(spark, few.lake, old[schemas.BASE], new[schemas.BASE])
    assert (rows.new, rows.withdrawn) == (10, 0)
    assert 0 < rows.changed < 60
    assert rows.changed + rows.same == 200
    shrunk = gates.changes(spark, few.lake, new[schemas.ARTICLES], old[schemas.ARTICLES])
    assert shrunk == Changes(new=0, changed=0, withdrawn=10, same=200)
    assert gates.changes(spark, few.lake, None, old[schemas.ARTICLES]) == Changes(200, 0, 0, 0)


@pytest.mark.spark
def test_a_score_that_moves_with_the_articles_is_no_change(settled: Settle):
    near = "base.distractors_from={bm25=1}"
    few, more = settled("articles.limit=200", near), settled("articles.limit=202", near)
    versions = []
    for conf in (few, more):
        articles.run(conf)
        versions.append(base.run(conf))
    spark = session.start(few)
    old, new = (
        {row.pubid: row.documents for row in dataframes.read(spark, few.lake, version).collect()}
        for version in versions
    )
    shown = {pubid: [(each.pubid, each.passage) for each in documents] for pubid, documents in old.items()}
    same = {pubid for pubid in shown if shown[pubid] == [(each.pubid, each.passage) for each in new[pubid]]}
    assert any(old[pubid] != new[pubid] for pubid in same)
    counted = gates.changes(spark, few.lake, *versions)
    assert (counted.same, counted.changed, counted.new) == (len(same), 200 - len(same), 2)
