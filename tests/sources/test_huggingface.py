"""raft_spark.sources.huggingface with the real `datasets` client against a loopback hub.

The client reads HF_ENDPOINT when it is imported, so the calls run in a Python of their own.
"""

import io
import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from conftest import ROOT
from support.loopback_hub import LoopbackHub

SOURCE = "hf:qiaojin/PubMedQA/pqa_artificial"
DATA = "pqa_artificial/train-00000-of-00001.parquet"
README = """---
license: mit
configs:
- config_name: pqa_artificial
  data_files:
  - split: train
    path: pqa_artificial/train-*
- config_name: pqa_labeled
  data_files:
  - split: train
    path: pqa_labeled/train-*
dataset_info:
- config_name: pqa_artificial
  features:
  - name: pubid
    dtype: int32
  - name: question
    dtype: string
  - name: context
    sequence:
    - name: contexts
      dtype: string
    - name: labels
      dtype: string
    - name: meshes
      dtype: string
  - name: long_answer
    dtype: string
  - name: final_decision
    dtype: string
  splits:
  - name: train
    num_bytes: 2099
    num_examples: 2
---
"""
TEXTS = pa.list_(pa.string())
SCHEMA = pa.schema(
    {
        "pubid": pa.int32(),
        "question": pa.string(),
        "context": pa.struct({"contexts": TEXTS, "labels": TEXTS, "meshes": TEXTS}),
        "long_answer": pa.string(),
        "final_decision": pa.string(),
    }
)
CHILD = """
import json, sys, time
from pyarrow import fs
from raft_spark import errors
from raft_spark.sources import huggingface

calls, missing = json.loads(sys.argv[1])
sys.modules.update(dict.fromkeys(missing))  # None: the import fails
time.sleep = lambda seconds: None  # the client waits 23 s in all between its six tries
disk = DISK
try:
    print(json.dumps([huggingface.revision(*call) if len(call) == 1 else huggingface.download(*call, disk).rows for call in calls]))
except errors.InputError as error:
    print(json.dumps(str(error)))
"""
COPY = """
import sys
from pyarrow import fs
from raft_spark.sources import huggingface

huggingface.BLOCK, huggingface.AHEAD, huggingface.BEHIND = map(int, sys.argv[4:])
print(huggingface.download(*sys.argv[1:4], fs.LocalFileSystem()).rows)
"""
COPIED = """
import sys
from pathlib import Path
from pyarrow import fs
from raft_spark.sources import huggingface

for names in huggingface.copied(*sys.argv[1:], fs.LocalFileSystem()):
    for name in names:
        print(name, Path(sys.argv[3], "source.json").exists())
"""
FAILED = """except raft_spark.errors.InputError as error:
  print(error)
"""
FIRST = """
import sys
from pyarrow import fs
from raft_spark.sources import huggingface

copied = huggingface.copied(*sys.argv[1:], fs.LocalFileSystem())
print(next(copied))
copied.close()
"""
SIZES = ("4194304", "8", "4")  # of COPY, as they are
MEASURE = """
import re, sys
from pathlib import Path
import datasets
from pyarrow import fs
from raft_spark.sources import huggingface

def megabytes(name):
    return int(re.search(name + ":[ \\t]+([0-9]+) kB", Path("/proc/self/status").read_text())[1]) / 1000

Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
start = megabytes("VmRSS")
huggingface.download(*sys.argv[1:], fs.LocalFileSystem())
print(megabytes("VmHWM") - start)
"""


def article(number: int, passage: str = "More had it.") -> dict[str, object]:
    context = {"contexts": ["Some had it.", passage], "labels": ["AIMS", "RESULTS"], "meshes": ["Humans"]}
    answer = {"long_answer": "It is.", "final_decision": "yes"}
    return {"pubid": number, "question": "Is it so ?", "context": context, **answer}


def articles(count: int) -> pa.Table:
    return pa.Table.from_pylist([article(number) for number in range(count)], SCHEMA)


def large(groups: int) -> pa.Table:
    """Return articles that do not compress, 1,000 and 1.5 MB a group."""
    noise = random.Random(7)
    group = [article(number, noise.randbytes(700).hex()) for number in range(1_000)]
    return pa.concat_tables([pa.Table.from_pylist(group, SCHEMA)] * groups)


def parquet(table: pa.Table, row_group_size: int = 1_000) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=row_group_size, compression="none", use_dictionary=False)
    return sink.getvalue()


def repository(data: bytes) -> dict[str, bytes]:
    """Return the files of a repository with the data as pqa_artificial and a single article as pqa_labeled."""
    return {"README.md": README.encode(), DATA: data, DATA.replace("artificial", "labeled"): parquet(articles(1))}


def python(code: str, *arguments: str, url: str, folder: Path, **environ: str) -> str:
    """Run the code in `folder` with its own caches and return what it prints."""
    command, env = [sys.executable, "-c", code, *arguments], environment(url, folder) | environ
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def environment(url: str, folder: Path) -> dict[str, str]:
    fixed = {"HF_ENDPOINT": url, "HF_HOME": str(folder / "home"), "HOME": str(folder), "PYTHONPATH": str(ROOT)}
    return fixed | {"NO_PROXY": "127.0.0.1", "PATH": os.environ["PATH"]}


def ask(
    folder: Path,
    url: str,
    *calls: tuple[str, ...],
    missing: tuple[str, ...] = (),
    disk: str = "fs.LocalFileSystem()",
    **environ: str,
) -> Any:
    """Return the answers to calls of `revision` (source) and `download` (source, revision, folder), or the InputError."""
    code = CHILD.replace("DISK", disk)
    return json.loads(python(code, json.dumps([calls, missing]), url=url, folder=folder, **environ))


def read(folder: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob("*.parquet"))).replace_schema_metadata()


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub("qiaojin/PubMedQA") as hub:
        yield hub


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    return tmp_path / "lake" / "source"


def test_rows_and_columns_arrive_with_the_revision(hub: LoopbackHub, tmp_path: Path, lake: Path) -> None:
    revision = hub.commit(repository(parquet(articles(2))))
    assert ask(tmp_path, hub.url, (SOURCE,), (SOURCE, revision, str(lake))) == [revision, 2]
    assert hub.requests[0] == "GET /api/datasets/qiaojin/PubMedQA", "nothing goes ahead of the question with a timeout"
    assert sorted(path.name for path in lake.iterdir()) == ["part-00000.parquet", "source.json"]
    assert json.loads((lake / "source.json").read_text()) == {"source": SOURCE, "revision": revision, "rows": 2}
    assert read(lake).schema == SCHEMA
    assert read(lake).to_pylist() == [article(0), article(1)]


def test_files_and_row_groups_have_the_promised_sizes(hub: LoopbackHub, tmp_path: Path, lake: Path) -> None:
    revision = hub.commit(repository(parquet(articles(49_001), row_group_size=49_001)))
    assert ask(tmp_path, hub.url, (SOURCE, revision, str(lake))) == [49_001]
    parts = [pq.read_metadata(path) for path in sorted(lake.glob("*.parquet"))]
    sizes = [[part.row_group(group).num_rows for group in range(part.num_row_groups)] for part in parts]
    assert sizes == [[4_000] * 12, [1_001]]
    assert read(lake)["pubid"].to_pylist() == list(range(49_001))


def test_shards_with_other_types_and_columns_are_copied_as_they_are(
    hub: LoopbackHub, tmp_path: Path, lake: Path
) -> None:
    first, second, third = articles(3).slice(0, 1), articles(3).slice(1, 1), articles(3).slice(2, 1)
    second = second.set_column(0, "pubid", second["pubid"].cast(pa.int64()))
    second = second.set_column(1, "question", second["question"].cast(pa.large_string()))
    third = third.select(["context", "question", "pubid"])
    shards = {
        f"pqa_artificial/train-0000{number}-of-00003.parquet": each
        for number, each in enumerate([first, second, third])
    }
    files = {path: parquet(table) for path, table in shards.items()}
    revision = hub.commit({"README.md": README.encode(), **files})
    assert ask(tmp_path, hub.url, (SOURCE, revision, str(lake))) == [3]
    parts = [pq.ParquetFile(path).read().replace_schema_metadata() for path in sorted(lake.glob("*.parquet"))]
    assert parts == [first, second, third]


def test_a_second_call_asks_and_loads_nothing(hub: LoopbackHub, tmp_path: Path, lake: Path) -> None:
    revision = hub.commit(repository(parquet(articles(2))))
    ask(tmp_path, hub.url, (SOURCE, revision, str(lake)))
    before, times = len(hub.requests), [path.stat().st_mtime_ns for path in sorted(lake.iterdir())]
    assert ask(tmp_path, hub.url, (SOURCE, revision, str(lake))) == [2]
    assert len(hub.requests) == before > 0
    assert [path.stat().st_mtime_ns for path in sorted(lake.iterdir())] == times


def test_a_new_revision_is_seen_and_the_old_one_stays_reachable(hub: LoopbackHub, tmp_path: Path, lake: Path) -> None:
    old = hub.commit(repository(parquet(articles(49_001))))
    assert ask(tmp_path, hub.url, (SOURCE,), (SOURCE, old, str(lake))) == [old, 49_001]
    new = hub.commit(repository(parquet(articles(3))))
    other = lake.with_name("other")
    calls = [(SOURCE,), (SOURCE, new, str(lake)), (SOURCE, old, str(other))]
    assert ask(tmp_path, hub.url, *calls) == [new, 3, 49_001]
    assert read(lake).num_rows == 3, "a part of the old revision is left"
    assert json.loads((lake / "source.json").read_text())["revision"] == new
    assert read(other).num_rows == 49_001


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_memory_stays_far_below_the_size_of_the_data(hub: LoopbackHub, tmp_path: Path, lake: Path) -> None:
    revision = hub.commit(repository(parquet(large(200))))
    grown = float(python(MEASURE, SOURCE, revision, str(lake), url=hub.url, folder=tmp_path))
    assert 0 < grown < 250, "megabytes, for 298; pyarrow's own reading ahead takes 410"
    assert sum("/storage/" in request for request in hub.requests) == 72, "each block of 4 MB once"
    assert [pq.read_metadata(path).num_row_groups for path in sorted(lake.glob("*.parquet"))] == [12, 12, 12, 12, 2]


@pytest.mark.parametrize("sizes", [("5000", "1", "1"), ("30000", "3", "2"), SIZES])
def test_the_snapshot_has_the_bytes_that_pyarrow_writes_from_the_files_on_a_disk(
    sizes: tuple[str, str, str], hub: LoopbackHub, tmp_path: Path, lake: Path
) -> None:
    tables = [articles(4_100), articles(1), articles(0), articles(900), large(1)[:100]]
    names = [f"pqa_artificial/train-0000{number}-of-00005.parquet" for number in range(5)]
    files = {name: parquet(table, 300) for name, table in zip(names, tables, strict=True)}
    revision = hub.commit({"README.md": README.encode(), **files})
    assert python(COPY, SOURCE, revision, str(lake), *sizes, url=hub.url, folder=tmp_path) == "5101\n"
    schema = pq.read_schema(io.BytesIO(files[names[0]]))  # it calls the items of lists `element`
    with pq.ParquetWriter(tmp_path / "plain.parquet", schema) as writer:
        for rows in (tables[0][:4_000], tables[0][4_000:], tables[1], tables[3], tables[4]):
            writer.write_table(rows.cast(schema).combine_chunks())
    assert [path.name for path in sorted(lake.iterdir())] == ["part-00000.parquet", "source.json"]
    assert (lake / "part-00000.parquet").read_bytes() == (tmp_path / "plain.parquet").read_bytes()


def test_eight_requests_at_once_cross_the_files(hub: LoopbackHub, tmp_path: Path, lake: Path) -> None:
    shard = parquet(large(10))  # 15 MB, 4 blocks
    names = [f"pqa_artificial/train-0000{number}-of-00003.parquet" for number in range(3)]
    revision = hub.commit({"README.md": README.encode()} | dict.fromkeys(names, shard))
    hub.latency = 0.1
    assert ask(tmp_path, hub.url, (SOURCE, revision, str(lake))) == [30_000]
    assert 6 <= hub.at_once <= 12, "8, and some whose answer has just ended"
    assert sum("/storage/" in request for request in hub.requests) == 12


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_kill_midway_leaves_no_marker_and_a_repeat_is_whole(
    number: signal.Signals, hub: LoopbackHub, tmp_path: Path, lake: Path
) -> None:
    revision = hub.commit(repository(parquet(large(40))))
    hub.rate = 3e6  # a block takes 1.4 seconds
    command = [sys.executable, "-c", COPY, SOURCE, revision, str(lake), *SIZES]
    with subprocess.Popen(command, env=environment(hub.url, tmp_path), stderr=subprocess.DEVNULL) as child:
        while not (lake / "part-00000.parquet").exists():
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(number)
        assert child.wait(20) != 0
    assert "source.json" not in [path.name for path in lake.iterdir()]
    hub.rate = math.inf
    assert ask(tmp_path, hub.url, (SOURCE, revision, str(lake))) == [40_000]
    assert read(lake) == large(40)


def test_files_are_told_when_they_are_whole_while_the_next_ones_are_copied(
    hub: LoopbackHub, tmp_path: Path, lake: Path
) -> None:
    revision = hub.commit(repository(parquet(large(100))))  # 150 MB, two files and a bit
    hub.rate = 1e7
    told = python(COPIED, SOURCE, revision, str(lake), url=hub.url, folder=tmp_path).splitlines()
    names, is_marked = zip(*(line.split() for line in told), strict=True)
    assert names == tuple(path.name for path in sorted(lake.glob("*.parquet")))
    assert len(names) == 3
    assert is_marked[:2] == ("False", "False"), "the copy went on"
    hub.requests.clear()
    again = python(COPIED, SOURCE, revision, str(lake), url=hub.url, folder=tmp_path).splitlines()
    assert [line.split()[0] for line in again] == list(names)
    assert not hub.requests


def test_whoever_takes_the_first_file_alone_stops_the_copy(hub: LoopbackHub, tmp_path: Path, lake: Path) -> None:
    revision = hub.commit(repository(parquet(large(100))))
    hub.rate = 1e7
    assert python(FIRST, SOURCE, revision, str(lake), url=hub.url, folder=tmp_path) == "['part-00000.parquet']\n"
    assert not (lake / "source.json").exists()
    assert len([request for request in hub.requests if "/storage/" in request]) < 36, "a request a block of 4 MB"


def test_a_copy_that_fails_after_its_first_file_is_an_error(hub: LoopbackHub, tmp_path: Path, lake: Path) -> None:
    shard = parquet(large(70))
    names = [f"pqa_artificial/train-0000{number}-of-00002.parquet" for number in range(2)]
    revision = hub.commit({"README.md": README.encode(), names[0]: shard, names[1]: b"no Parquet file at all"})
    code = COPIED.replace("for names", "import raft_spark.errors\ntry:\n  for names") + FAILED
    told = python(code, SOURCE, revision, str(lake), url=hub.url, folder=tmp_path).splitlines()
    assert told[0].startswith("part-00000.parquet")
    assert told[-1].startswith(f"{SOURCE} cannot be read")


def test_a_copy_that_fails_at_once_tells_of_no_file(hub: LoopbackHub, tmp_path: Path, lake: Path) -> None:
    revision = hub.commit(repository(b"no Parquet file at all"))
    code = (
        COPIED.replace("for names", "import raft_spark.errors\ntry:\n  for names").replace(
            "    for name", "    print(names)\n    for name"
        )
        + FAILED
    )
    (told,) = python(code, SOURCE, revision, str(lake), url=hub.url, folder=tmp_path).splitlines()
    assert told.startswith(f"{SOURCE} cannot be read")


def test_a_local_folder_of_the_same_name_is_not_taken(hub: LoopbackHub, tmp_path: Path, lake: Path) -> None:
    trap = tmp_path / "qiaojin" / "PubMedQA" / "pqa_artificial"
    trap.mkdir(parents=True)
    pq.write_table(articles(9), trap / "train-00000-of-00001.parquet")
    revision = hub.commit(repository(parquet(articles(2))))
    assert ask(tmp_path, hub.url, (SOURCE, revision, str(lake))) == [2]


def test_an_older_copy_in_the_cache_is_not_taken_when_the_hub_fails(
    hub: LoopbackHub, tmp_path: Path, lake: Path
) -> None:
    hub.commit(repository(parquet(articles(9))))
    load = "datasets.load_dataset('qiaojin/PubMedQA', 'pqa_artificial', split='train', verification_mode='no_checks')"
    assert python(f"import datasets; print(len({load}))", url=hub.url, folder=tmp_path) == "9\n"
    revision = hub.commit(repository(parquet(articles(2))))
    hub.fail("/resolve/.*README", 500)
    assert "cannot be read" in ask(tmp_path, hub.url, (SOURCE, revision, str(lake)))
    assert not lake.exists()


def test_the_import_loads_neither_client(tmp_path: Path) -> None:
    code = "import sys, raft_spark.sources.huggingface; print({'datasets', 'huggingface_hub'} & set(sys.modules))"
    assert python(code, url="", folder=tmp_path) == "set()\n"


@pytest.mark.parametrize(
    ("listens", "why"),
    [(False, "ConnectError: [Errno 111] Connection refused"), (True, "ReadTimeout: timed out")],
)
def test_a_hub_out_of_reach_is_one_sentence_within_seconds(
    *, listens: bool, why: str, tmp_path: Path, lake: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # its queue takes connections; nobody answers
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        if not listens:
            server.close()
        start = time.monotonic()
        message = ask(tmp_path, url, (SOURCE, "0" * 40, str(lake)))
        assert time.monotonic() - start < 20
    assert message == (
        f"{SOURCE} cannot be read: the hub at {url} cannot be reached ({why}); articles.source may also be a folder or "
        "glob of Parquet or JSON Lines (/path/*.parquet), or sample:N"
    )
    assert not lake.exists()


@pytest.mark.parametrize(
    ("source", "environ", "words"),
    [
        ("hf:qiaojin/PubMedQA/pqa", {}, ["'pqa' not found", "['pqa_artificial', 'pqa_labeled']"]),
        ("hf:qiaojin/PubMed/pqa_labeled", {}, ["status 401", "wrong name", "HF_TOKEN"]),
        (SOURCE, {"HF_HUB_OFFLINE": "1"}, ["not contacted, because HF_HUB_OFFLINE is set"]),
        (SOURCE, {"HF_DATASETS_OFFLINE": "1"}, ["OfflineModeIsEnabled"]),
    ],
)
def test_what_the_hub_lacks_or_may_not_be_asked(
    source: str, environ: dict[str, str], words: list[str], hub: LoopbackHub, tmp_path: Path, lake: Path
) -> None:
    revision = hub.commit(repository(parquet(articles(2))))
    message = ask(tmp_path, hub.url, (source, revision, str(lake)), **environ)
    assert all(word in message for word in [source, hub.url, "/path/*.parquet", "sample:N", *words]), message
    assert not lake.exists()


@pytest.mark.parametrize(
    ("pattern", "refusal", "words"),
    [
        ("/api/datasets/", (401, ""), "denies it (status 401)"),
        ("/api/datasets/", (404, "RevisionNotFound"), "denies it (status 404): wrong name or revision"),
        ("/api/datasets/", (503, ""), "fails (status 503)"),
        (
            "/resolve/.*README",
            (403, "GatedRepo"),
            "denies it (DatasetNotFoundError: Dataset 'qiaojin/PubMedQA' is a gated",
        ),
        ("/resolve/.*parquet", (403, "GatedRepo"), "denies it (status 403)"),
        ("/storage/", (500, ""), "fails (status 500)"),
    ],
)
def test_a_refusal_names_its_status(
    pattern: str, refusal: tuple[int, str], words: str, hub: LoopbackHub, tmp_path: Path, lake: Path
) -> None:
    revision = hub.commit(repository(parquet(articles(2))))
    hub.fail(pattern, refusal[0], code=refusal[1])
    message = ask(tmp_path, hub.url, (SOURCE, revision, str(lake)))
    assert words in message
    assert message.startswith(f"{SOURCE} cannot be read: the hub at {hub.url} ")
    assert not lake.exists()


@pytest.mark.parametrize(
    ("path", "content", "words"),
    [
        (
            DATA,
            b"PAR1 is how it begins, and there it ends",
            "fails (ArrowInvalid: Parquet magic bytes not found",
        ),
        (
            "README.md",
            README.replace("split: train", "split: test").encode(),
            "fails (ValueError: it has no split train)",
        ),
        (
            "README.md",
            README.replace("path: pqa_artificial/train-*", "path: train.jsonl").encode(),
            "fails (ValueError: its file train.jsonl is not Parquet; download it and name its folder)",
        ),
        ("PubMedQA.py", b"import datasets", "fails (RuntimeError: Dataset scripts are no longer supported"),
    ],
)
def test_what_the_client_does_not_read_is_no_traceback(
    path: str, content: bytes, words: str, hub: LoopbackHub, tmp_path: Path, lake: Path
) -> None:
    revision = hub.commit(repository(parquet(articles(2))) | {"train.jsonl": b"{}", path: content})
    assert words in ask(tmp_path, hub.url, (SOURCE, revision, str(lake)))
    assert not lake.exists()


def test_no_other_host_is_asked(hub: LoopbackHub, tmp_path: Path, lake: Path) -> None:
    revision = hub.commit(repository(parquet(articles(2))))
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(0)
        way_out = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        calls = [(SOURCE,), (SOURCE, revision, str(lake))]
        assert ask(tmp_path, hub.url, *calls, HTTPS_PROXY=way_out, HTTP_PROXY=way_out) == [revision, 2]
        with pytest.raises(BlockingIOError):
            proxy.accept()


def test_a_bucket_gets_the_same_objects(hub: LoopbackHub, tmp_path: Path) -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        url = "http://{}:{}".format(*server.get_host_and_port())
        bucket = boto3.resource("s3", endpoint_url=url).create_bucket(Bucket="lake")
        disk = f"fs.S3FileSystem(endpoint_override={url!r}, access_key='testing', secret_key='testing')"
        for count, parts in [(49_001, ["part-00000.parquet", "part-00001.parquet"]), (2, ["part-00000.parquet"])]:
            revision = hub.commit(repository(parquet(articles(count))))
            calls = [(SOURCE, revision, "lake/sources/one")] * 2
            assert ask(tmp_path, hub.url, *calls, disk=disk) == [count, count]
            found = {item.key for item in bucket.objects.filter(Prefix="sources/one/")} - {"sources/one/"}
            assert found == {f"sources/one/{name}" for name in [*parts, "source.json"]}
    finally:
        server.stop()


@pytest.mark.parametrize("package", ["datasets", "huggingface_hub"])
def test_a_missing_package_is_named_with_its_extra(package: str, hub: LoopbackHub, tmp_path: Path, lake: Path) -> None:
    revision = hub.commit(repository(parquet(articles(2))))
    message = ask(tmp_path, hub.url, (SOURCE, revision, str(lake)), missing=(package,))
    assert message.startswith(
        f"{SOURCE} needs the package {package} (pip install 'raft-spark[local]'); articles.source"
    )


def test_a_hub_that_dies_midway_leaves_no_marker_and_a_repeat_is_whole(
    hub: LoopbackHub, tmp_path: Path, lake: Path
) -> None:
    older = hub.commit(repository(parquet(articles(2))))
    ask(tmp_path, hub.url, (SOURCE, older, str(lake)))
    revision = hub.commit(repository(parquet(large(60))))
    asked = len(hub.requests)
    hub.fail("/storage/", 0, good=10)
    message = ask(tmp_path, hub.url, (SOURCE, revision, str(lake)))
    assert "cannot be reached (RemoteProtocolError: peer closed connection" in message
    requests = sum("/storage/" in request for request in hub.requests[asked:])
    assert 10 + 6 <= requests <= 10 + 8 * 6, "one round of the client's tries for each of 8 blocks"
    assert [path.name for path in lake.iterdir()] == ["part-00000.parquet"]
    assert 0 < read(lake).num_rows < 60_000
    hub.heal()
    assert ask(tmp_path, hub.url, (SOURCE, revision, str(lake))) == [60_000]
    assert read(lake).num_rows == 60_000
