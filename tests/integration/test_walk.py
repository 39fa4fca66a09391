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
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import JVM, ROOT, python
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


def walk(root: str, *assignments: str, spark: str = "4.1.1") -> dict[str, Any]:
    done = python("integration/walk_digest.py", *sets(root, *assignments), spark=spark)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def sets(root: str, *assignments: str) -> list[str]:
    settings = [f"lake.root={root}", *BASIS, *assignments]
    return [part for assignment in settings for part in ("--set", assignment)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one quiet run on one core gives."""
    return walk(str(tmp_path_factory.mktemp("lake")), 'spark."spark.master"="local[1]"')


@pytest.mark.parametrize(
    ("spark", "master", "strategy"),
    [
        ("4.1.1", "local-cluster[2,1,1024]", "broadcast"),
        ("4.1.1", "local[3]", "join"),
        pytest.param("3.5.8", "local[2]", "broadcast", marks=pytest.mark.slow),
        ("3.5.8", "local-cluster[2,1,1024]", "join"),
    ],
)
def test_the_same_bytes_on_every_spark_master_and_strategy(
    undisturbed: dict[str, Any], tmp_path: Path, spark: str, master: str, strategy: str
):
    found = walk(str(tmp_path), f'spark."spark.master"="{master}"', f"base.strategy={strategy}", spark=spark)
    assert found == undisturbed
    stats = run_state.read(
        config.load(assignments=[f"lake.root={tmp_path}"]).lake
    ).spark  # what this Spark's own books say
    executors = 2 if "cluster" in master else 1
    assert stats.items() >= {"executors": executors, "executors_lost": 0, "failed_tasks": 0}.items()
    assert stats["tasks"] >= 2
    assert stats["task_seconds"] > stats["gc_seconds"] >= 0
    assert stats["shuffle_written_bytes"] > 1_000
    assert 10_000_000 < stats["peak_memory_bytes"] < 1_500_000_000


@pytest.mark.parametrize("spark", ["4.1.1", pytest.param("3.5.8", marks=pytest.mark.slow)])
def test_the_same_bytes_in_a_bucket(undisturbed: dict[str, Any], s3: str, tmp_path: Path, spark: str):
    jars = ROOT / "build/jars" / S3A[spark]
    assert glob.glob(f"{jars}/hadoop-aws-*.jar"), "make test fetches hadoop-aws"
    found = walk(
        f"s3://lake/{tmp_path.name}-{spark}",
        'spark."spark.master"="local[2]"',
        f'spark."spark.driver.extraClassPath"="{jars}/*"',
        f"lake.s3_endpoint={s3}",
        spark=spark,
    )
    assert found == undisturbed


def test_real_articles_from_end_to_end(real_articles: Path, tmp_path: Path):
    root = str(tmp_path)
    walk(root, f"articles.source={real_articles}", 'spark."spark.master"="local[2]"')
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
    command = [program, "run", *sets(root, 'spark."spark.master"="local[2]"', *assignments)]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, start_new_session=True, stdout=quiet, stderr=quiet, cwd=ROOT)


def wait_for(pattern: str, run: subprocess.Popen[bytes]) -> None:
    """Wait until a file of that kind is there, while the run goes on."""
    for _ in range(2400):
        assert run.poll() is None, "the run ended before it could be killed"
        if glob.glob(pattern, recursive=True):
            return
        time.sleep(0.05)
    pytest.fail(f"nothing appeared at {pattern}")


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


@pytest.mark.parametrize(
    "stage", [pytest.param(stage, marks=[pytest.mark.slow] * (stage != "completions")) for stage in MOMENTS]
)
def test_a_run_killed_in_any_stage_goes_on_to_the_same_dataset(undisturbed: dict[str, Any], tmp_path: Path, stage: str):
    root = str(tmp_path / "lake")
    run = started(root, "endpoints.fake.latency_ms=200")
    wait_for(MOMENTS[stage].format(root=root), run)
    kill(run, root)
    stored = stored_keys(root)
    assert len(stored) == len(set(stored))
    assert walk(root, 'spark."spark.master"="local[2]"') == undisturbed
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
    assert walk(root, 'spark."spark.master"="local[2]"') == undisturbed
    assert len(stored_keys(root)) == ARTICLES


def stored_keys(root: str) -> list[str]:
    """Return the key of every stored answer, each as often as it is stored."""
    files = glob.glob(f"{root}/completions/data/**/*.parquet", recursive=True)
    return [
        row["key"] for file in files for row in pq.read_table(file, partitioning=None).to_pylist() if row["completion"]
    ]


def test_ctrl_c_leaves_a_lake_that_the_next_run_continues(undisturbed: dict[str, Any], tmp_path: Path):
    root = str(tmp_path / "lake")
    run = started(root, "endpoints.fake.latency_ms=300")
    wait_for(MOMENTS["completions"].format(root=root), run)
    os.killpg(run.pid, signal.SIGINT)
    assert run.wait(60) == 5
    stored = stored_keys(root)
    assert 0 < len(stored) < ARTICLES
    assert walk(root, 'spark."spark.master"="local[2]"') == undisturbed
    assert len(stored_keys(root)) == ARTICLES


def test_articles_of_a_hub_are_brought_to_the_lake_once(tmp_path: Path):
    conf = config.load(assignments=["articles.source=hf:qiaojin/PubMedQA/pqa_artificial", f"lake.root={tmp_path}/lake"])
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_batches([synthetic.articles(0, ARTICLES, seed=0)]), sink, row_group_size=60)
    readme = "---\nconfigs:\n- config_name: pqa_artificial\n  data_files: pqa_artificial/train-*\n---\n"
    files = {"README.md": readme.encode(), "pqa_artificial/train-00000-of-00001.parquet": sink.getvalue()}
    with LoopbackHub("qiaojin/PubMedQA") as hub:
        revision = hub.commit(files)
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
        arguments = sets(conf.lake.root, f"articles.source={conf.articles.source}", "base.distractors=2")
        done = python("integration/walk_digest.py", *arguments, **environment)
        assert done.returncode == 0, done.stderr[-3000:]
        downloads = len([request for request in hub.requests if "/storage/" in request])
        again = python("integration/walk_digest.py", *arguments, **environment)
        assert again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]
        assert len([request for request in hub.requests if "/storage/" in request]) == downloads > 0
    version = tables.require(conf.lake, schemas.ARTICLES)
    assert version.counts["articles"] == version.counts["read"] == ARTICLES
    assert version.counts["source"] == f"{conf.articles.source}@{revision}"
