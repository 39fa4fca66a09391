"""lake.format = "iceberg": the catalog holds what the lake's versions hold, each under its tag, whatever comes between.

In a process of its own for each line of Spark (see the Makefile), since a session has Iceberg from its start or not at all.
"""

import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pyspark
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention
from werkzeug.serving import WSGIRequestHandler

from conftest import ROOT, Settle, article, python, write_articles
from raft_spark import config
from raft_spark.errors import CatalogError, ConfigError, InputError
from raft_spark.lake import browse, dataframes, iceberg, parquet, schemas, session, tables
from raft_spark.lake.filesystem import Storage
from raft_spark.stages import refresh, registry, retention, runner
from support.iceberg_lake import holds, iceberg_config, in_catalog, listed, name, with_iceberg
from support.template import GLUE

pytestmark = pytest.mark.spark
ROWS = 120


@pytest.fixture
def conf(settled: Settle, tmp_path: Path, fake: config.Endpoint) -> config.Config:
    return iceberg_config(settled, tmp_path / "source", fake)


def in_glue(conf: config.Config, address: str) -> config.Config:
    """Keep the catalog in Glue and its files in S3, reached as on EMR but for where they are."""
    given = {
        "catalog-impl": "org.apache.iceberg.aws.glue.GlueCatalog",
        "io-impl": "org.apache.iceberg.aws.s3.S3FileIO",
        "warehouse": "s3://lake/warehouse",
        "client.region": "us-east-1",
        "glue.endpoint": address,
        "s3.endpoint": address,
        "s3.path-style-access": "true",
    }
    spark = {f"spark.sql.catalog.{conf.lake.catalog}.{key}": value for key, value in given.items()}
    return conf.model_copy(update={"spark": conf.spark | spark})


def write(conf: config.Config, pubids: range, said: str = "it said") -> None:
    """Lay down a source with an article a pubid; what the first one says may change."""
    records = [
        article(pubid, [f"Passage {pubid} says what {said if pubid == pubids[0] else 'it said'}."]) for pubid in pubids
    ]
    write_articles(Path(conf.articles.source) / "rows.parquet", records)


def made(conf: config.Config) -> str:
    """Run the first stage alone; return the version it made."""
    return runner.run(registry.ARTICLES, conf).id


def tags(conf: config.Config, table: str) -> set[str]:
    rows = session.start(conf).table(f"{name(conf, table)}.refs").where("type = 'TAG'").collect()
    return {row.name for row in rows}


def written(conf: config.Config, table: str) -> dict[str, int]:
    """Return what the newest snapshot of a table says of itself."""
    newest = session.start(conf).table(f"{name(conf, table)}.snapshots").orderBy(F.desc("committed_at")).first()
    return {key: int(value) for key, value in newest.summary.items() if value.isdecimal()}


@pytest.mark.parametrize("kind", ["folder", "glue"])
def test_a_refresh_writes_the_rows_that_changed_and_old_versions_stay_to_be_read_and_to_go_back_to(
    conf: config.Config, s3: str, kind: str, monkeypatch: pytest.MonkeyPatch
):
    if kind == "glue":
        boto3.client("glue", endpoint_url=s3).create_database(DatabaseInput={"Name": conf.lake.namespace})
        conf = in_glue(conf, s3)
    asked: set[str] = set()
    record = lambda handler, *_: asked.add(handler.headers.get("X-Amz-Target", "").partition("AWSGlue.")[2])  # noqa: E731 - a line
    monkeypatch.setattr(WSGIRequestHandler, "log_request", record)
    write(conf, range(ROWS))
    first = refresh.run(conf)
    assert holds(conf)

    write(conf, range(ROWS + 1), "it did not say")
    second = refresh.run(conf)
    assert holds(conf)
    base = second.changes[schemas.BASE]
    rows = written(conf, schemas.ARTICLES)
    assert (rows["added-records"], rows["added-position-deletes"]) == (2, 1)
    rows = written(conf, schemas.BASE)
    assert (rows["added-records"], rows["added-position-deletes"]) == (base.changed + base.new, base.changed)
    assert base.changed < ROWS / 2
    assert written(conf, schemas.COMPLETIONS)["added-records"] == 2

    old = tables.load(conf.lake, schemas.BASE, first.after[schemas.BASE])
    before = listed(dataframes.read(session.start(conf), conf.lake, old))
    assert listed(in_catalog(conf, schemas.BASE, old.id)) == before != listed(in_catalog(conf, schemas.BASE))

    retention.roll_back(conf.lake, first.after[schemas.DATASET])
    iceberg.sync(conf)
    assert holds(conf)
    assert listed(in_catalog(conf, schemas.BASE)) == before
    assert tags(conf, schemas.BASE) == {first.after[schemas.BASE], second.after[schemas.BASE]}
    assert asked - {""} == (set(GLUE) if kind == "glue" else set())


def test_versions_that_expire_go_from_the_catalog_with_their_files_and_what_others_tagged_stays(conf: config.Config):
    write(conf, range(ROWS))
    first = made(conf)
    write(conf, range(5, ROWS), "nothing")
    second = made(conf)
    session.start(conf).sql(f"ALTER TABLE {name(conf, schemas.ARTICLES)} CREATE TAG audit")
    write(conf, range(6, ROWS), "something")
    third = made(conf)
    short = conf.model_copy(update={"lake": conf.lake.model_copy(update={"keep_versions": 1, "keep_days": 0.0})})
    assert retention.expire(short.lake) == [first, second]
    iceberg.sync(short)
    assert tags(short, schemas.ARTICLES) == {third, "audit"}
    assert holds(short)
    assert in_catalog(short, schemas.ARTICLES, "audit").count() == ROWS - 5
    snapshots = list(Path(conf.lake.root, "iceberg", conf.lake.namespace, "articles/metadata").glob("snap-*.avro"))
    assert len(snapshots) == 2


def test_a_catalog_that_crashes_left_behind_is_brought_up_to_date_by_the_next_run_with_nothing_to_do(
    conf: config.Config, monkeypatch: pytest.MonkeyPatch
):
    class Crash(BaseException):
        pass

    def crash(*_: object) -> None:
        raise Crash

    write(conf, range(ROWS))
    for step in ("_create", "_merge", "_alter"):
        with monkeypatch.context() as patched:
            patched.setattr(iceberg._CatalogTable, step, crash)
            with pytest.raises(Crash):
                made(conf)
    version = made(conf)
    assert tables.history(conf.lake, schemas.ARTICLES) == [tables.load(conf.lake, schemas.ARTICLES, version)]
    assert holds(conf)
    monkeypatch.setattr(
        iceberg, "_update_tables", lambda *_: pytest.fail("the catalog was asked, and there is nothing to do")
    )
    assert made(conf) == version


def test_one_who_comes_late_with_an_older_version_does_not_stay_the_last_and_takes_no_tag_away(conf: config.Config):
    write(conf, range(ROWS))
    first = made(conf)
    late = iceberg._state(conf.lake)
    write(conf, range(1, ROWS))
    second = made(conf)
    iceberg._update_tables(session.start(conf), conf.lake, late)
    assert not holds(conf)
    Storage.of(conf.lake).delete(iceberg.STATE_FILE)  # the late one had taken it away before
    iceberg.sync(conf)
    assert holds(conf)
    assert tags(conf, schemas.ARTICLES) == {first, second}


def test_a_commit_of_another_does_not_get_in_the_way(conf: config.Config, monkeypatch: pytest.MonkeyPatch):
    write(conf, range(ROWS))
    made(conf)
    merged, calls = iceberg._CatalogTable._merge, []
    slowly = F.udf(lambda: time.sleep(0.1) is None, "boolean").asNondeterministic()

    def overtaken(table: iceberg._CatalogTable, version: str, rows: DataFrame) -> None:
        """Let another delete a row while the merge runs."""
        calls.append(table.table)
        with ThreadPoolExecutor() as pool:
            there = table.spark.table(table.name).where("pubid <> 9")
            other = pool.submit(lambda: (time.sleep(2), there.writeTo(table.name).overwrite(F.expr("true"))))
            try:
                merged(table, version, rows.where(slowly()))
            finally:
                other.result()

    monkeypatch.setattr(iceberg._CatalogTable, "_merge", overtaken)
    write(conf, range(1, ROWS + 3))
    made(conf)
    assert calls == [schemas.ARTICLES]
    assert holds(conf)


def test_a_table_that_another_has_made_a_moment_before_is_looked_at_again(
    conf: config.Config, monkeypatch: pytest.MonkeyPatch
):
    made_table = iceberg._CatalogTable._create
    monkeypatch.setattr(iceberg._CatalogTable, "_create", lambda *given: (made_table(*given), made_table(*given)))
    write(conf, range(ROWS))
    made(conf)
    assert holds(conf)


def test_a_branch_is_no_matter_of_the_catalog(conf: config.Config):
    trial = conf.model_copy(update={"lake": conf.lake.model_copy(update={"branch": "trial"})})
    write(conf, range(3, ROWS))
    made(trial)
    assert not session.start(conf).catalog.tableExists(name(conf, schemas.ARTICLES))


def test_a_table_of_another_lake_is_not_touched(conf: config.Config):
    spark = session.start(conf)
    spark.sql(f"CREATE TABLE {name(conf, schemas.ARTICLES)} (theirs int) USING iceberg")
    write(conf, range(ROWS))
    with pytest.raises(InputError, match=r"articles belongs to no lake of raft-spark.*choose another lake\.namespace"):
        made(conf)
    assert spark.table(name(conf, schemas.ARTICLES)).columns == ["theirs"]


def test_a_column_that_comes_later_is_added_and_old_versions_are_read_without_it(
    conf: config.Config, monkeypatch: pytest.MonkeyPatch
):
    write(conf, range(ROWS))
    first = made(conf)
    wider = schemas.SCHEMAS[schemas.ARTICLES].append(parquet.pa.field("journal", parquet.pa.string()))
    monkeypatch.setitem(schemas.SCHEMAS, schemas.ARTICLES, wider)  # type: ignore[arg-type]
    old = tables.load(conf.lake, schemas.ARTICLES, first)
    assert browse.head(conf.lake, old, 1)[0]["journal"] is None
    assert browse.first_row(conf.lake, old, 7)["journal"] is None
    assert parquet.read_row_group(tables.row_groups(conf.lake, old)[0], ["journal", "pubid"]).column_names == [
        "journal",
        "pubid",
    ]
    assert dataframes.read(session.start(conf), conf.lake, old).where("journal IS NULL").count() == ROWS
    second = _with_a_journal(conf, old, wider)
    iceberg.sync(conf)
    now = in_catalog(conf, schemas.ARTICLES)
    assert now.where("journal = 'BMJ'").count() == ROWS
    assert "journal" not in in_catalog(conf, schemas.ARTICLES, first).columns
    assert browse.first_row(conf.lake, old, 7)["pubid"] == 7
    assert browse.head(conf.lake, second, 1)[0]["journal"] == "BMJ"


def test_fields_inside_of_documents_are_added_to_the_table_of_an_earlier_release(conf: config.Config):
    conf = conf.model_copy(
        update={"articles": conf.articles.model_copy(update={"validation_share": 0.0, "test_share": 0.0})}
    )
    write(conf, range(ROWS))
    made(conf)
    runner.run(registry.BASE, conf)
    spark = session.start(conf)
    for path in ("documents.element.method", "documents.element.rank", "documents.element.score", "second_oracles"):
        spark.sql(f"ALTER TABLE {name(conf, schemas.BASE)} DROP COLUMN {path}")
    near = conf.base.model_copy(update={"distractors_from": {"bm25": 1.0}})
    later = conf.model_copy(update={"base": near})
    runner.run(registry.BASE, later)
    rows = in_catalog(later, schemas.BASE)
    assert rows.selectExpr("inline(documents)").where("method = 'bm25' AND score > 0 AND rank > 0").count() > ROWS
    assert holds(later)


def _with_a_journal(conf: config.Config, old: tables.Version, schema: parquet.pa.Schema) -> tables.Version:
    """Publish the articles again, each with its journal."""
    draft = tables.open_draft(conf.lake, schemas.ARTICLES, "0123456789abcdef")
    files = []
    for number, piece in enumerate(tables.row_groups(conf.lake, old)):
        rows = parquet.read_row_group(piece)
        rows = rows.append_column(schema.field("journal"), [["BMJ"] * rows.num_rows])
        files.append(parquet.write_file(draft.storage, f"data/split={piece['split']}/part-{number:05d}.parquet", rows))
    return tables.publish(draft, conf, files, {}, old.counts)


def test_a_catalog_that_does_not_answer_ends_the_run_before_anything_is_written(settled: Settle, tmp_path: Path):
    at = f"catalog_{tmp_path.name}".replace("-", "_").lower()
    wrong = f'spark."spark.sql.catalog.{at}.type"="nonsense"'
    conf = settled(*with_iceberg(), "lake.format=iceberg", f"lake.catalog={at}", wrong)
    with pytest.raises(ConfigError, match=f"catalog '{at}' does not answer: .*nonsense.* check the jar of Iceberg"):
        refresh.run(conf)
    assert not Path(conf.lake.root, schemas.ARTICLES).exists()


def test_a_lake_in_s3_needs_a_catalog_that_is_named(settled: Settle, s3: str):
    conf = settled(
        "lake.root=s3://lake/nameless", f"lake.s3_endpoint={s3}", "lake.format=iceberg", "lake.catalog=nameless"
    )
    with pytest.raises(ConfigError, match=r"\[spark\] does not define catalog 'nameless'"):
        session.start(conf)


def test_a_tag_names_its_own_version_also_where_another_was_faster(
    conf: config.Config, monkeypatch: pytest.MonkeyPatch
):
    write(conf, range(ROWS))
    first = made(conf)
    run, newer = SparkSession.sql, []

    def overtaken(spark: SparkSession, query: str, **more: Any) -> DataFrame:
        """Let another publish, and be followed, right after the merge of the second version."""
        done = run(spark, query, **more)
        if query.startswith("MERGE"):
            monkeypatch.undo()
            write(conf, range(2, ROWS))
            newer.append(made(conf))
        return done

    write(conf, range(1, ROWS))
    monkeypatch.setattr(SparkSession, "sql", overtaken)
    second = made(conf)
    assert holds(conf)
    spark = session.start(conf)
    for version in (first, second, *newer):
        rows = dataframes.read(spark, conf.lake, tables.load(conf.lake, schemas.ARTICLES, version))
        assert listed(in_catalog(conf, schemas.ARTICLES, version)) == listed(rows), version


class Crash(BaseException):
    """The process is gone."""


def test_a_crash_between_any_two_steps_leaves_readers_what_they_had_and_is_mended_by_the_next_run(
    conf: config.Config, monkeypatch: pytest.MonkeyPatch
):
    write(conf, range(ROWS))
    made(conf)
    run = SparkSession.sql
    for number, step in enumerate(("MERGE", "TAG", "DROP BRANCH", "set_current_snapshot")):
        before = listed(in_catalog(conf, schemas.ARTICLES))
        write(conf, range(number + 1, ROWS))

        def crashing(spark: SparkSession, query: str, step: str = step, **more: Any) -> DataFrame:
            if step in query:
                raise Crash
            return run(spark, query, **more)

        with monkeypatch.context() as patch:
            patch.setattr(SparkSession, "sql", crashing)
            with pytest.raises(Crash):
                made(conf)
        assert listed(in_catalog(conf, schemas.ARTICLES)) == before
        made(conf)
        assert holds(conf)
    assert len(branches(conf)) == 1 + 3
    swept = conf.model_copy(update={"lake": conf.lake.model_copy(update={"sweep_after_hours": 0.0})})
    write(conf, range(ROWS + 1))
    made(swept)
    assert branches(conf) == {"main"}


def branches(conf: config.Config) -> set[str]:
    rows = session.start(conf).table(f"{name(conf, schemas.ARTICLES)}.refs").where("type = 'BRANCH'").collect()
    return {row.name for row in rows}


def test_files_that_an_optimizer_has_laid_together_stay_so(conf: config.Config):
    write(conf, range(ROWS))
    made(conf)
    write(conf, range(1, ROWS))
    made(conf)
    table = f"'{conf.lake.namespace}.{schemas.ARTICLES}', options => map('rewrite-all', 'true')"
    session.start(conf).sql(f"CALL {conf.lake.catalog}.system.rewrite_data_files(table => {table})")
    rewritten = written(conf, schemas.ARTICLES)
    Storage.of(conf.lake).delete(iceberg.STATE_FILE)
    iceberg.sync(conf)
    refs = iceberg._CatalogTable(session.start(conf), conf.lake, schemas.ARTICLES)._references()
    assert refs["main"] not in {refs[tag] for tag in tags(conf, schemas.ARTICLES)}
    assert rewritten["deleted-data-files"] > 0
    assert holds(conf)


def test_a_catalog_that_fails_at_last_is_an_error_of_its_own_and_followed_by_the_next_run(conf: config.Config):
    write(conf, range(ROWS))
    made(conf)
    files = [*Path(conf.lake.root, "iceberg").glob(f"{conf.lake.namespace}/articles/data/**/*.parquet")]
    for file in files:
        file.rename(file.with_suffix(".away"))
    write(conf, range(1, ROWS))
    with pytest.raises(
        CatalogError,
        match=r"the lake is published, but its catalog .* could not be updated: .*; the next run of any stage updates it",
    ):
        made(conf)
    for file in files:
        file.with_suffix(".away").rename(file)
    made(conf)
    assert holds(conf)


@pytest.mark.slow
def test_a_release_that_adds_columns_goes_on_in_the_lake_and_catalog_of_the_one_before(tmp_path: Path):
    root = str(tmp_path / "lake")
    assert walked(ROOT, root, "articles.source=sample:240") == {
        "columns": {"articles": 10, "base": 9, "completions": 17},
        "versions": {"articles": 1, "base": 1, "completions": 1},
    }
    assert walked(next_release(tmp_path / "next"), root, "articles.source=sample:250") == {
        "columns": {"articles": 11, "base": 10, "completions": 18},
        "versions": {"articles": 2, "base": 2, "completions": 2},
    }


def walked(package: Path, *settings: str) -> dict[str, Any]:
    """Walk, or refresh, with the package of a folder."""
    basis = ["lake.format=iceberg", "completions.endpoint=fake", 'spark."spark.driver.memory"="1g"', *with_iceberg()]
    given = [part for one in (f"lake.root={settings[0]}", *settings[1:], *basis) for part in ("--set", one)]
    paths = f"{package}:{os.environ.get('PYTHONPATH', '')}"
    done = python("integration/walk_catalog.py", *given, spark=pyspark.__version__, PYTHONPATH=paths)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def next_release(folder: Path) -> Path:
    """Copy the package, and add a column to each table."""
    for part in ("raft_spark", "conf"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file, was, more in (
        ("lake/schemas.py", '            ("fingerprint", pa.string()),\n', '("journal", pa.string()),'),
        ("lake/schemas.py", '            ("second_oracles", pa.int32()),\n', '("note", pa.string()),'),
        ("lake/schemas.py", '            ("max_tokens", pa.int32()),\n', '("region", pa.string()),'),
        ("stages/base.py", '            articles["final_decision"],\n            pa.array(draws.second_oracles.astype(np.int32)),\n', "pa.nulls(len(articles), pa.string()),"),
        ("__init__.py", '__version__ = "', "9."),
    ):  # fmt: skip
        text = (folder / "raft_spark" / file).read_text()
        assert text.count(was) == 1
        (folder / "raft_spark" / file).write_text(text.replace(was, was + more))
    return folder
