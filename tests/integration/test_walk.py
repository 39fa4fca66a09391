"""The whole walk, in processes of its own: the same bytes on every Spark, master and storage, and after every kill."""

import glob
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import walk_digest

from conftest import JVM, ROOT, SPARK, python
from raft_spark import config
from raft_spark.lake import parquet, schemas, tables
from raft_spark.monitoring import run_state
from raft_spark.sources import synthetic
from support.loopback_hub import LoopbackHub

ARTICLES = 240
BASIS = [
    f"articles.source=sample:{ARTICLES}",
    "completions.endpoint=fake",
    "completions.flush_seconds=0.2",
    "lake.row_group_rows=50",
    'spark."spark.driver.memory"="1g"',
    f'spark."spark.executor.extraJavaOptions"="{JVM}"',
]
S3A = {"4.1.1": "3.4.2", "3.5.8": "3.3.4"}  # Spark -> the Hadoop it was built with


def walk(*assignments: str, spark: str = "4.1.1") -> dict[str, Any]:
    done = python("integration/walk_digest.py", *sets(*assignments), spark=spark)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def walk_here(root: str, *assignments: str) -> dict[str, Any]:
    """Walk in this process, on local[2]."""
    spark = [f'spark."{key}"="{value}"' for key, value in SPARK.items()]
    return walk_digest.walk(config.load(assignments=[f"lake.root={root}", *BASIS, *spark, *assignments]))


def sets(*assignments: str) -> list[str]:
    return [part for assignment in (*BASIS, *assignments) for part in ("--set", assignment)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one quiet run on one core gives."""
    return walk(f"lake.root={tmp_path_factory.mktemp('lake')}", 'spark."spark.master"="local[1]"')


@pytest.mark.parametrize(
    "case",
    [
        "4.1.1 local-cluster[2,1,1024] broadcast disk",
        pytest.param("4.1.1 local[3] join disk", marks=pytest.mark.slow),
        "4.1.1 local[3] join bucket",
        pytest.param("3.5.8 local[2] broadcast disk", marks=pytest.mark.slow),
        "3.5.8 local-cluster[2,1,1024] join disk",
        pytest.param("3.5.8 local[2] broadcast bucket", marks=pytest.mark.slow),
    ],
)
def test_the_same_bytes_on_every_spark_master_strategy_and_storage(
    undisturbed: dict[str, Any], tmp_path: Path, s3: str, case: str
):
    spark, master, strategy, storage = case.split()
    bucket = [f"lake.root=s3://lake/{tmp_path.name}", f"lake.s3_endpoint={s3}"]
    lake = bucket if storage == "bucket" else [f"lake.root={tmp_path}"]
    jars = ROOT / "build/jars" / S3A[spark]
    assert glob.glob(f"{jars}/hadoop-aws-*.jar"), "make test fetches hadoop-aws"
    of_spark = {"master": master, **({"driver.extraClassPath": f"{jars}/*"} if storage == "bucket" else {})}
    given = [*lake, f"base.strategy={strategy}", *(f'spark."spark.{key}"="{value}"' for key, value in of_spark.items())]
    assert walk(*given, spark=spark) == undisturbed
    stats = run_state.read(config.load(assignments=lake).lake).spark  # what this Spark's own books say
    executors = 2 if "cluster" in master else 1
    assert stats.items() >= {"executors": executors, "executors_lost": 0, "failed_tasks": 0}.items()
    assert stats["tasks"] >= 2
    assert stats["task_seconds"] > stats["gc_seconds"] >= 0
    assert stats["shuffle_written_bytes"] > 1_000
    assert 10_000_000 < stats["peak_memory_bytes"] < 1_500_000_000


def test_real_articles_from_end_to_end(real_articles: Path, tmp_path: Path):
    root = str(tmp_path)
    walk_here(root, f"articles.source={real_articles}")
    lake = config.load(assignments=[f"lake.root={root}"]).lake
    base, dataset = (tables.require(lake, table) for table in (schemas.BASE, schemas.DATASET))
    assert sum(base.counts["rows"].values()) >= 690
    assert sum(dataset.counts["kept"].values()) == sum(base.counts["rows"].values())
    texts: dict[str, set[str]] = {split: set() for split in schemas.SPLITS}
    for piece in tables.row_groups(lake, base):
        for row in parquet.read_row_group(piece).to_pylist():
            texts[piece["split"]] |= {document["text"] for document in row["documents"]} | set(
                row["oracle"].split("\n\n")
            )
    assert texts["test"]
    assert not texts["test"] & texts["train"]
    share = 1 - sum(base.counts["distracted"].values()) / sum(base.counts["rows"].values())
    assert abs(share - 0.7) < 4 * (0.7 * 0.3 / 699) ** 0.5


def started(root: str, *assignments: str) -> subprocess.Popen[bytes]:
    program = Path(sys.executable).with_name("raft-spark")
    command = [program, "run", *sets(f"lake.root={root}", 'spark."spark.master"="local[2]"', *assignments)]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, start_new_session=True, stdout=quiet, stderr=quiet, cwd=ROOT)


def wait_for(come: Callable[[], object], run: subprocess.Popen[bytes]) -> None:
    """Wait until something has come, while the run goes on."""
    for _ in range(2400):
        if come():
            return
        assert run.poll() is None, "the run ended before it could be disturbed"
        time.sleep(0.05)
    pytest.fail("it did not come")


def kill(run: subprocess.Popen[bytes], root: str) -> None:
    """SIGKILL the driver, its JVM and its Python workers: everything whose command line or session belongs to the run."""
    family = subprocess.run(["ps", "-eo", "pid,sid,args"], capture_output=True, text=True, check=True).stdout
    for line in family.splitlines()[1:]:
        pid, session, args = line.split(None, 2)
        if int(session) == run.pid or root in args:
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue
    run.wait()


MOMENTS = {
    "articles": "{root}/articles/versions/*/**/*.parquet",
    "base": "{root}/base/versions/*",
    "completions": "{root}/completions/data/**/*.parquet",
    "dataset": "{root}/dataset/versions/*/**/*.jsonl",
}


def kill_at(moment: str, root: str, *assignments: str) -> None:
    """Kill a run when a file of that kind is there; no answer is stored twice."""
    run = started(root, *assignments)
    wait_for(lambda: glob.glob(moment.format(root=root), recursive=True), run)
    kill(run, root)
    stored = stored_keys(root)
    assert len(stored) == len(set(stored))


@pytest.mark.slow
@pytest.mark.parametrize("stage", MOMENTS)
def test_a_run_killed_in_any_stage_goes_on_to_the_same_dataset(undisturbed: dict[str, Any], tmp_path: Path, stage: str):
    root = str(tmp_path / "lake")
    kill_at(MOMENTS[stage], root, "endpoints.fake.latency_ms=200")
    stored = stored_keys(root)
    assert walk_here(root) == undisturbed
    again = stored_keys(root)
    assert set(stored) <= set(again)
    assert len(again) == ARTICLES, "an answer that was stored has been asked for again"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_run_killed_again_and_again_ends_in_the_same_dataset(undisturbed: dict[str, Any], tmp_path: Path, seed: int):
    root, chance = str(tmp_path / "lake"), random.Random(seed)
    for _ in range(6):
        run = started(root, "endpoints.fake.latency_ms=500")
        time.sleep(chance.uniform(5, 40))
        kill(run, root)
        stored = stored_keys(root)
        assert len(stored) == len(set(stored))
    assert walk_here(root) == undisturbed
    assert len(stored_keys(root)) == ARTICLES


def stored_keys(root: str) -> list[str]:
    """Return the key of every stored answer, each as often as it is stored."""
    files = glob.glob(f"{root}/completions/data/**/*.parquet", recursive=True)
    return [
        row["key"] for file in files for row in pq.read_table(file, partitioning=None).to_pylist() if row["completion"]
    ]


def test_a_run_killed_and_one_left_by_ctrl_c_are_continued_by_the_next(undisturbed: dict[str, Any], tmp_path: Path):
    root = str(tmp_path / "lake")
    kill_at(MOMENTS["completions"], root, "endpoints.fake.latency_ms=300")
    killed = set(stored_keys(root))
    run = started(root, "endpoints.fake.latency_ms=300")
    wait_for(lambda: len(stored_keys(root)) > len(killed), run)
    os.killpg(run.pid, signal.SIGINT)
    assert run.wait(60) == 5
    stored = set(stored_keys(root))
    assert killed < stored
    assert len(stored) < ARTICLES
    assert walk_here(root) == undisturbed
    again = stored_keys(root)
    assert stored <= set(again)
    assert len(again) == ARTICLES, "an answer that was stored has been asked for again"


def test_articles_of_a_hub_are_brought_to_the_lake_once(tmp_path: Path):
    conf = config.load(assignments=["articles.source=hf:qiaojin/PubMedQA/pqa_artificial", f"lake.root={tmp_path}/lake"])
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_batches([synthetic.articles(0, ARTICLES, seed=0)]), sink, row_group_size=60)
    readme = "---\nconfigs:\n- config_name: pqa_artificial\n  data_files: pqa_artificial/train-*\n---\n"
    files = {"README.md": readme.encode(), "pqa_artificial/train-00000-of-00001.parquet": sink.getvalue()}
    with LoopbackHub("qiaojin/PubMedQA") as hub:
        revision = hub.commit(files)
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
        arguments = sets(f"lake.root={conf.lake.root}", f"articles.source={conf.articles.source}", "base.distractors=2")
        done = python("integration/walk_digest.py", *arguments, **environment)
        assert done.returncode == 0, done.stderr[-3000:]
        downloads = len([request for request in hub.requests if "/storage/" in request])
        again = python("integration/walk_digest.py", *arguments, **environment)
        assert again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]
        assert len([request for request in hub.requests if "/storage/" in request]) == downloads > 0
    version = tables.require(conf.lake, schemas.ARTICLES)
    assert version.counts["articles"] == version.counts["read"] == ARTICLES
    assert version.counts["source"] == f"{conf.articles.source}@{revision}"
