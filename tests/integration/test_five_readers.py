"""What `raft-spark path` prints is read by pandas, pyarrow, Polars, DuckDB, Spark and datasets, as it is."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import duckdb
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pytest
from click.testing import CliRunner

from conftest import SPARK
from raft_spark import config
from raft_spark.cli.main import main
from raft_spark.lake import schemas, session, tables
from raft_spark.stages import articles, base, completions, dataset

pytestmark = pytest.mark.spark
ROWS = 90
Reader = Callable[[str], int]
PARQUET: dict[str, Reader] = {
    "pandas": lambda folder: len(pd.read_parquet(folder)),
    "pyarrow": lambda folder: ds.dataset(folder, partitioning="hive").to_table().num_rows,
    "polars": lambda folder: pl.scan_parquet(folder).collect().height,
    "duckdb": lambda folder: len(duckdb.read_parquet(f"{folder}/**/*.parquet").fetchall()),
    "spark": lambda folder: session.start(config.load()).read.parquet(folder).count(),
}
LINES: dict[str, Reader] = {
    "pandas": lambda folder: sum(len(pd.read_json(path, lines=True)) for path in Path(folder).iterdir()),
    "pyarrow": lambda folder: ds.dataset(folder, format="json").to_table().num_rows,
    "polars": lambda folder: pl.scan_ndjson(f"{folder}/*.jsonl").collect().height,
    "duckdb": lambda folder: len(duckdb.read_json(f"{folder}/*.jsonl").fetchall()),
    "spark": lambda folder: session.start(config.load()).read.json(folder).where("messages IS NOT NULL").count(),
}


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Return the arguments for a lake with every table, the dataset in Parquet."""
    sets = [
        f"lake.root={tmp_path_factory.mktemp('reading') / 'lake'}",
        f"articles.source=sample:{ROWS}",
        "base.distractors=2",
        "completions.endpoint=fake",
        'dataset.formats=["messages", "notebook", "jumpstart"]',
        "dataset.file=parquet",
        *(f'spark."{key}"="{value}"' for key, value in SPARK.items()),
    ]
    conf = config.load(assignments=sets)
    for stage in (articles, base, completions, dataset):
        stage.run(conf)
    yield [part for each in sets for part in ("--set", each)]
    session.stop()


def printed(*words: str) -> str:
    done = CliRunner().invoke(main, ["path", *words])
    assert done.exit_code == 0, done.output
    return done.output.strip()


@pytest.mark.parametrize("reader", PARQUET)
@pytest.mark.parametrize("words", ["articles", "base", "completions", "dataset --format=messages"])
def test_every_reader_takes_what_path_prints(lake: list[str], words: str, reader: str):
    assert PARQUET[reader](printed(*words.split(), *lake)) == ROWS


def test_splits_and_days_are_columns(lake: list[str]):
    assert set(pl.read_parquet(printed("base", *lake))["split"]) == {"train", "validation", "test"}
    assert "day" in pl.read_parquet(printed("completions", *lake)).columns


@pytest.mark.parametrize("form", ["messages", "notebook", "jumpstart"])
def test_datasets_reads_a_format_with_its_splits_and_features(lake: list[str], tmp_path: Path, form: str):
    read: dict[str, Any] = {
        folder: datasets.load_dataset(folder, cache_dir=str(tmp_path))
        for folder in (printed("dataset", "--format", form, *lake), f"{printed('dataset', *lake)}/{form}")
    }
    for found in read.values():
        assert {split: rows.num_rows for split, rows in found.items()} == kept(lake)
        assert found["train"].column_names == list(found["test"].features)


def kept(lake: list[str]) -> dict[str, int]:
    conf = config.load(assignments=lake[1::2])
    return dict(tables.require(conf.lake, schemas.DATASET).counts["kept"])


def test_formats_of_json_lines_are_read_too(lake: list[str]):
    again = [*lake, "--set", "dataset.file=jsonl"]
    dataset.run(config.load(assignments=again[1::2]))
    folder = printed("dataset", "--format", "messages", *again)
    assert {name: read(folder) for name, read in LINES.items()} == dict.fromkeys(LINES, ROWS)
    first = json.loads(next(Path(folder).glob("train-*.jsonl")).read_text().splitlines()[0])
    assert [turn["role"] for turn in first["messages"]] == ["system", "user", "assistant"]


def test_the_version_folder_has_the_manifest_and_an_unknown_format_is_named_with_the_known_ones(lake: list[str]):
    for table in ("base", "completions", "dataset"):
        assert (Path(printed(table, "--version-folder", *lake)) / "manifest.json").is_file()
    done = CliRunner().invoke(main, ["path", "dataset", "--format", "alpaca", *lake], env={"COLUMNS": "300"})
    assert done.exit_code == 3
    assert "has no format 'alpaca'; it has: jumpstart, messages, notebook" in " ".join(done.output.split())
    done = CliRunner().invoke(main, ["path", "base", "--format", "messages", *lake], env={"COLUMNS": "300"})
    assert done.exit_code == 2
    assert "only the table dataset has formats" in " ".join(done.output.split())
