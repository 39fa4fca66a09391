"""One Spark session for all tests, a fake model server, lakes in temporary folders."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pyspark
import pytest
from click.testing import CliRunner
from moto.server import ThreadedMotoServer

os.environ["PYSPARK_PYTHON"] = sys.executable
os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
os.environ["AWS_ACCESS_KEY_ID"] = os.environ["AWS_SECRET_ACCESS_KEY"] = "testing"
os.environ["AWS_DEFAULT_REGION"] = "us-east-1"
for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
    os.environ.pop(name, None)

from hypothesis import settings  # noqa: E402 - the environment comes first

from raft_spark import config, endpoints  # noqa: E402
from raft_spark.lake import session  # noqa: E402

settings.register_profile("steady", deadline=None)  # a busy machine breaks no promise
settings.load_profile("steady")
from raft_spark.cli.main import main  # noqa: E402 - the same
from raft_spark.emr import release  # noqa: E402 - the same

# A JVM also maps the classes that `make build/spark.jsa` archived: a walk of 300 articles takes half the CPU seconds. Spark 3.5
# has other classes and leaves them. JVM is for those that the tests start themselves.
JVM = session.JVM_OPTIONS
ARCHIVE = Path(__file__).parent.parent / "build" / "spark.jsa"
os.environ["SPARK_SUBMIT_OPTS"] = f"{JVM} -XX:SharedArchiveFile={ARCHIVE} -Xlog:disable -Xlog:all=error:stderr"
collect_ignore = [] if find_spec("torch") else ["train"]  # what takes 6 GB is in `make test-train`
ROOT = Path(__file__).parent.parent
pytest.register_assert_rewrite("support.refresh_tests")  # test functions that two modules import
SPARK = {"spark.master": "local[2]", "spark.driver.memory": "2g", "spark.sql.shuffle.partitions": "2"}
Settle = Callable[..., config.Config]
Make = Callable[..., None]


@pytest.fixture
def settled(tmp_path: Path, request: pytest.FixtureRequest) -> Settle:
    """Settle a small lake of built-in articles in a folder of its own; further assignments go on top."""

    def settle(*assignments: str, files: tuple[str, ...] = ()) -> config.Config:
        spark = [f'spark."{key}"="{value}"' for key, value in SPARK.items()]
        basis = [f"lake.root={tmp_path / 'lake'}", "articles.source=sample:300", "completions.endpoint=fake"]
        return config.load(files, [*spark, *basis, "completions.flush_seconds=0.2", *assignments])

    return settle


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Run the first stages in a new lake. Later tests with the same settings get a copy, in which the stages find nothing to do."""
    lakes: dict[str, Path] = {}

    def run(conf: config.Config, *stages: ModuleType) -> None:
        root = Path(conf.lake.root)
        lake = conf.lake.model_copy(update={"root": ""})
        names = {stage.__name__.rpartition(".")[2] for stage in stages}
        names |= {"lake", "endpoints"} if "completions" in names else {"lake"}
        settings = conf.model_copy(update={"lake": lake}).model_dump_json(include=names)
        is_new = not root.exists()
        if is_new and settings in lakes:
            shutil.copytree(lakes[settings], root)
        for stage in stages:
            stage.run(conf)
        if is_new and settings not in lakes:
            lakes[settings] = Path(shutil.copytree(root, tmp_path_factory.mktemp("made") / "lake"))

    return run


@pytest.fixture(scope="session")
def fake() -> Iterator[config.Endpoint]:
    """A fake model server in its own process, for the whole test run."""
    with endpoints.serving(config.load().endpoints["fake"]) as endpoint:
        yield endpoint


@pytest.fixture
def url() -> Iterator[str]:
    """A fake model server that counts the calls of one test."""
    with endpoints.serving(config.load().endpoints["fake"]) as endpoint:
        yield endpoint.url


@pytest.fixture(scope="session")
def real_articles() -> Path:
    """Real PubMedQA rows, in the schema that `datasets` gives; RAFT_SPARK_REAL_ARTICLES names the file."""
    path = os.environ.get("RAFT_SPARK_REAL_ARTICLES", "")
    if not path:
        pytest.skip("RAFT_SPARK_REAL_ARTICLES names no Parquet file of PubMedQA rows")
    return Path(path)


@pytest.fixture(scope="session", autouse=True)
def _no_spark_is_left() -> Iterator[None]:
    yield
    session.stop()


def article(pubid: int, passages: list[str], question: str = "Does it work?", **more: object) -> dict[str, object]:
    """Return a good record in the PubMedQA schema."""
    context = {"contexts": passages, "labels": ["METHODS"] * len(passages), "meshes": ["Humans"]}
    return {"pubid": pubid, "question": question, "context": context, "long_answer": "It does.", **more}


def write_articles(path: Path, records: list[dict[str, object]]) -> Path:
    """Write records as one Parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(records), path)
    return path


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """A real S3 protocol server on loopback, with one bucket named `lake`; yields its address."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    boto3.client("s3", endpoint_url=address).create_bucket(Bucket="lake")
    yield address
    server.stop()


def python(script: str, *arguments: str, spark: str = "4.1.1", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script of tests/ in a process of its own, on either Spark line."""
    other = {"PYTHONPATH": str(ROOT / f"build/spark-{spark}")} if spark != pyspark.__version__ else {}
    settings = {**os.environ, **other, **environment}
    command = [sys.executable, str(ROOT / "tests" / script), *arguments]
    return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=500, check=False, cwd=ROOT)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[release.Release, str]:
    """A release, as the verb makes it, and what the verb said."""
    done = CliRunner().invoke(main, ["emr", "package", "--to", str(tmp_path_factory.mktemp("release"))])
    assert done.exit_code == 0, done.output
    return release.load(Path(done.output.splitlines()[-1])), done.output
