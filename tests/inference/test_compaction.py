"""Small files of the answer store become large ones: no row is lost or doubled, whatever was interrupted."""

import datetime as dt
import uuid
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import Settle
from raft_spark import config
from raft_spark.errors import InputError
from raft_spark.inference import compaction
from raft_spark.inference.compaction import group_files
from raft_spark.lake import browse, dataframes, parquet, schemas, session, tables
from raft_spark.lake.filesystem import Storage

RUN = "20261122T173500Z-0a1b2c3d-4e5f"


def small(at: Storage, pubids: Sequence[int], day: str = "2026-11-22", *, columns: int = 15) -> str:
    """Store answers as a task does, with the first `columns` columns; return the file's path."""
    schema = schemas.SCHEMAS[schemas.COMPLETIONS]
    now = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)
    rows = [
        {"key": f"{pubid:032x}", "pubid": pubid, "completion": f"answer {pubid}", "created_at": now} for pubid in pubids
    ]
    table = pa.Table.from_pylist(rows, schema).select(schema.names[:columns])
    path = f"data/day={day}/{RUN}-p00003-{uuid.uuid4().hex}-{len(pubids)}-0.parquet"
    return parquet.write_file(at, path, table).path


def of_size(at: Storage, name: str, size: int) -> str:
    at.write(f"data/{name}", b"x" * size)
    return f"data/{name}"


# Groups


@pytest.mark.row
def test_files_of_a_day_are_joined_in_order_to_about_the_size_wanted(tmp_path):
    at = Storage(str(tmp_path))
    a, b, c, d = (of_size(at, f"day=2026-11-21/{name}.parquet", 40) for name in "abcd")
    next_day = of_size(at, "day=2026-11-22/a.parquet", 10)
    assert group_files(at, set(), 100) == [
        {"folder": "data/day=2026-11-21", "paths": [a, b], "rows": 80},
        {"folder": "data/day=2026-11-21", "paths": [c, d], "rows": 80},
        {"folder": "data/day=2026-11-22", "paths": [next_day], "rows": 10},
    ]


@pytest.mark.row
def test_a_file_larger_than_wanted_stays_alone(tmp_path):
    at = Storage(str(tmp_path))
    paths = [of_size(at, f"day=2026-11-21/{name}.parquet", size) for name, size in (("a", 10), ("b", 500), ("c", 10))]
    assert [group["paths"] for group in group_files(at, set(), 100)] == [[path] for path in paths]


@pytest.mark.row
def test_what_a_version_lists_and_what_is_being_written_is_left_alone(tmp_path):
    at = Storage(str(tmp_path))
    listed, new = (of_size(at, f"day=2026-11-21/{name}.parquet", 10) for name in "ab")
    of_size(at, "day=2026-11-21/.half.tmp", 10)
    assert [group["paths"] for group in group_files(at, {listed}, 100)] == [[new]]
    assert group_files(at, {listed, new}, 100) == []


@pytest.mark.row
def test_what_a_run_joined_but_could_not_publish_is_a_copy_and_not_joined_again(tmp_path):
    at = Storage(str(tmp_path))
    path = small(at, [1])
    of_size(at, f"day=2026-11-22/{RUN}-00000.parquet", 10)
    assert [group["paths"] for group in group_files(at, set(), 100_000)] == [[path]]


@pytest.mark.row
def test_a_store_of_nothing_has_no_groups(tmp_path):
    assert group_files(Storage(str(tmp_path)), set(), 100) == []


# On Spark


def published(conf: config.Config, identity: str) -> tables.Version:
    new = tables.open_draft(conf.lake, schemas.COMPLETIONS, identity)
    return compaction.publish(session.start(conf), new, conf, {}, {})


def pubids(conf: config.Config, version: tables.Version) -> list[int]:
    return sorted(row.pubid for row in dataframes.read(session.start(conf), conf.lake, version).collect())


def names(at: Storage, folder: str) -> set[str]:
    return {f"{folder}/{file.path}" for file in at.at(folder).list()}


@pytest.mark.spark
def test_small_files_become_versions_that_stay_readable_whatever_was_interrupted(settled: Settle):
    """One test for several steps, because a session is slow to start: publish beside a reader, add answers, lose against
    another run, publish, and delete what was merged long ago.
    """
    conf = settled()
    spark = session.start(conf)
    at = tables.storage(conf.lake, schemas.COMPLETIONS)
    first_files = [small(at, [1, 2]), small(at, [3], columns=13), small(at, [4], day="2026-11-23")]
    running = dataframes.stored_answers(spark, conf.lake)  # of a reader that has listed the small files

    first = published(conf, "first")
    assert pubids(conf, first) == [1, 2, 3, 4]
    assert [file.rows for file in first.files] == [3, 1]
    assert {file.path for file in first.files} == names(at, "merged")
    (merged, _) = first.files
    rows = pq.read_table(pa.BufferReader(at.read(merged.path))).sort_by("pubid").to_pylist()
    assert [row["completion"] for row in rows] == ["answer 1", "answer 2", "answer 3"]
    assert [row["max_tokens"] for row in rows] == [None, None, None]
    assert set(first.merged_from) == set(first_files)
    assert sorted(row.pubid for row in running.collect()) == [1, 2, 3, 4]
    assert in_store(conf) == [1, 2, 3, 4]
    assert browse.rows_folder(conf.lake, first) == at.path("merged")

    small(at, [5])
    second = published(conf, "second")
    assert pubids(conf, second) == in_store(conf) == [1, 2, 3, 4, 5]
    assert pubids(conf, first) == [1, 2, 3, 4]
    assert {file.path for file in second.files} == names(at, "merged")
    assert sorted(row.pubid for row in running.collect()) == [1, 2, 3, 4]

    late = tables.open_draft(conf.lake, schemas.COMPLETIONS, "late")
    second = published(conf, "faster")  # by another run
    late_files = {small(at, [6]), small(at, [7])}
    with pytest.raises(InputError, match="another run"):
        compaction.publish(spark, late, conf, {}, {})
    lost = tables.load(conf.lake, schemas.COMPLETIONS, late.id)
    third = published(conf, "third")
    assert pubids(conf, third) == [1, 2, 3, 4, 5, 6, 7]
    assert pubids(conf, lost) == [1, 2, 3, 4, 5, 6, 7]
    assert set(in_store(conf)) == {1, 2, 3, 4, 5, 6, 7}
    assert [file.rows for file in third.files if file not in second.files] == [2]
    assert names(at, "data") == set(first_files) | set(second.merged_from) | late_files

    at.delete(f"versions/{third.id}/manifest.json")  # as a person does whose manifest is damaged
    assert set(pubids(conf, published(conf, "again"))) == {1, 2, 3, 4, 5, 6, 7}

    impatient = conf.model_copy(update={"lake": conf.lake.model_copy(update={"sweep_after_hours": 0.0})})
    fourth = published(impatient, "fourth")
    assert pubids(conf, fourth) == [1, 2, 3, 4, 5, 6, 7]
    assert names(at, "data") == set()
    assert fourth.merged_from == {}


@pytest.mark.spark
def test_a_store_whose_merged_files_lie_among_the_small_ones_is_continued(settled: Settle):
    conf = settled()
    at = tables.storage(conf.lake, schemas.COMPLETIONS)
    old = small(at, [1, 2])
    at.write(f"data/day=2026-11-22/{RUN}-00000.parquet", at.read(old) or b"")
    at.delete(old)
    new = tables.open_draft(conf.lake, schemas.COMPLETIONS, "before")
    file = parquet.describe(
        Path(at.path(f"data/day=2026-11-22/{RUN}-00000.parquet")), f"data/day=2026-11-22/{RUN}-00000.parquet"
    )
    first = tables.publish(new, conf, [file], {}, {})
    manifest = f"versions/{first.id}/manifest.json"
    text = (at.read(manifest) or b"").decode().replace('"merged_from": {}', f'"merged_from": ["{old}"]')
    at.write(manifest, text.encode())
    small(at, [3], day="2026-11-23")
    second = published(conf, "second")
    assert pubids(conf, second) == in_store(conf) == [1, 2, 3]
    days = {row.pubid: row.day for row in dataframes.read(session.start(conf), conf.lake, second).collect()}
    assert days == {1: "2026-11-22", 2: "2026-11-22", 3: "2026-11-23"}
    assert browse.rows_folder(conf.lake, second) == at.path("data")


def in_store(conf: config.Config) -> list[int]:
    return sorted(row.pubid for row in dataframes.stored_answers(session.start(conf), conf.lake).collect())
