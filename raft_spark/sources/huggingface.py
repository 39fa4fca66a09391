"""Copy a dataset of the Hugging Face hub (hf:OWNER/NAME/CONFIG), as of one commit, to Parquet files and a marker file.

`datasets` lists the files of a configuration and pyarrow reads them. If `datasets` streamed them, all rows would stay in
memory, and a process that stops midway could hang at exit (apache/arrow#45214). Several ranges are requested at the same time,
since the answer to each takes two round trips. The first request has a short timeout, because the libraries try for minutes to
reach the hub from a closed network.
"""
# ruff: noqa: PLC0415 - the client libraries take a second to import and are only in the extra `local`

import functools
import itertools
import json
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from operator import attrgetter
from queue import SimpleQueue
from typing import Any

import pyarrow as pa
from pyarrow import fs, parquet

from raft_spark.errors import InputError

ROWS = 4_000  # in a row group
FILE_ROWS, FILE_BYTES = 48_000, 64 << 20  # the row group that reaches a limit ends its file
BLOCK = 4 << 20  # bytes of a request
AHEAD, BEHIND = 8, 4  # requests at the same time, and blocks that stay in memory so that each is fetched once
FIRST_TIMEOUT = 5.0  # seconds for the first request, for each of the several addresses of huggingface.co
ALTERNATIVES = "articles.source may also be a folder or glob of Parquet or JSON Lines (/path/*.parquet), or sample:N"


@dataclass(frozen=True)
class Snapshot:
    """A folder of Parquet files with all rows of a source as of one commit."""

    folder: str
    revision: str
    rows: int


def revision(source: str) -> str:
    """Return the newest commit of the source's repository: 40 hexadecimal digits. Raises InputError if the hub does not give it."""
    with _hub(source) as api:
        return str(api.dataset_info(_parse(source)[0], timeout=FIRST_TIMEOUT).sha)


def copied(source: str, revision: str, folder: str, filesystem: fs.FileSystem) -> Generator[list[str], None, None]:
    """Yield the names of the files of a `download` that have become whole since, while the next ones are copied.

    A caller that stops early stops the download. Raises what `download` raises.
    """
    whole, given_up = SimpleQueue[str](), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        copying = pool.submit(download, source, revision, folder, filesystem, whole.put, given_up)
        copying.add_done_callback(lambda _: whole.put(""))
        names = ["the first"]
        try:
            while names[-1]:
                names = [whole.get(), *(whole.get() for _ in range(whole.qsize()))]
                if names[0]:
                    yield list(filter(None, names))
        finally:
            given_up.set()
        copying.result()


def download(
    source: str,
    revision: str,
    folder: str,
    filesystem: fs.FileSystem,
    arrived: Callable[[str], object] = str,  # which does nothing
    given_up: threading.Event | None = None,
) -> Snapshot:
    """Copy the split `train` as of `revision` to `folder`, a row group at a time. The folder is emptied first.

    `arrived` is called with the name of each file that is whole. The marker source.json is written last. If it already names
    this source and revision, nothing is requested from the hub. Raises InputError if the hub does not give the dataset, and
    InterruptedError soon after `given_up` is set.
    """
    marker, wanted, found = f"{folder}/source.json", {"source": source, "revision": revision}, dict[str, Any]()
    with suppress(FileNotFoundError, ValueError), filesystem.open_input_stream(marker) as stream:
        found = json.loads(stream.read())  # ValueError: the marker is incomplete
    if wanted.items() <= found.items():
        for file in sorted(filesystem.get_file_info(fs.FileSelector(folder)), key=attrgetter("base_name")):
            if file.extension == "parquet":
                arrived(file.base_name)
        return Snapshot(folder, revision, found["rows"])
    with closing(_batches(source, revision)) as batches:
        first = list(itertools.islice(batches, 1))  # read before the folder is emptied: the source may be unreadable
        if found:
            filesystem.delete_file(marker)  # first, so that there is never a marker with only some of its files
        filesystem.delete_dir_contents(folder, missing_dir_ok=True)
        if filesystem.type_name != "s3":  # S3 needs no folder, and the role may lack the permission
            filesystem.create_dir(folder, recursive=True)
        rows = _write(_until(given_up, itertools.chain(first, batches)), folder, filesystem, arrived)
    with filesystem.open_output_stream(marker) as sink:
        sink.write(json.dumps(wanted | {"rows": rows}).encode())
    return Snapshot(folder, revision, rows)


def _batches(source: str, revision: str) -> Generator[pa.RecordBatch, None, None]:
    """Yield all rows in the order of the hub, ROWS at a time."""
    with tempfile.TemporaryDirectory() as cache, _hub(source) as api:
        repo, name = _parse(source)
        api.dataset_info(repo, revision=revision, timeout=FIRST_TIMEOUT)
        import datasets

        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # this would call another host than the hub
        # Without hf://, a local folder named like the repository could be read; without an empty cache, an older copy.
        builder = datasets.load_dataset_builder(f"hf://datasets/{repo}", name, revision=revision, cache_dir=cache)
        if "train" not in builder.config.data_files:
            raise ValueError("it has no split train")
        files = builder.config.data_files["train"]
        for file in files:
            if not file.lower().endswith(".parquet"):
                msg = f"its file {file.rpartition('/')[2]} is not Parquet; download it and name its folder"
                raise ValueError(msg)
        with closing(_read_ahead(files)) as readers:
            for reader in readers:
                yield from parquet.ParquetFile(reader, pre_buffer=False).iter_batches(ROWS, use_threads=False)


def _read_ahead(files: Sequence[str]) -> Generator[Any, None, None]:
    """Open one file after the other, while the next AHEAD blocks are requested, also those of the next file.

    pyarrow reads the footer in the last block of a file first, and later alternates between the columns of several row groups.
    """
    from huggingface_hub import HfFileSystem

    hub, requested = HfFileSystem(), dict[tuple[str, int], Future[bytes]]()
    starts = {file: range(0, max(1, hub.size(file)), BLOCK) for file in files}
    blocks = ((file, start) for file in files for start in (starts[file][-1], *starts[file][:-1]))

    def fetch(file: str, start: int) -> bytes:
        return bytes(hub.cat_file(file, start, start + BLOCK, cache_type="none"))

    @functools.lru_cache(BEHIND)
    def block(file: str, start: int) -> bytes:
        for ahead in itertools.islice(blocks, 1 + AHEAD - len(requested)):
            requested[ahead] = pool.submit(fetch, *ahead)
        is_last = start == starts[file][-1]  # it is read first for the footer, and again at the end
        found = requested.get((file, start)) if is_last else requested.pop((file, start), None)
        return found.result() if found else fetch(file, start)

    def read(file: str, start: int, stop: int) -> bytes:
        content = b"".join(block(file, at) for at in range(start // BLOCK * BLOCK, stop, BLOCK))
        return content[start % BLOCK : start % BLOCK + stop - start]

    pool = ThreadPoolExecutor(AHEAD)
    try:
        for file in files:
            with hub.open(file, cache_type="none") as reader:
                reader.cache.fetcher = functools.partial(read, file)
                yield reader
            for done in [each for each in requested if each[0] == file]:
                del requested[done]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _until(given_up: threading.Event | None, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        if given_up and given_up.is_set():
            raise InterruptedError
        yield batch


def _write(
    batches: Iterator[pa.RecordBatch], folder: str, filesystem: fs.FileSystem, arrived: Callable[[str], object]
) -> int:
    """Write each batch as a row group and return the number of rows. Shards with other columns go to files of their own."""
    rows, numbers = 0, itertools.count()
    for schema, alike in itertools.groupby(batches, attrgetter("schema")):
        for first in alike:
            name, full = f"part-{next(numbers):05d}.parquet", rows + FILE_ROWS
            with (
                filesystem.open_output_stream(f"{folder}/{name}") as sink,
                parquet.ParquetWriter(sink, schema) as writer,
            ):
                for batch in itertools.chain([first], alike):
                    writer.write_batch(batch)
                    rows += batch.num_rows
                    if rows >= full or sink.tell() >= FILE_BYTES:
                        break
            arrived(name)
    return rows


@contextmanager
def _hub(source: str) -> Iterator[Any]:
    """Yield the hub's HfApi, and turn the errors of the hub and of `datasets` into an InputError of one sentence."""
    try:
        from huggingface_hub import HfApi, constants
        from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # httpx's or httpx2's, by version

        constants.HF_HUB_DISABLE_TELEMETRY = True  # otherwise a list of coding agents is fetched first
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
        reason = f"fails ({what})"
        if constants.HF_HUB_OFFLINE:
            reason = "is not contacted, because HF_HUB_OFFLINE is set"
        elif status in (401, 403, 404) or type(error).__name__ == "DatasetNotFoundError":
            reason = f"denies it ({what}): wrong name or revision, or private or gated (accept its terms, set HF_TOKEN)"
        elif not status and isinstance(error, (ConnectionError, TimeoutError, HTTPError)):
            reason = f"cannot be reached ({what})"
        message = f"{source} cannot be read: the hub at {constants.ENDPOINT} {reason}; {ALTERNATIVES}"
        raise InputError(message) from error


def _parse(source: str) -> tuple[str, str]:
    """Return repository and configuration."""
    repo, _, name = source.removeprefix("hf:").rpartition("/")
    return repo, name
