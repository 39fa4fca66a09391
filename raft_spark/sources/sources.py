"""Cut a source into input splits and read their records: Parquet, JSON, the Hugging Face hub or built-in articles.

An input split is a row group of a Parquet file, a byte range of a JSON Lines file, a whole JSON document, or a range of built-in
articles. A record is a plain dict in the PubMedQA schema, not checked yet. Texts of Parquet files stay bytes, since they may be
invalid UTF-8.
"""

import codecs
import hashlib
import io
import json
import lzma
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raft_spark.config import Config
from raft_spark.errors import InputError
from raft_spark.lake.filesystem import FileInfo, Storage
from raft_spark.sources import huggingface, input_schema, json_files, listing, synthetic

InputSplit = Mapping[str, Any]
COLUMNS = ("pubid", "question", "context", "long_answer", "final_decision")
SAMPLE_ROWS = 8_192  # in an input split of built-in articles
JSON_BYTES = 32_000_000  # in an input split of JSON Lines
RECORDS_CHECKED = 20
COLUMNAR = ("parquet", "sample")  # kinds of input splits that are read by columns
BATCH_ROWS = 1_000  # rows that are Python objects at the same time; more would slow the garbage collector down
_CODECS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4", ".xz": "xz"}
_BEGINS = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\x28\xb5\x2f\xfd": ".zst", b"\xfd7zXZ": ".xz", b"PAR1": ".parquet"}
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_LFS_BYTES = 1_024  # a pointer is shorter


def identity(conf: Config) -> str:
    """Return a string that changes with the source: with its seed, its revision on the hub, or the listing of its files."""
    source = conf.articles.source
    if source.startswith("sample:"):
        return f"{source}:{conf.articles.sample_seed}"
    if is_copied(conf):
        return f"{source}@{huggingface.revision(source)}"
    found = _list_files(conf, source)
    files = json.dumps([found.storage.root, [asdict(file) for file in found.files]])
    return f"{source}@{hashlib.sha256(files.encode()).hexdigest()[:16]}"


def ignored_files(conf: Config) -> str:
    """Return the names of the files in the source's folder or glob that are not read because of their endings; "" for none."""
    source = conf.articles.source
    return "" if source.startswith("sample:") or is_copied(conf) else listing.names(_list_files(conf, source).ignored)


def is_copied(conf: Config) -> bool:
    """Say whether the source is a dataset of the hub, which is copied to the lake."""
    return conf.articles.source.startswith("hf:")


def arriving(conf: Config, state: str) -> Iterator[list[list[InputSplit]]]:
    """Yield the input splits of each file of a dataset of the hub that has been copied meanwhile, while the next ones are.

    Those of all files of another source come at once, as of one file. `state` is the source's `identity`. Raises InputError when
    no file is found, when one cannot be read, or when a Parquet file has the wrong columns.
    """
    if not is_copied(conf):
        yield [_splits_of(conf, conf.articles.source)]
        return
    source, revision = conf.articles.source, state.rpartition("@")[2]
    copy = Storage.of(conf.lake).at("sources", re.sub(r"\W+", "-", source), revision)
    for names in huggingface.copied(source, revision, copy.path(), copy.filesystem):
        yield [_splits_of(conf, f"{copy.root}/{name}") for name in names]


def _splits_of(conf: Config, source: str) -> list[InputSplit]:
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
    found = _list_files(conf, source)
    return [input_split for file in found.files for input_split in _split_file(found.storage, file)]


def known_rows(files: Sequence[Sequence[InputSplit]]) -> int:
    """Return the number of records that files tell without being read; 0 for JSON."""
    return sum(split["rows"] for file in files for split in file if split["kind"] in COLUMNAR)


def local_files(input_splits: Sequence[InputSplit]) -> set[str]:
    """Return the absolute paths of the source's files that are on a disk."""
    found = ((_storage(split), split["path"]) for split in input_splits if split["kind"] != "sample")
    return {storage.path(path) for storage, path in found if storage.is_local}


def read_split(input_split: InputSplit) -> Iterator[tuple[str, Any]]:
    """Yield (where, record) of one input split, in the order of the source. The record of an invalid JSON line is its ValueError.

    Raises InputError when the file cannot be read.
    """
    if input_split["kind"] in COLUMNAR:
        for wheres, batch in read_batches(input_split):
            yield from zip(wheres, batch.to_pylist(), strict=True)
        return
    readers = {"json": _read_lines, "document": _read_document}
    yield from readers[input_split["kind"]](input_split)


def read_batches(input_split: InputSplit) -> Iterator[tuple[list[str], pa.RecordBatch]]:
    """Yield (where each record is, some records) of an input split of a COLUMNAR kind, in the order of the source.

    Raises InputError when the file cannot be read.
    """
    if input_split["kind"] == "parquet":
        batches = _read_parquet(input_split)
        yield from (([f"{input_split['path']}#{input_split['row_group']}"] * len(batch), batch) for batch in batches)
        return
    start, stop = input_split["start"], input_split["start"] + input_split["rows"]
    for first in range(start, stop, BATCH_ROWS):
        rows = range(first, min(first + BATCH_ROWS, stop))
        yield [f"sample#{row}" for row in rows], synthetic.articles(rows.start, rows.stop, input_split["seed"])


def _list_files(conf: Config, source: str) -> listing.Listing:
    with _as_input_error(Storage.of(conf.lake, source)):
        return listing.list_files(conf, source)


@contextmanager
def _as_input_error(storage: Storage, path: str = "") -> Iterator[None]:
    """Turn the errors of a damaged or unreadable file into an InputError that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, lzma.LZMAError) as error:
        msg = f"{f'{storage.root}/{path}'.rstrip('/')} cannot be read: {error}"
        raise InputError(msg) from error


@contextmanager
def _open(storage: Storage, path: str) -> Iterator[pa.NativeFile]:
    with _as_input_error(storage, path), storage.open(path) as stream:
        yield stream


def _split_file(storage: Storage, file: FileInfo) -> Iterator[InputSplit]:
    """Cut one file: Parquet by row group, plain JSON Lines by bytes. Compressed JSON Lines and JSON documents stay whole."""
    _refuse_pointer(storage, file)
    location = {**storage.location(), "path": file.path}
    if file.path.lower().endswith(listing.PARQUET):
        for group, rows in enumerate(_row_groups(storage, file)):
            yield {"kind": "parquet", **location, "row_group": group, "rows": rows}
    elif json_files.is_document(_head(storage, file)):
        yield {"kind": "document", **location, "rows": file.size}
    else:
        step = max(1, file.size) if _codec(file.path) else JSON_BYTES
        for start in range(0, max(1, file.size), step):
            yield {"kind": "json", **location, "start": start, "stop": start + step, "rows": step}


def _refuse_pointer(storage: Storage, file: FileInfo) -> None:
    """Raise InputError if the file only names the one that git-lfs would put in its place."""
    if file.size < _LFS_BYTES:
        with _open(storage, file.path) as stream:
            is_pointer = stream.read(_LFS_BYTES).startswith(_LFS_POINTER)
        if is_pointer:
            msg = f"{storage.root}/{file.path} is a pointer of git-lfs, not the file itself; get it with `git lfs pull`"
            raise InputError(msg)


def _head(storage: Storage, file: FileInfo) -> bytes:
    """Return the first bytes of a JSON file, decompressed. Raises InputError if they are no UTF-8 but of a known kind."""
    with _open_json(storage, file.path) as stream:
        head = stream.read(json_files.HEAD_BYTES)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        msg = f"{storage.root}/{file.path} is UTF-16; it must be UTF-8: iconv -f UTF-16 -t UTF-8 converts it"
        raise InputError(msg)
    for begin, ending in _BEGINS.items():
        if head.startswith(begin):
            msg = f"{storage.root}/{file.path} is no JSON; it begins as a {ending} file does, and its name must end so"
            raise InputError(msg)
    return head


def _codec(path: str) -> str:
    """Return the name of the compression that the file's ending names, "" for none."""
    return next((codec for ending, codec in _CODECS.items() if path.lower().endswith(ending)), "")


@contextmanager
def _open_json(storage: Storage, path: str) -> Iterator[io.BufferedReader]:
    """Open a JSON file for reading, decompressed."""
    codec = _codec(path)
    with _open(storage, path) as stream:
        if not codec or not stream.size():
            yield io.BufferedReader(stream, 1 << 20)
        elif codec == "xz":
            with lzma.open(stream) as decompressed:
                yield io.BufferedReader(decompressed, 1 << 20)
        else:
            with pa.CompressedInputStream(stream, codec) as decompressed:
                yield io.BufferedReader(decompressed, 1 << 20)


def check_json_columns(input_splits: Sequence[InputSplit]) -> None:
    """Check the columns of the first records of JSON files, until one record has all required columns.

    Raises InputError, which names all faults of the first record, when none of RECORDS_CHECKED records has them.
    """
    first: InputError | None = None
    for input_split, record in islice(_json_records(input_splits), RECORDS_CHECKED):
        problem = input_schema.problem(input_schema.record_columns(record))
        if not problem:
            return
        first = first or _wrong_columns(_storage(input_split), input_split["path"], problem)
    if first:
        raise first


def _json_records(input_splits: Sequence[InputSplit]) -> Iterator[tuple[InputSplit, Mapping[str, Any]]]:
    """Yield the records of JSON files. A line without a record is skipped here and rejected later by `check_record`."""
    for input_split in input_splits:
        if input_split["kind"] in ("json", "document"):
            yield from ((input_split, record) for _, record in read_split(input_split) if isinstance(record, dict))


def _storage(input_split: InputSplit) -> Storage:
    return Storage(input_split["root"], input_split["endpoint"], input_split["region"])


def _wrong_columns(storage: Storage, path: str, problem: str) -> InputError:
    return InputError(f"{storage.root}/{path} does not have the columns that articles need: {problem}")


def _row_groups(storage: Storage, file: FileInfo) -> list[int]:
    """Return the number of rows of each row group. Raises InputError when the file has the wrong columns."""
    with _open(storage, file.path) as stream, pq.ParquetFile(stream) as parquet:
        footer, schema = parquet.metadata, parquet.schema_arrow
    columns = {**input_schema.parquet_columns(schema), **dict.fromkeys(_all_nan(footer, schema), input_schema.NULL)}
    problem = input_schema.problem(columns)
    if problem:
        raise _wrong_columns(storage, file.path, problem)
    return [footer.row_group(index).num_rows for index in range(footer.num_row_groups)]


def _all_nan(footer: pq.FileMetaData, schema: pa.Schema) -> set[str]:
    """Return the columns of decimal numbers without a value: pandas writes a text column that is missing as NaN."""
    groups = (footer.row_group(index) for index in range(footer.num_row_groups))
    columns = [group.column(index) for group in groups for index in range(group.num_columns)]
    valued = {each.path_in_schema for each in columns if each.statistics is None or each.statistics.has_min_max}
    return {field.name for field in schema if pa.types.is_floating(field.type) and field.name not in valued}


def _read_parquet(input_split: InputSplit) -> Iterator[pa.RecordBatch]:
    path, group = input_split["path"], input_split["row_group"]
    with _open(_storage(input_split), path) as stream, pq.ParquetFile(stream) as file:
        columns = [name for name in COLUMNS if name in file.schema_arrow.names]
        table = file.read_row_group(group, columns=columns)
    plain = pa.table({name: _as_bytes(table[name]) for name in columns})
    yield from plain.to_batches(max_chunksize=BATCH_ROWS)


def _as_bytes(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Cast texts to bytes, at any depth, so that invalid UTF-8 reaches `check_record` instead of ending the job."""
    return column.cast(_bytes_type(column.type))


def _bytes_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _bytes_type(kind.value_type)
    if any(is_text(kind) for is_text in input_schema.IS_TEXT):
        return pa.large_binary()
    if any(is_list(kind) for is_list in input_schema.IS_LIST):
        return pa.large_list(kind.value_field.with_type(_bytes_type(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_bytes_type(field.type)) for field in kind])
    return kind


def _read_lines(input_split: InputSplit) -> Iterator[tuple[str, Any]]:
    """Read the lines that start in the byte range of the input split; the last one may end after it."""
    path, at = input_split["path"], input_split["start"]
    with _open_json(_storage(input_split), path) as lines:
        is_whole = bool(_codec(path))
        if at:
            lines.seek(at - 1)
            at += len(lines.readline()) - 1
        for line in lines:
            if not is_whole and at >= input_split["stop"]:
                return
            where, at = f"{path}@{at}", at + len(line)
            if line.removeprefix(codecs.BOM_UTF8).strip():
                yield where, json_files.parse_line(line)


def _read_document(input_split: InputSplit) -> Iterator[tuple[str, Any]]:
    """Read the records of a whole file. Raises InputError with the line that is no JSON."""
    storage, path = _storage(input_split), input_split["path"]
    with _open_json(storage, path) as stream:
        try:
            yield from ((f"{path}:{line}", record) for line, record in json_files.parse_document(stream))
        except ValueError as error:
            msg = f"{storage.root}/{path} is no JSON: {error}; it must be JSON Lines, an array of records, or an object of records by pubid"
            raise InputError(msg) from error
