"""Versions, the current version and the sweep, on a disk and on an S3 server."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pytest

from raft_spark import config
from raft_spark.errors import InputError
from raft_spark.lake import parquet, schemas, tables
from raft_spark.lake import s3 as s3_module
from raft_spark.lake.filesystem import Storage

ROWS = pa.table(
    {"pubid": [1, 2], "reason": ["a", "b"], "source": ["x", "y"], "record": ["1", "2"]}, schema=schemas.QUARANTINE
)


@pytest.fixture(params=["disk", "s3"])
def conf(request: pytest.FixtureRequest, tmp_path: Path) -> config.Config:
    if request.param == "disk":
        return config.load(assignments=[f"lake.root={tmp_path}", "lake.sweep_after_hours=0"])
    address = request.getfixturevalue("s3")
    root = f"s3://lake/{tmp_path.name}"
    return config.load(assignments=[f"lake.root={root}", f"lake.s3_endpoint={address}", "lake.sweep_after_hours=0"])


def published(conf: config.Config, identity: str = "0" * 16) -> tables.Version:
    new = tables.open_draft(conf.lake, schemas.BASE, identity)
    file = parquet.write_file(new.storage, "data/split=train/part-00000.parquet", ROWS)
    return tables.publish(new, conf, [file], {}, {"rows": 2})


def test_before_the_first_version_there_is_none(conf: config.Config):
    assert tables.current(conf.lake, schemas.BASE) is None
    assert tables.history(conf.lake, schemas.BASE) == []


def test_a_published_version_is_read_back_as_it_was(conf: config.Config):
    version = published(conf)
    assert tables.current(conf.lake, schemas.BASE) == version
    assert version.files[0].rows == 2
    assert version.settings["lake"]["root"] == conf.lake.root
    (group,) = tables.row_groups(conf.lake, version)
    assert parquet.read_row_group(group).to_pylist() == ROWS.to_pylist()
    assert group["split"] == "train"


def test_any_version_can_be_read_later(conf: config.Config):
    first, second = published(conf, "1" * 16), published(conf, "2" * 16)
    assert tables.current(conf.lake, schemas.BASE) == second
    assert tables.load(conf.lake, schemas.BASE, first.id) == first
    assert {version.id for version in tables.history(conf.lake, schemas.BASE)} == {first.id, second.id}


def test_history_is_in_order_also_within_a_second(conf: config.Config):
    made = [published(conf, f"{number:016x}").id for number in reversed(range(8))]
    assert [version.id for version in tables.history(conf.lake, schemas.BASE)] == made


def test_an_unknown_version_is_named_with_the_known_ones(conf: config.Config):
    version = published(conf)
    with pytest.raises(InputError, match=f"has no version 'nothing'; it has: {version.id}"):
        tables.load(conf.lake, schemas.BASE, "nothing")


@pytest.mark.parametrize("fault", ["missing", "cut"])
def test_a_version_whose_files_are_not_there_with_their_bytes_is_not_published(conf: config.Config, fault: str):
    before = published(conf)
    new = tables.open_draft(conf.lake, schemas.BASE, "4" * 16)
    names = [f"data/split=train/part-0000{number}.parquet" for number in range(2)]
    files = [parquet.write_file(new.storage, name, ROWS) for name in names]
    if fault == "missing":
        new.storage.delete(names[1])
    else:
        new.storage.write(names[1], b"PAR1")
    there = "is missing" if fault == "missing" else f"has 4 of {files[1].bytes:,} bytes"
    with pytest.raises(
        InputError, match=f"1 of 2 files that tasks wrote are not in .*part-00001.parquet {there}; lake.root"
    ):
        tables.publish(new, conf, files, {}, {})
    assert tables.current(conf.lake, schemas.BASE) == before
    assert tables.history(conf.lake, schemas.BASE) == [before]


def test_of_two_writers_one_wins_and_the_other_says_so(conf: config.Config):
    late = tables.open_draft(conf.lake, schemas.BASE, "3" * 16)
    winner = published(conf)
    with pytest.raises(InputError, match="another run published"):
        tables.publish(late, conf, [], {}, {})
    assert tables.current(conf.lake, schemas.BASE) == winner


def test_what_an_interrupted_run_left_is_swept_and_nothing_else(conf: config.Config):
    kept = published(conf, "1" * 16)
    interrupted = tables.open_draft(conf.lake, schemas.BASE, "4" * 16)
    parquet.write_file(interrupted.storage, "data/split=train/part-00000.parquet", ROWS)
    assert tables.sweep(conf.lake, schemas.BASE) == [interrupted.id]
    assert [version.id for version in tables.history(conf.lake, schemas.BASE)] == [kept.id]
    assert parquet.read_row_group(tables.row_groups(conf.lake, kept)[0]).num_rows == 2


def test_a_fresh_draft_is_not_swept(conf: config.Config):
    patient = config.load(assignments=[f"lake.root={conf.lake.root}", f"lake.s3_endpoint={conf.lake.s3_endpoint}"])
    running = tables.open_draft(patient.lake, schemas.BASE, "5" * 16)
    parquet.write_file(running.storage, "data/split=train/part-00000.parquet", ROWS)
    assert tables.sweep(patient.lake, schemas.BASE) == []


def test_a_digest_in_the_manifest_is_that_of_the_file(conf: config.Config):
    version = published(conf)
    storage = tables.storage(conf.lake, schemas.BASE)
    stored = storage.read(f"versions/{version.id}/{version.files[0].path}")
    import hashlib

    assert version.files[0].sha256 == hashlib.sha256(stored).hexdigest()
    assert version.files[0].bytes == len(stored)
    assert json.loads(storage.read(f"versions/{version.id}/manifest.json"))["code"] == tables.__version__


def test_s3_credentials_are_taken_anew_when_they_change(s3: str, monkeypatch: pytest.MonkeyPatch):
    import boto3

    s3_module._session.cache_clear()
    place = Storage("s3://lake/credentials", s3)
    first = place.filesystem
    assert place.filesystem is first
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    s3_module._session.cache_clear()
    assert place.filesystem is not first
    s3_module._session.cache_clear()


def test_a_server_that_the_environment_names_is_that_of_rows_and_pointers(
    s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    named, given = Storage(f"s3://lake/{tmp_path.name}"), Storage(f"s3://lake/{tmp_path.name}", s3)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    before = named.filesystem
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3)
    assert named.filesystem is not before
    named.write("rows", b"1")
    assert named.compare_and_swap("pointer", b"2", None)
    assert (given.read("rows"), given.read("pointer")) == (b"1", b"2")


def test_without_credentials_the_error_says_what_to_set(s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    s3_module._session.cache_clear()
    with pytest.raises(InputError, match="no AWS credentials were found; set AWS_PROFILE"):
        Storage("s3://lake/none", s3).list()
    s3_module._session.cache_clear()
