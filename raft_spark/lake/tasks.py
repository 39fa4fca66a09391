"""Run Python functions over the partitions of a DataFrame, and raise a worker's RaftError on the driver with its type.

Spark passes a worker's exception to the driver as text, which loses the type. So the worker raises a WorkerError whose
text is one JSON object, and the driver decodes it.
"""

import json
import pickle
import re
import sys
import zipimport
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame
from pyspark.sql.pandas.types import from_arrow_schema

from raft_spark import errors
from raft_spark.common import retries
from raft_spark.errors import DamageError, InputError, RaftError

MARK = '{"raft_spark_error": '  # the start of the JSON object in the text of Spark's exception

# Spark 4: FAILED_READ_FILE and CANNOT_READ_FILE_FOOTER; Spark 3.5: the same sentences, and its own on files that are gone
UNREADABLE = re.compile(
    r"(?:while reading file|read footer for file:|File does not exist:|Path does not exist:) *([^\s,]*[^\s,.])"
)
# What Java raises, as the cause, when the store was not reached or did not let a read through: the file itself may be whole
_NOT_REACHED = re.compile(
    r"(?:Sdk(?:Client|Service)Exception|AWS\w*Exception|S3Exception|AccessDeniedException|UnknownHostException"
    r"|ConnectException|SocketException|SocketTimeoutException|ConnectTimeoutException|NoHttpResponseException"
    r"|ConnectionClosedException|SSLException): *(?![^\n]*Status Code: 404)[^\n]{0,300}"
)

# What Java raises when a connection breaks within a reply: the same call may succeed in a moment
_BROKEN = re.compile(
    r"(?:SocketException|SocketTimeoutException|NoHttpResponseException|ConnectionClosedException|SSLException"
    r"|SdkClientException|EOFException)\b"
)
FIRST_PAUSE = 0.2  # seconds
_OBJECTS = pa.schema([("object", pa.binary())])

ArrowFunction = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]
_T = TypeVar("_T")


class WorkerError(Exception):
    """Carries a RaftError from a worker to the driver; its text is a JSON object."""


def map_in_arrow(rows: DataFrame, function: ArrowFunction, schema: pa.Schema) -> DataFrame:
    """Apply `function` to the batches of each partition of `rows`; lazy.

    Run the Spark action inside `worker_errors` to get a RaftError of `function` as that RaftError.
    """
    return rows.mapInArrow(partial(_encode_errors, function=function), from_arrow_schema(schema))


def collect_objects(rows: DataFrame, function: Callable[[Iterator[pa.RecordBatch]], Iterator[_T]]) -> list[_T]:
    """Apply `function` to the batches of each partition of `rows`, and return the objects that it yields, whatever they are.

    An RDD would do that too, but Spark starts other Python workers for it than for DataFrames.
    """
    found = map_in_arrow(rows, partial(_pickled, function=function), _OBJECTS).collect()
    return [pickle.loads(row.object) for row in found]  # noqa: S301 - this run's own workers wrote it


def _pickled(
    batches: Iterator[pa.RecordBatch], function: Callable[[Iterator[pa.RecordBatch]], Iterator[Any]]
) -> Iterator[pa.RecordBatch]:
    for found in function(batches):
        yield pa.RecordBatch.from_arrays([pa.array([pickle.dumps(found)], pa.binary())], schema=_OBJECTS)


@contextmanager
def worker_errors() -> Iterator[None]:
    """Raise the RaftError that a worker raised in a Spark action of the block, or one that names the file that Spark cannot read.

    Other errors pass unchanged, as Spark's.
    """
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        found = decode(str(error)) or unreadable_file(str(error))
        if found is None:
            raise
        raise found from error


def repeat_broken(call: Callable[[], _T]) -> _T:
    """Call Spark again, after growing pauses, while a connection to the store breaks; return the result, or raise the last error.

    Spark repeats what its tasks read, but nobody repeats a listing on the driver whose reply breaks off.
    """
    errors = (PySparkException, Py4JJavaError)
    return retries.retried(call, errors, lambda error: bool(_BROKEN.search(str(error))), FIRST_PAUSE)


def encode(error: RaftError) -> str:
    """Return the error as one line of JSON."""
    return json.dumps({"raft_spark_error": type(error).__name__, "message": str(error)})


def decode(text: str) -> RaftError | None:
    """Return the error whose JSON object is in `text`; None when there is none."""
    start = text.find(MARK)
    if start < 0:
        return None
    found, _ = json.JSONDecoder().raw_decode(text, start)
    kind: type[RaftError] = getattr(errors, found["raft_spark_error"])
    return kind(found["message"])


def unreadable_file(text: str) -> InputError | None:
    """Return the error that names the file that Spark could not read; None when `text` is another error of Spark's.

    It is a DamageError, except where the store was not reached or refused the access.
    """
    found = UNREADABLE.search(text)
    if found is None:
        return None
    if cause := _NOT_REACHED.search(text, found.end()):
        return InputError(f"{found[1]} cannot be read: {cause[0].strip()}; restore the access to it and run again")
    return DamageError(
        f"{found[1]} is damaged or missing: Spark cannot read it; `raft-spark check TABLE` compares all files with their manifest"
    )


def _encode_errors(batches: Iterator[pa.RecordBatch], function: ArrowFunction) -> Iterator[pa.RecordBatch]:
    _forget_zip_finders()
    try:
        yield from function(batches)
    except RaftError as error:
        raise WorkerError(encode(error)) from error


def _forget_zip_finders() -> None:
    """Drop what Python holds to find modules in zip files; the next import from a zip file builds it again.

    Spark clears the caches of all finders before each task. In Python 3.11, one of a zip file then reads the whole list of
    its files again, once for each package of pyspark.zip: a tenth of a CPU second a task.
    """
    for path, finder in list(sys.path_importer_cache.items()):
        if isinstance(finder, zipimport.zipimporter):
            del sys.path_importer_cache[path]
