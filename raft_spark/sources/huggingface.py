"""hf:OWNER/NAME/CONFIG -> Parquet files and a marker: a dataset of the Hugging Face hub as of one commit.

The one door to `datasets`, which says what files a configuration has. pyarrow reads them: streamed by `datasets`, all
that was read stays in memory, and stopped midway the process can hang at exit (apache/arrow#45214). One request with a
short timeout goes ahead of all others: the libraries would try for minutes to reach a hub behind a closed network.
"""
# ruff: noqa: PLC0415 - the client libraries take a second to import and are only in the extra `local`

import itertools
import json
import tempfile
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyarrow import fs, parquet

from raft_spark.errors import InputError

ROWS, FILE_ROWS, FILE_BYTES = 4_000, 48_000, 64 << 20  # of a row group; the group that reaches a limit ends its file
FIRST_TIMEOUT = 5.0  # wait for the first answer, per address; huggingface.co has several, tried one after the other
ALTERNATIVES = "articles.source may also be a folder or glob of Parquet or JSON Lines (/path/*.parquet), or sample:N"


@dataclass(frozen=True)
class Snapshot:
    """All rows of a source as of one commit, in the Parquet files of a folder."""

    folder: str
    revision: str
    rows: int


def revision(source: str) -> str:
    """Return the newest commit of the source's repository, 40 hexadecimal digits. Raises InputError."""
    with _door(source) as api:
        return str(api.dataset_info(_split(source)[0], timeout=FIRST_TIMEOUT).sha)


def download(source: str, revision: str, folder: str, filesystem: fs.FileSystem) -> Snapshot:
    """Copy split `train` as of `revision` into `folder`, emptied first, a row group at a time. Raises InputError.

    source.json is written last; where it already names this source and revision, the hub is not even asked.
    """
    marker, wanted, found = f"{folder}/source.json", {"source": source, "revision": revision}, dict[str, Any]()
    with suppress(FileNotFoundError, ValueError), filesystem.open_input_stream(marker) as stream:
        found = json.loads(stream.read())  # ValueError: it was not written to its end
    if wanted.items() <= found.items():
        return Snapshot(folder, revision, found["rows"])
    with closing(_batches(source, revision)) as batches:
        first = list(itertools.islice(batches, 1))  # a source that cannot be read leaves the folder as it is
        if found:
            filesystem.delete_file(marker)  # before the rest, or it could stand beside half of the files
        filesystem.delete_dir_contents(folder, missing_dir_ok=True)
        if filesystem.type_name != "s3":  # there a folder needs no making, and a role may be denied it
            filesystem.create_dir(folder, recursive=True)
        rows = _write(itertools.chain(first, batches), folder, filesystem)
    with filesystem.open_output_stream(marker) as sink:
        sink.write(json.dumps(wanted | {"rows": rows}).encode())
    return Snapshot(folder, revision, rows)


def _batches(source: str, revision: str) -> Generator[pa.RecordBatch, None, None]:
    """Yield all rows in the hub's order, ROWS at a time."""
    with tempfile.TemporaryDirectory() as cache, _door(source) as api:
        repo, name = _split(source)
        api.dataset_info(repo, revision=revision, timeout=FIRST_TIMEOUT)
        import datasets
        from huggingface_hub import HfFileSystem

        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # asks a host that is not the hub
        # Without hf:// and an empty cache, a local folder named like the repository or an older copy could be taken.
        builder = datasets.load_dataset_builder(f"hf://datasets/{repo}", name, revision=revision, cache_dir=cache)
        if "train" not in builder.config.data_files:
            raise ValueError("it has no split train")
        for file in builder.config.data_files["train"]:
            # A group's columns and the next group's take turns: a few blocks of 5 MB, and each is asked for once.
            with HfFileSystem().open(file, cache_type="blockcache", cache_options={"maxblocks": 6}) as opened:
                yield from parquet.ParquetFile(opened, pre_buffer=False).iter_batches(ROWS, use_threads=False)


def _write(batches: Iterator[pa.RecordBatch], folder: str, filesystem: fs.FileSystem) -> int:
    """Write each batch as a row group and return the number of rows."""
    rows = 0
    for number, first in enumerate(batches):
        path, full = f"{folder}/part-{number:05d}.parquet", rows + FILE_ROWS
        with filesystem.open_output_stream(path) as sink, parquet.ParquetWriter(sink, first.schema) as writer:
            for batch in itertools.chain([first], batches):
                writer.write_batch(batch)
                rows += batch.num_rows
                if rows >= full or sink.tell() >= FILE_BYTES:
                    break
    return rows


@contextmanager
def _door(source: str) -> Iterator[Any]:
    """Yield the hub's HfApi, and turn what it or `datasets` raises into an InputError of one sentence."""
    try:
        from huggingface_hub import HfApi, constants
        from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # httpx's or httpx2's, by version

        constants.HF_HUB_DISABLE_TELEMETRY = True  # else a list of coding agents is asked for first
        yield HfApi()
    except ImportError as error:
        message = f"{source} needs the package {error.name} (pip install 'raft-spark[local]'); {ALTERNATIVES}"
        raise InputError(message) from error
    except (HTTPError, OSError, ValueError, RuntimeError, pa.ArrowException) as error:
        cause: BaseException = error
        while cause.__cause__:
            cause = cause.__cause__
        status = getattr(getattr(cause, "response", None), "status_code", None)
        what = f"status {status}" if status else f"{type(cause).__name__}: {' '.join(str(cause).split())}"
        reason = f"cannot give it ({what})"
        if constants.HF_HUB_OFFLINE:
            reason = "is not asked, because HF_HUB_OFFLINE is set"
        elif status in (401, 403, 404) or type(error).__name__ == "DatasetNotFoundError":
            reason = f"denies it ({what}): wrong name or revision, or private or gated (accept its terms, set HF_TOKEN)"
        elif not status and isinstance(error, (ConnectionError, TimeoutError, HTTPError)):
            reason = f"cannot be reached ({what})"
        message = f"{source} cannot be read: the hub at {constants.ENDPOINT} {reason}; {ALTERNATIVES}"
        raise InputError(message) from error


def _split(source: str) -> tuple[str, str]:
    repo, _, name = source.removeprefix("hf:").rpartition("/")
    return repo, name
