"""Cut a source into input splits and read their records: Parquet, JSON Lines, the Hugging Face hub or built-in articles.

An input split is a row group of a Parquet file, a byte range of a JSON Lines file or a range of built-in articles. A record
is a plain dict in the PubMedQA schema, not checked yet. Texts of Parquet files stay bytes, since they may be invalid UTF-8.
"""

import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from fnmatch import fnmatch
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raft_spark.config import Config
from raft_spark.errors import InputError
from raft_spark.lake.filesystem import FileInfo, Storage
from raft_spark.sources import huggingface, input_schema, synthetic

InputSplit = Mapping[str, Any]
COLUMNS = ("pubid", "question", "context", "long_answer", "final_decision")
SAMPLE_ROWS = 8_192  # in an input split of built-in articles
JSON_BYTES = 32_000_000  # in an input split of JSON Lines
RECORDS_CHECKED = 20
_ENDINGS = (".parquet", ".jsonl", ".json", ".jsonl.gz", ".json.gz")


def identity(conf: Config) -> str:
    """Return a string that changes with the source: with its seed, its revision on the hub, or the listing of its files."""
    source = conf.articles.source
    if source.startswith("sample:"):
        return f"{source}:{conf.articles.sample_seed}"
    if source.startswith("hf:"):
        return f"{source}@{huggingface.revision(source)}"
    storage, files = _list_files(conf, source)
    listing = json.dumps([storage.root, [asdict(file) for file in files]])
    return f"{source}@{hashlib.sha256(listing.encode()).hexdigest()[:16]}"


def input_splits(conf: Config, state: str) -> list[InputSplit]:
    """Cut the source into input splits. `state` is its `identity`. A dataset of the hub is first copied to the lake.

    Raises InputError when no file is found, or when a Parquet file has the wrong columns.
    """
    source = conf.articles.source
    if source.startswith("sample:"):
        count = int(source.partition(":")[2])
        return [
            {
                "kind": "sample",
                "start": start,
                "rows": min(SAMPLE_ROWS, count - start),
                "seed": conf.articles.sample_seed,
            }
            for start in range(0, count, SAMPLE_ROWS)
        ]
    if source.startswith("hf:"):
        revision = state.rpartition("@")[2]
        copy = Storage.of(conf.lake).at("sources", re.sub(r"\W+", "-", source), revision)
        huggingface.download(source, revision, copy.path(), copy.filesystem)
        source = f"{copy.root}/*.parquet"
    storage, files = _list_files(conf, source)
    return [input_split for file in files for input_split in _split_file(storage, file)]


def read_split(input_split: InputSplit) -> Iterator[tuple[str, Any]]:
    """Yield (where, record) of one input split, in the order of the source. The record of an invalid JSON line is its ValueError.

    Raises InputError when the file cannot be read.
    """
    if input_split["kind"] == "sample":
        start, stop = input_split["start"], input_split["start"] + input_split["rows"]
        rows = synthetic.articles(start, stop, input_split["seed"]).to_pylist()
        yield from ((f"sample#{start + index}", row) for index, row in enumerate(rows))
        return
    yield from (_read_json if input_split["kind"] == "json" else _read_parquet)(input_split)


def _list_files(conf: Config, source: str) -> tuple[Storage, list[FileInfo]]:
    """List the data files of a folder (at any depth), of one file, or of a glob (each * within one folder); sorted."""
    root, pattern = source.rstrip("/"), "**"
    if re.search(r"[*?\[]", source):
        root = re.split(r"[*?\[]", source)[0].rpartition("/")[0]
        pattern = source[len(root) :].lstrip("/")
    elif not Storage.of(conf.lake, source).is_folder:
        root, _, pattern = source.rpartition("/")
    storage, deep = Storage.of(conf.lake, root or ("/" if source.startswith("/") else ".")), "**" in pattern
    with _as_input_error(storage):
        files = [
            file
            for file in storage.list(recursive=deep or "/" in pattern)
            if fnmatch(file.path, pattern)
            and (deep or file.path.count("/") == pattern.count("/"))
            and file.path.endswith(_ENDINGS)
            and not re.search(r"(^|/)[._]", file.path)
        ]
    if not files:
        msg = (
            f"articles.source is {source!r}: no Parquet or JSON Lines file is there; it must be a folder or glob with "
            f"files that end in {', '.join(_ENDINGS)}, hf:OWNER/NAME/CONFIG, or sample:N"
        )
        raise InputError(msg)
    return storage, files


@contextmanager
def _as_input_error(storage: Storage, path: str = "") -> Iterator[None]:
    """Turn the errors of a damaged or unreadable file into an InputError that names the file."""
    try:
        yield
    except (pa.ArrowInvalid, OSError, EOFError, zlib.error) as error:
        msg = f"{storage.root}/{path} cannot be read: {error}"
        raise InputError(msg) from error


@contextmanager
def _open(storage: Storage, path: str) -> Iterator[pa.NativeFile]:
    with _as_input_error(storage, path), storage.open(path) as stream:
        yield stream


def _split_file(storage: Storage, file: FileInfo) -> Iterator[InputSplit]:
    """Cut one file: Parquet by row group, plain JSON Lines by bytes. Compressed JSON Lines stay whole."""
    location = {**asdict(storage), "path": file.path}
    if file.path.endswith(".parquet"):
        for group, rows in enumerate(_row_groups(storage, file)):
            yield {"kind": "parquet", **location, "row_group": group, "rows": rows}
    else:
        step = max(1, file.size) if file.path.endswith(".gz") else JSON_BYTES
        for start in range(0, max(1, file.size), step):
            yield {"kind": "json", **location, "start": start, "stop": start + step, "rows": step}


def check_json_columns(input_splits: Sequence[InputSplit]) -> None:
    """Check the columns of the first records of JSON Lines, until one record has all required columns.

    Raises InputError, which names all faults of the first record, when none of RECORDS_CHECKED records has them.
    """
    required = {
        name: kind for name, kind in input_schema.REQUIRED.items() if name != "long_answer"
    }  # it may be missing from JSON
    first: InputError | None = None
    for input_split, record in islice(_json_records(input_splits), RECORDS_CHECKED):
        problem = input_schema.problem(input_schema.record_columns(record), required)
        if not problem:
            return
        first = first or _wrong_columns(_storage(input_split), input_split["path"], problem)
    if first:
        raise first


def _json_records(input_splits: Sequence[InputSplit]) -> Iterator[tuple[InputSplit, Mapping[str, Any]]]:
    """Yield the records of JSON Lines. A line without a record is skipped here and rejected later by `check_record`."""
    for input_split in input_splits:
        if input_split["kind"] == "json":
            yield from ((input_split, record) for _, record in read_split(input_split) if isinstance(record, dict))


def _storage(input_split: InputSplit) -> Storage:
    return Storage(input_split["root"], input_split["endpoint"], input_split["region"])


def _wrong_columns(storage: Storage, path: str, problem: str) -> InputError:
    return InputError(f"{storage.root}/{path} does not have the columns that articles need: {problem}")


def _row_groups(storage: Storage, file: FileInfo) -> list[int]:
    """Return the number of rows of each row group. Raises InputError when the file has the wrong columns."""
    with _open(storage, file.path) as stream, pq.ParquetFile(stream) as parquet:
        footer, schema = parquet.metadata, parquet.schema_arrow
    problem = input_schema.problem(input_schema.parquet_columns(schema))
    if problem:
        raise _wrong_columns(storage, file.path, problem)
    return [footer.row_group(index).num_rows for index in range(footer.num_row_groups)]


def _read_parquet(input_split: InputSplit) -> Iterator[tuple[str, Any]]:
    path, group = input_split["path"], input_split["row_group"]
    with _open(_storage(input_split), path) as stream, pq.ParquetFile(stream) as file:
        columns = [name for name in COLUMNS if name in file.schema_arrow.names]
        table = file.read_row_group(group, columns=columns)
    plain = pa.table({name: _as_bytes(table[name]) for name in columns})
    for batch in plain.to_batches(max_chunksize=1_000):
        rows = batch.to_pylist()
        yield from ((f"{path}#{group}", row) for row in rows)


def _as_bytes(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Cast texts to bytes, at any depth, so that invalid UTF-8 reaches `check_record` instead of ending the job."""
    return column.cast(_bytes_type(column.type))


def _bytes_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.large_binary() if pa.types.is_large_string(kind) else pa.binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        wrap = pa.list_ if pa.types.is_list(kind) else pa.large_list
        return wrap(kind.value_field.with_type(_bytes_type(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_bytes_type(field.type)) for field in kind])
    return kind


def _read_json(input_split: InputSplit) -> Iterator[tuple[str, Any]]:
    """Read the lines that start in the byte range of the input split; the last one may end after it."""
    path, at = input_split["path"], input_split["start"]
    with _open(_storage(input_split), path) as stream:
        is_compressed = path.endswith(".gz")
        lines = gzip.open(stream) if is_compressed else io.BufferedReader(stream, 1 << 20)  # noqa: SIM115 - closed with the stream
        if at:
            lines.seek(at - 1)
            at += len(lines.readline()) - 1
        for line in lines:
            if not is_compressed and at >= input_split["stop"]:
                return
            where, at = f"{path}@{at}", at + len(line)
            if line.strip():
                yield where, _parse_line(line)


def _parse_line(line: bytes) -> Any:  # noqa: ANN401 - a line of JSON may hold anything
    try:
        return json.loads(line.decode("utf-8-sig"))  # a file may begin with a byte-order mark
    except ValueError as error:
        return error
    except RecursionError:
        return ValueError("nested too deeply")
