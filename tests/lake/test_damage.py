"""A damaged lake: the file is named in one sentence with status 3, and an old version that is broken is passed over."""

from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pytest
from click.testing import CliRunner

from raft_spark import config
from raft_spark.cli import options
from raft_spark.cli.main import main
from raft_spark.errors import DamageError, InputError
from raft_spark.lake import dataframes, parquet, refs, schemas, tables
from raft_spark.lake.tasks import unreadable_file
from raft_spark.stages import reader, retention

pytestmark = pytest.mark.row
ARTICLES, BASE, COMPLETIONS, DATASET = schemas.ARTICLES, schemas.BASE, schemas.COMPLETIONS, schemas.DATASET
ROWS = pa.table({"pubid": range(1000), "question": [f"question {number}" for number in range(1000)]})


@pytest.fixture
def conf(tmp_path: Path) -> config.Config:
    return config.load(assignments=[f"lake.root={tmp_path / 'lake'}", "lake.keep_versions=1", "lake.keep_days=0"])


def published(conf: config.Config, table: str, *inputs: tables.Version) -> tables.Version:
    new = tables.open_draft(conf.lake, table, "0" * 16)
    at = tables.storage(conf.lake, table) if table == COMPLETIONS else new.storage
    files = [parquet.write_file(at, f"data/split=train/{new.id}.parquet", ROWS)]
    counts = {"rows": {"train": 1000}, "kept": {"train": 1000}, "rejected": {}}
    return tables.publish(new, conf, files, {version.table: version for version in inputs}, counts)


def walked(conf: config.Config) -> dict[str, tables.Version]:
    articles = published(conf, ARTICLES)
    base = published(conf, BASE, articles)
    answers = published(conf, COMPLETIONS, base)
    return {found.table: found for found in (articles, base, answers, published(conf, DATASET, base, answers))}


def data_file(version: tables.Version) -> Path:
    lake = config.Lake(**version.settings["lake"])
    return Path(tables.files_folder(lake, version).path(version.files[0].path))


def manifest(version: tables.Version) -> Path:
    return Path(version.settings["lake"]["root"], version.table, "versions", version.id, "manifest.json")


def said(conf: config.Config, *words: str) -> tuple[int, str]:
    with patch.object(options.console, "_width", 2000):
        done = CliRunner().invoke(main, [*words, "--set", f"lake.root={conf.lake.root}"])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


# The pointer


@pytest.mark.parametrize(
    "damage", [halve, empty, lambda path: path.write_text("null"), lambda path: path.write_text("{}")]
)
@pytest.mark.parametrize("words", ["history base", "show base", "path base", "check base", "rollback x", "expire"])
def test_a_damaged_pointer_is_named_by_every_command(conf: config.Config, damage: Callable[[Path], object], words: str):
    walked(conf)
    damage(Path(conf.lake.root, "current.json"))
    status, output = said(conf, *words.split())
    if words == "expire":
        assert (status, "no version has expired" in output) == (0, True)
    elif words != "rollback x":  # which looks for the version first
        assert status == 3
        assert f"DamageError {conf.lake.root}/current.json is damaged" in output
        assert "move it away and run `raft-spark rollback VERSION`" in output


def test_without_its_damaged_pointer_the_lake_is_rolled_back_to_any_version_and_keeps_its_answers(conf: config.Config):
    old, new = walked(conf), walked(conf)
    Path(conf.lake.root, "current.json").unlink()
    retention.roll_back(conf.lake, old[DATASET].id)
    names = {table: version.id for table, version in old.items()}
    assert refs.read(conf.lake).tables == {**names, COMPLETIONS: new[COMPLETIONS].id}


# Manifests


@pytest.mark.parametrize(
    "damage", [halve, empty, lambda path: path.write_text("[]"), lambda path: path.write_bytes(b"\xff")]
)
def test_an_old_version_without_a_readable_manifest_is_passed_over(
    conf: config.Config, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
):
    old = walked(conf)
    middle = walked(conf)
    damage(manifest(old[DATASET]))
    new = walked(conf)
    assert [version.id for version in tables.history(conf.lake, DATASET)] == [middle[DATASET].id, new[DATASET].id]
    assert f"{manifest(old[DATASET])} is damaged" in caplog.text
    assert tables.find_existing(conf.lake, DATASET, "0" * 16) == new[DATASET]
    status, output = said(conf, "history", "dataset")
    assert (status, new[DATASET].id in output, middle[DATASET].id in output) == (0, True, True)
    expired = retention.expire(conf.lake)
    others = {version.id for version in old.values()} - {old[DATASET].id}
    assert set(expired) == others | {version.id for version in middle.values()}
    assert manifest(old[DATASET]).exists()


def test_nothing_expires_while_a_version_in_use_cannot_tell_what_it_was_made_from(conf: config.Config):
    old = walked(conf)
    walked(conf)
    retention.pin(conf.lake, old[DATASET].id)
    halve(manifest(old[DATASET]))
    walked(conf)
    assert retention.expire(conf.lake) == []
    assert all(manifest(version).exists() for version in old.values())


@pytest.mark.parametrize("words", ["show base", "path base", "check base"])
def test_a_current_version_without_a_readable_manifest_is_named(conf: config.Config, words: str):
    base = walked(conf)[BASE]
    halve(manifest(base))
    status, output = said(conf, *words.split())
    assert status == 3
    assert f"{manifest(base)} is damaged" in output
    assert "delete it and run `raft-spark base`" in output


# Data files


@pytest.mark.parametrize("table", [BASE, COMPLETIONS, DATASET])
@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (flip, r"has the SHA-256 [0-9a-f]{12}\.\.\. instead of [0-9a-f]{12}\.\.\."),
        (halve, r"has \d+ bytes instead of \d+"),
        (Path.unlink, "is missing"),
        (lambda path: (path.unlink(), path.mkdir()), "cannot be read"),
    ],
)
def test_check_names_a_file_that_is_not_as_it_was_written(
    conf: config.Config, table: str, damage: Callable[[Path], object], found: str
):
    old, new = walked(conf)[table], walked(conf)[table]
    assert said(conf, "check", table) == (0, f"{table} {new.id}: 1 files, 0.0 MB, all as written\n")
    damage(data_file(old))
    assert said(conf, "check", table)[0] == 0
    for words in (["--version", old.id], ["--all-versions"]):
        status, output = said(conf, "check", table, *words)
        assert status == 3
        assert (new.id in output) == (words == ["--all-versions"])
        with pytest.raises(DamageError, match=rf"1 of the 1 files of {table} {old.id} .*{data_file(old)} {found}"):
            raise DamageError(output)


@pytest.mark.parametrize("damage", [halve, Path.unlink])
def test_a_file_that_is_missing_or_cut_is_named_before_anything_is_read(
    conf: config.Config, damage: Callable[[Path], object]
):
    base = walked(conf)[BASE]
    damage(data_file(base))
    for read in (
        lambda: tables.row_groups(conf.lake, base),
        lambda: dataframes.read(None, conf.lake, base),
        lambda: reader.open_table(conf.lake, BASE).to_arrow(),
    ):
        with pytest.raises(DamageError, match=f"{data_file(base)} (is missing|has .* bytes instead of)"):
            read()


def test_bytes_that_cannot_be_decoded_are_an_error_that_names_the_file(conf: config.Config):
    base = walked(conf)[BASE]
    (group,) = tables.row_groups(conf.lake, base)
    path = data_file(base)
    data = path.read_bytes()
    path.write_bytes(data[:20] + bytes(200) + data[220:])
    for read in (
        lambda: parquet.read_row_group(group, ["pubid", "question"]),
        lambda: reader.open_table(conf.lake, BASE).to_arrow(),
    ):
        with pytest.raises(DamageError, match=f"{path} is damaged: .*; `raft-spark check TABLE` compares"):
            read()
    status, output = said(conf, "show", "base")
    assert (status, f"{path} is damaged" in output) == (3, True)


@pytest.mark.parametrize(
    "text",
    [
        "[FAILED_READ_FILE.NO_HINT] Encountered error while reading file file:/lake/base/a.parquet.  SQLSTATE: KD001",
        "[CANNOT_READ_FILE_FOOTER] Could not read footer for file: file:/lake/base/a.parquet. Please ensure",
        "Caused by: java.io.FileNotFoundException: File does not exist: file:/lake/base/a.parquet",
        "[PATH_NOT_FOUND] Path does not exist: file:/lake/base/a.parquet. SQLSTATE: 42K03",
    ],
)
def test_a_file_that_spark_cannot_read_is_named(text: str):
    assert str(unreadable_file(text)).startswith("file:/lake/base/a.parquet is damaged or missing: ")
    assert unreadable_file("[DIVIDE_BY_ZERO] Division by zero.") is None


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (
            "software.amazon.awssdk.core.exception.SdkClientException: Unable to execute HTTP request: Connection reset",
            InputError,
        ),
        ("java.net.SocketTimeoutException: Read timed out", InputError),
        ("java.nio.file.AccessDeniedException: s3://lake/a.parquet: Access Denied (Status Code: 403)", InputError),
        ("software.amazon.awssdk.services.s3.model.S3Exception: null (Service: S3, Status Code: 404)", DamageError),
        ("java.lang.RuntimeException: is not a Parquet file", DamageError),
    ],
)
def test_a_store_that_is_not_reached_is_no_damage(cause: str, kind: type[InputError]):
    text = f"Encountered error while reading file s3://lake/a.parquet. SQLSTATE: KD001\n\tat A.b\nCaused by: {cause}\n\tat C.d"
    error = unreadable_file(text)
    assert type(error) is kind
    assert str(error).startswith("s3://lake/a.parquet ")
    assert (cause.rpartition("Exception: ")[2] in str(error)) == (kind is InputError)


# The lake


@pytest.mark.parametrize("words", ["history base", "show base", "check base", "expire"])
def test_a_lake_that_is_a_file_is_named(conf: config.Config, words: str):
    Path(conf.lake.root).write_text("x")
    status, output = said(conf, *words.split())
    assert status == 3
    assert f"{conf.lake.root} is a file, where a folder must be" in output


def test_a_lake_that_takes_no_files_is_named():
    conf = config.load(assignments=["lake.root=/proc/lake"])
    with pytest.raises(InputError, match=r"/proc/lake/current\.json cannot be written: No such file or directory"):
        refs.compare_and_swap(conf.lake, {"base": "b1"}, {})
