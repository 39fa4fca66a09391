"""articles.source -> pieces -> records: row groups of Parquet, byte ranges of JSON Lines, ranges of built-in articles.

A record is a plain dict in the PubMedQA schema as the source has it; whether it is a good one is the business of
articles. Texts of Parquet stay bytes here, since a file may hold bytes that are no UTF-8.
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
SAMPLE_ROWS = 8_192
JSON_BYTES = 32_000_000
RECORDS_CHECKED = 20
_ENDINGS = (".parquet", ".jsonl", ".json", ".jsonl.gz", ".json.gz")


def identity(conf: Config) -> str:
    """Name the state of the source: the sample's seed, the hub's revision, or what a listing tells of the files."""
    source = conf.articles.source
    if source.startswith("sample:"):
        return f"{source}:{conf.articles.sample_seed}"
    if source.startswith("hf:"):
        return f"{source}@{huggingface.revision(source)}"
    place, files = _listed(conf, source)
    listing = json.dumps([place.root, [asdict(file) for file in files]])
    return f"{source}@{hashlib.sha256(listing.encode()).hexdigest()[:16]}"


def input_splits(conf: Config, state: str) -> list[InputSplit]:
    """Cut the source into what one task step reads. `state` is its identity; a hub's data set is brought to the lake.

    Raises InputError when nothing is there, or a Parquet file has columns of another shape.
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
        kept = Storage.of(conf.lake).at("sources", re.sub(r"\W+", "-", source), revision)
        huggingface.download(source, revision, kept.path(), kept.filesystem)
        source = f"{kept.root}/*.parquet"
    place, files = _listed(conf, source)
    return [piece for file in files for piece in _cut(place, file)]


def read_split(piece: InputSplit) -> Iterator[tuple[str, Any]]:
    """Yield (where, record) of one piece, in a task, in the source's order. A broken JSON line comes as its ValueError.

    Raises InputError when the file itself is damaged.
    """
    if piece["kind"] == "sample":
        start, stop = piece["start"], piece["start"] + piece["rows"]
        rows = synthetic.articles(start, stop, piece["seed"]).to_pylist()
        yield from ((f"sample#{start + index}", row) for index, row in enumerate(rows))
        return
    place = Storage(piece["root"], piece["endpoint"], piece["region"])
    yield from (_read_json if piece["kind"] == "json" else _read_parquet)(place, piece)


def _listed(conf: Config, source: str) -> tuple[Storage, list[FileInfo]]:
    """List the data files of a folder (at any depth), a single file or a glob (each * within one folder), sorted."""
    root, pattern = source.rstrip("/"), "**"
    if re.search(r"[*?\[]", source):
        root = re.split(r"[*?\[]", source)[0].rpartition("/")[0]
        pattern = source[len(root) :].lstrip("/")
    elif not Storage.of(conf.lake, source).is_folder:
        root, _, pattern = source.rpartition("/")
    place, deep = Storage.of(conf.lake, root or ("/" if source.startswith("/") else ".")), "**" in pattern
    with _readable(place):
        files = [
            file
            for file in place.list(recursive=deep or "/" in pattern)
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
    return place, files


@contextmanager
def _readable(place: Storage, path: str = "") -> Iterator[None]:
    """Turn what a damaged or unreadable file raises into an InputError that names it."""
    try:
        yield
    except (pa.ArrowInvalid, OSError, EOFError, zlib.error) as error:
        msg = f"{place.root}/{path} cannot be read: {error}"
        raise InputError(msg) from error


@contextmanager
def _opened(place: Storage, path: str) -> Iterator[pa.NativeFile]:
    with _readable(place, path), place.filesystem.open_input_file(place.path(path)) as stream:
        yield stream


def _cut(place: Storage, file: FileInfo) -> Iterator[InputSplit]:
    """Cut one file: Parquet by row group, plain JSON Lines by bytes, compressed JSON Lines not at all."""
    here = {**asdict(place), "path": file.path}
    if file.path.endswith(".parquet"):
        for group, rows in enumerate(_row_groups(place, file)):
            yield {"kind": "parquet", **here, "row_group": group, "rows": rows}
    else:
        step = max(1, file.size) if file.path.endswith(".gz") else JSON_BYTES
        for start in range(0, max(1, file.size), step):
            yield {"kind": "json", **here, "start": start, "stop": start + step, "rows": step}


def check_json_columns(pieces: Sequence[InputSplit]) -> None:
    """Look at the first lines of JSON Lines, until one has the columns that are needed.

    Raises InputError, with all that the first record lacks, when none of LINES_CHECKED has.
    """
    needed = {
        name: kind for name, kind in input_schema.REQUIRED.items() if name != "long_answer"
    }  # null when it is not there
    first: InputError | None = None
    for piece, record in islice(_records(pieces), RECORDS_CHECKED):
        problem = input_schema.problem(input_schema.record_columns(record), needed)
        if not problem:
            return
        first = first or _another_shape(
            Storage(piece["root"], piece["endpoint"], piece["region"]), piece["path"], problem
        )
    if first:
        raise first


def _records(pieces: Sequence[InputSplit]) -> Iterator[tuple[InputSplit, Mapping[str, Any]]]:
    """Yield the records of JSON Lines; a line that holds none is left to the check of each record."""
    for piece in pieces:
        if piece["kind"] == "json":
            yield from ((piece, record) for _, record in read_split(piece) if isinstance(record, dict))


def _another_shape(place: Storage, path: str, problem: str) -> InputError:
    return InputError(f"{place.root}/{path} has another shape than articles need: {problem}")


def _row_groups(place: Storage, file: FileInfo) -> list[int]:
    with _opened(place, file.path) as stream, pq.ParquetFile(stream) as parquet:
        footer, schema = parquet.metadata, parquet.schema_arrow
    problem = input_schema.problem(input_schema.parquet_columns(schema))
    if problem:
        raise _another_shape(place, file.path, problem)
    return [footer.row_group(index).num_rows for index in range(footer.num_row_groups)]


def _read_parquet(place: Storage, piece: InputSplit) -> Iterator[tuple[str, Any]]:
    with _opened(place, piece["path"]) as stream, pq.ParquetFile(stream) as file:
        columns = [name for name in COLUMNS if name in file.schema_arrow.names]
        table = file.read_row_group(piece["row_group"], columns=columns)
    plain = pa.table({name: _as_bytes(table[name]) for name in columns})
    for batch in plain.to_batches(max_chunksize=1_000):
        rows = batch.to_pylist()
        yield from ((f"{piece['path']}#{piece['row_group']}", row) for row in rows)


def _as_bytes(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Take texts as bytes, at any depth, so that bytes that are no UTF-8 reach the check instead of ending the job."""
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


def _read_json(place: Storage, piece: InputSplit) -> Iterator[tuple[str, Any]]:
    """Read the lines that start inside the piece's bytes; the last one may end beyond."""
    with _opened(place, piece["path"]) as stream:
        packed = piece["path"].endswith(".gz")
        lines = gzip.open(stream) if packed else io.BufferedReader(stream, 1 << 20)  # noqa: SIM115 - closed with the stream
        at = piece["start"]
        if at:
            lines.seek(at - 1)
            at += len(lines.readline()) - 1
        for line in lines:
            if not packed and at >= piece["stop"]:
                return
            where, at = f"{piece['path']}@{at}", at + len(line)
            if line.strip():
                yield where, _parsed(line)


def _parsed(line: bytes) -> Any:  # noqa: ANN401 - a line of JSON may hold anything
    try:
        return json.loads(line.decode("utf-8-sig"))  # a file may begin with a byte-order mark
    except ValueError as error:
        return error
    except RecursionError:
        return ValueError("nested too deeply")
