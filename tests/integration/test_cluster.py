"""A lake in a local folder, on a Spark cluster whose executors have other working directories, or other disks."""

import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pyspark
import pytest

from conftest import ROOT, article
from raft_spark import config
from raft_spark.common.java import java_home
from raft_spark.errors import InputError
from raft_spark.lake import parquet, schemas, tables
from raft_spark.lake.filesystem import Storage

pytestmark = pytest.mark.spark


def run(folder: Path, verb: str, *settings: str) -> subprocess.CompletedProcess[str]:
    """Run raft-spark with the lake `lake` in `folder`, the working directory."""
    given = [
        "lake.root=lake",
        "articles.source=source/*.jsonl",
        "dataset.answer=original",
        "articles.test_share=0",
        "articles.validation_share=0",
        *settings,
    ]
    command = [
        Path(sys.executable).with_name("raft-spark"),
        verb,
        *(part for each in given for part in ("--set", each)),
    ]
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, "COLUMNS": "1000"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400, check=False
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with a source of 40 articles and a tokenizer."""
    (tmp_path / "source").mkdir()
    records = [
        article(number, [f"Study {number} saw {number * 7} patients."], f"Did {number}?") for number in range(40)
    ]
    (tmp_path / "source/a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    words = {"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": words}))
    return tmp_path


def test_relative_paths_mean_the_drivers_folder_on_every_executor(folder: Path):
    done = run(
        folder,
        "run",
        'spark."spark.master"="local-cluster[2,1,1024]"',
        "dataset.tokenizer=tokenizer.json",
        "dataset.max_tokens=9999",
        "base.distractors_from={bm25=0.5,mesh=0.5}",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lake = config.load(assignments=[f"lake.root={folder / 'lake'}"]).lake
    for table in (schemas.ARTICLES, schemas.BASE, schemas.DATASET):
        version = tables.require(lake, table)
        for file in version.files:
            assert (folder / "lake" / table / "versions" / version.id / file.path).stat().st_size == file.bytes
    base = tables.require(lake, schemas.BASE)
    assert sum(base.counts["rows"].values()) == 40
    rows = (row for group in tables.row_groups(lake, base) for row in parquet.read_row_group(group).to_pylist())
    methods = Counter(document["method"] for row in rows for document in row["documents"])
    assert methods["bm25"] > 0
    assert methods["mesh"] > 0
    assert not list((folder / "lake").glob(".seen-by-*"))


@pytest.fixture
def blind_cluster(folder: Path) -> Iterator[str]:
    """A Spark master and a worker that has another disk at `folder`/lake, as another machine would."""
    (folder / "lake").mkdir()
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this user may not give a process other disks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spark_class = Path(pyspark.__file__).parent / "bin/spark-class"
    address, names = f"spark://127.0.0.1:{port}", "org.apache.spark.deploy"
    master = [spark_class, f"{names}.master.Master", "--host", "127.0.0.1", "--port", str(port), "--webui-port", "0"]
    blind = f'mount -t tmpfs tmpfs "{folder}/lake" && exec "$0" "$@"'
    worker = ["unshare", "--mount", "sh", "-c", blind, spark_class, f"{names}.worker.Worker", "-c", "2", "-m", "2g"]
    worker += ["--webui-port", "0", "-d", str(folder / "work"), address]
    environment = {
        **os.environ,
        "JAVA_HOME": java_home(),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_PYTHON": sys.executable,
    }
    with ExitStack() as stack:
        for command in (master, worker):
            log = stack.enter_context((folder / "cluster.log").open("ab"))
            process = stack.enter_context(subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd="/"))
            stack.callback(process.kill)
            until_logged(
                folder / "cluster.log", "Bound MasterWebUI" if command is master else "Successfully registered"
            )
        yield address


def until_logged(log: Path, words: str) -> None:
    end = time.monotonic() + 120
    while words not in log.read_text() and time.monotonic() < end:
        time.sleep(0.1)
    assert words in log.read_text()


def test_executors_that_do_not_see_the_lake_end_the_run_before_anything_is_written(folder: Path, blind_cluster: str):
    done = run(folder, "articles", f'spark."spark.master"="{blind_cluster}"', 'spark."spark.executor.memory"="1g"')
    assert done.returncode == InputError.exit_status == 3, done.stdout + done.stderr
    assert (
        f"lake.root is a folder of the driver's machine {os.uname().nodename}, but the executor on"
        in done.stderr + done.stdout
    )
    assert "Traceback" not in done.stderr
    assert Storage(str(folder / "lake")).list() == []
