"""hf:OWNER/NAME/CONFIG -> Parquet files and a marker: a dataset of the Hugging Face hub as of one commit.

The one door to `datasets`. One request with a short timeout and without retries goes ahead of all others: the client
libraries would try for minutes to reach a hub that a closed network never lets them reach.
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
from pyarrow import dataset, fs, parquet

from raft_spark.errors import InputError

ROWS = 4_000  # of a row group
FILE_ROWS, FILE_BYTES = 12 * ROWS, 64 << 20  # the row group that reaches one of them ends the file
FIRST_SECONDS = 5.0  # wait for the first answer, per address; huggingface.co has several, tried one after the other
OTHERS = "articles.source may also be a folder or glob of Parquet or JSON Lines (/path/*.parquet), or sample:N"


@dataclass(frozen=True)
class Snapshot:
    """All rows of a source as of one commit, in the Parquet files of a folder."""

    folder: str
    revision: str
    rows: int


def revision(source: str) -> str:
    """Return the newest commit of the source's repository, 40 hexadecimal digits. Raises InputError."""
    with _door(source) as api:
        return str(api.dataset_info(_split(source)[0], timeout=FIRST_SECONDS).sha)


def download(source: str, revision: str, folder: str, filesystem: fs.FileSystem) -> Snapshot:
    """Copy split `train` as of `revision` into `folder`, emptied first, a row group at a time. Raises InputError.

    source.json is written last; where it already names this source and revision, the hub is not even asked.
    """
    marker, wanted, found = f"{folder}/source.json", {"source": source, "revision": revision}, dict[str, Any]()
    with suppress(FileNotFoundError, ValueError), filesystem.open_input_stream(marker) as stream:
        found = json.loads(stream.read())  # ValueError: it was not written to its end
    if wanted.items() <= found.items():
        return Snapshot(folder, revision, found["rows"])
    with closing(_tables(source, revision)) as tables:
        first = list(itertools.islice(tables, 1))  # a source that cannot be read leaves the folder as it is
        if found:
            filesystem.delete_file(marker)  # before the rest, or it could stand beside half of the files
        filesystem.delete_dir_contents(folder, missing_dir_ok=True)
        if filesystem.type_name != "s3":  # there a folder needs no making, and a role may be denied it
            filesystem.create_dir(folder, recursive=True)
        rows = _write(itertools.chain(first, tables), folder, filesystem)
    with filesystem.open_output_stream(marker) as sink:
        sink.write(json.dumps(wanted | {"rows": rows}).encode())
    return Snapshot(folder, revision, rows)


def _tables(source: str, revision: str) -> Generator[pa.Table, None, None]:
    """Yield all rows in the hub's order, ROWS at a time."""
    with tempfile.TemporaryDirectory() as cache, _door(source) as api:
        repo, name = _split(source)
        api.dataset_info(repo, revision=revision, timeout=FIRST_SECONDS)
        import datasets

        for setting in [setting for setting in vars(datasets.config) if setting.startswith("STREAMING_")]:
            setattr(datasets.config, setting, 1 if "MAX_RETRIES" in setting else 0)  # not 20 rounds of 6 tries in 23 s
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # asks a host that is not the hub
        # Without hf:// and an empty cache, a local folder named like the repository or an older copy could be taken.
        builder = datasets.load_dataset_builder(f"hf://datasets/{repo}", name, revision=revision, cache_dir=cache)
        if hasattr(builder.config, "fragment_scan_options"):  # of Parquet; its default keeps all that was ever read
            builder.config.fragment_scan_options = dataset.ParquetFragmentScanOptions(pre_buffer=False)
            builder.config.batch_size = ROWS
        yield from builder.as_streaming_dataset("train").with_format("arrow").iter(ROWS)


def _write(tables: Iterator[pa.Table], folder: str, filesystem: fs.FileSystem) -> int:
    """Write each table as a row group and return the number of rows."""
    rows = 0
    for number, first in enumerate(tables):
        path, full = f"{folder}/part-{number:05d}.parquet", rows + FILE_ROWS
        with filesystem.open_output_stream(path) as sink, parquet.ParquetWriter(sink, first.schema) as writer:
            for table in itertools.chain([first], tables):
                writer.write_table(table, row_group_size=ROWS)
                rows += table.num_rows
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
        message = f"{source} needs the package {error.name} (pip install 'raft-spark[local]'); {OTHERS}"
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
        message = f"{source} cannot be read: the hub at {constants.ENDPOINT} {reason}; {OTHERS}"
        raise InputError(message) from error


def _split(source: str) -> tuple[str, str]:
    """hf:OWNER/NAME/CONFIG -> (OWNER/NAME, CONFIG)."""
    repo, _, name = source.removeprefix("hf:").rpartition("/")
    return repo, name
