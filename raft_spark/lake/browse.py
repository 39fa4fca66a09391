"""Browse one version of a table without Spark: its folders, as other readers take them, and its rows."""

import io
import json
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from raft_spark.config import Lake
from raft_spark.errors import InputError
from raft_spark.lake import parquet, tables
from raft_spark.lake.filesystem import Storage
from raft_spark.lake.parquet import DataFile, fill_columns, read_row_group
from raft_spark.lake.schemas import DATASET, SCHEMAS, SPLITS
from raft_spark.lake.tables import Version

JSON_LINES_BYTES = 1 << 18  # read at once from a JSON Lines file


def folder(lake: Lake, version: Version) -> str:
    """Return the folder of a version, absolute or s3://..., which holds manifest.json, the rows and quarantine/."""
    return _address(tables.storage(lake, version.table).at("versions", version.id))


def rows_folder(lake: Lake, version: Version) -> str:
    """Return the folder to give to a Parquet reader; it holds data files only.

    For completions these are the answers and failures of all runs that have published. For a dataset it is the
    version's folder, with one folder a format.
    """
    if version.table == DATASET:
        return folder(lake, version)
    folders = {file.path.partition("/")[0] for file in version.data()}
    name = "merged" if folders == {"merged"} else "data"  # "data": also the store of a version before 0.2
    return _address(tables.files_folder(lake, version).at(name))


def format_folder(lake: Lake, version: Version, name: str) -> str:
    """Return the folder with the shards of one format of a dataset.

    Raises InputError that lists the dataset's formats when `name` is not one of them.
    """
    paths = [
        file.path.partition("/") for file in version.files if file.rows and not file.path.startswith("quarantine/")
    ]
    formats = sorted({form for form, _, _ in paths})
    if name not in formats:
        msg = f"dataset {version.id} has no format {name!r}; it has: {', '.join(formats)}"
        raise InputError(msg)
    has_data_folder = any(form == name and path.startswith("data/") for form, _, path in paths)
    return f"{folder(lake, version)}/{name}{'/data' if has_data_folder else ''}"


def head(lake: Lake, version: Version, rows: int, *, quarantine: bool = False) -> list[dict[str, Any]]:
    """Return up to `rows` rows from the beginning of a version; for a dataset, records of its first format.

    The splits come in the order train, validation, test. `quarantine` returns rows of the quarantine instead.
    """
    at = tables.files_folder(lake, version)
    with_rows = (file for file in version.files if file.rows and not file.is_index)
    files = [file for file in with_rows if file.path.startswith("quarantine/") == quarantine]
    files.sort(key=_reading_order)
    return list(islice(chain.from_iterable(_rows(at, version.table, file) for file in files), rows))


def first_row(lake: Lake, version: Version, pubid: int | None) -> dict[str, Any]:
    """Return the first row of an article, or of the whole table when `pubid` is None.

    Raises InputError when the table has no row of this article.
    """
    if pubid is None:
        return head(lake, version, 1)[0]
    for group in tables.row_groups(lake, version):
        table = read_row_group(group, SCHEMAS[version.table].names)
        found = table.filter(pc.equal(table["pubid"], pubid))
        if found.num_rows:
            return dict(found.to_pylist()[0])
    msg = f"table {version.table} has no pubid {pubid}; `raft-spark show {version.table}` prints some of its rows"
    raise InputError(msg)


def _address(at: Storage) -> str:
    return str(Path(at.root).absolute()) if at.is_local else at.root


def _reading_order(file: DataFile) -> tuple[bool, int, bool, str]:
    """Sort the table's own files first, then by split; a dataset's shards have no split but "train-" in their names."""
    split = SPLITS.index(file.split) if file.split else 0
    return not file.is_data, split, "/train-" not in file.path, file.path


def _rows(at: Storage, table: str, file: DataFile) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file in order, reading one row group or JSON_LINES_BYTES at a time."""
    with parquet.damage_named(at, file.path), at.open(file.path) as stream:
        if file.path.endswith(".jsonl"):
            yield from map(json.loads, io.BufferedReader(stream, JSON_LINES_BYTES))
            return
        opened = pq.ParquetFile(stream)
        for number in range(opened.num_row_groups):
            rows = opened.read_row_group(number)
            if file.is_data:
                names = SCHEMAS[table].names
                rows = fill_columns(rows, table, [*names, *(name for name in rows.column_names if name not in names)])
            yield from ({**row, "split": file.split} if file.split else row for row in rows.to_pylist())
