"""completions under fault, in processes of its own where they are killed: nothing is lost, little is paid twice, limits hold."""

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pyspark
import pytest

from conftest import JVM, ROOT, SPARK
from raft_spark import config
from raft_spark.errors import EndpointError, InputError, StoppedError
from raft_spark.lake import lease, parquet, schemas, session, tables
from raft_spark.monitoring import run_state
from raft_spark.recipe import prompts
from raft_spark.stages import articles, base, completions, evaluation, refresh
from support import processes
from support.processes import family, kill

pytestmark = pytest.mark.spark

CLUSTER = ('spark."spark.master"="local-cluster[2,1,1024]"', f'spark."spark.executor.extraJavaOptions"="{JVM}"')
FEW, MORE = 100, 300  # rows
FLUSH = 0.5  # seconds
KEY = "sk-very-secret-7"


@dataclass(frozen=True)
class Fake:
    """A fake endpoint in a process of its own."""

    process: subprocess.Popen[bytes]
    url: str

    def stats(self, what: str = "calls") -> Any:
        with urllib.request.urlopen(f"{self.url}/{what}") as answer:
            return json.load(answer)

    def behave(self, *how: dict[str, object]) -> None:
        self.post("behave", list(how))

    def manner(self, **how: object) -> None:
        self.post("manner", how)

    def post(self, what: str, body: object) -> None:
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/{what}", json.dumps(body).encode())).close()

    @property
    def calls(self) -> int:
        return int(self.stats()["calls"])

    @property
    def calls_beyond_the_first(self) -> int:
        return sum(counts["calls"] - 1 for counts in self.stats("calls/keys").values())


@pytest.fixture
def fake() -> Iterator[Fake]:
    command = [sys.executable, "-m", "raft_spark.endpoints.fake.app", '{"kind": "fake", "latency_ms": 20}']
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        yield Fake(process, f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}")
        process.kill()


@dataclass
class Lakes:
    """Lakes with articles and base, each made once."""

    folder: Path
    originals: dict[int, Path] = field(default_factory=dict)

    def copied(self, rows: int, to: Path) -> str:
        if rows not in self.originals:
            original = self.folder / str(rows)
            conf = settled(str(original), *all_train(rows))
            articles.run(conf)
            base.run(conf)
            self.originals[rows] = original
        return str(shutil.copytree(self.originals[rows], to))


@pytest.fixture(scope="module")
def lakes(tmp_path_factory: pytest.TempPathFactory) -> Lakes:
    return Lakes(tmp_path_factory.mktemp("lakes"))


@pytest.fixture
def lake(lakes: Lakes, tmp_path: Path) -> Callable[[int], str]:
    return lambda rows: lakes.copied(rows, tmp_path / "lake")


def settled(root: str, *assignments: str, files: tuple[str, ...] = ()) -> config.Config:
    spark = [f'spark."{key}"="{value}"' for key, value in SPARK.items()]
    return config.load(files, [*spark, *basis(root), *assignments])


def basis(root: str) -> list[str]:
    return [
        f"lake.root={root}",
        "completions.endpoint=fake",
        f"completions.flush_seconds={FLUSH}",
        "completions.in_flight=8",
        "lake.row_group_rows=50",
    ]


def all_train(rows: int) -> tuple[str, ...]:
    return f"articles.source=sample:{rows}", "articles.validation_share=0", "articles.test_share=0"


def at(fake: Fake) -> str:
    return f"endpoints.fake.url={fake.url}/v1"


def stored(root: str, table: str = schemas.COMPLETIONS) -> list[dict[str, Any]]:
    """Every stored row, answered or failed, without Spark."""
    files = Path(root, table, "data").rglob("*.parquet")
    return [row for file in files for row in pq.read_table(file, partitioning=None).to_pylist()]


def answers(root: str, table: str = schemas.COMPLETIONS) -> dict[str, str]:
    return {row["key"]: row["completion"] for row in stored(root, table) if row["completion"] is not None}


def last_run(root: str) -> run_state.Run:
    found = run_state.read(settled(root).lake)
    assert found is not None
    return found


# In processes of its own


@contextmanager
def started(
    root: str, *assignments: str, stage: str = "completions", spark: str = "4.1.1", **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `raft-spark STAGE` in a session of its own, of which nothing is left after the block."""
    paths = [str(ROOT / f"build/spark-{spark}")] if spark != pyspark.__version__ else []
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    settings = [*basis(root), 'spark."spark.driver.memory"="1g"', *assignments]
    command = [Path(sys.executable).with_name("raft-spark"), stage]
    command += [part for assignment in settings for part in ("--set", assignment)]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment}
    with processes.started(command, Path(f"{root}.log"), variables) as run:
        yield run


def said(root: str) -> str:
    return " ".join(Path(f"{root}.log").read_text().split())


def squeezed(text: str) -> str:
    """Return the text without spaces: the command line breaks long paths."""
    return "".join(text.split())


def until(come: Callable[[], object], run: subprocess.Popen[bytes] | None = None, seconds: float = 300) -> None:
    """Wait until something has come, while the run goes on."""
    for _ in range(int(seconds * 20)):
        if come():
            return
        assert run is None or run.poll() is None, "the run ended before it could be disturbed"
        time.sleep(0.05)
    pytest.fail("it did not come")


# One run asks at a time


def test_a_second_run_ends_or_waits_and_no_request_is_paid_for_twice(lake, fake: Fake):
    root = lake(MORE)
    fake.manner(latency_ms=2_000)
    words = (at(fake), 'spark."spark.master"="local[2]"', "lake.lease_seconds=6")
    with started(root, *words) as first:
        until(lambda: fake.calls >= MORE / 10, first)
        with started(root, *words) as second:
            assert second.wait(60) == StoppedError.exit_status == 5
        assert f"another run, process {first.pid} on {os.uname().nodename}, asks for the answers of" in said(root)
        assert first.poll() is None
        fake.manner(latency_ms=200)
        completions.run(settled(root, *words, "lake.lease_wait_minutes=5"))
        assert first.wait(60) == 0, said(root)
    assert (fake.calls, fake.calls_beyond_the_first, len(answers(root))) == (MORE, 0, MORE)
    assert len(stored(root)) == MORE
    assert tables.require(settled(root).lake, schemas.COMPLETIONS).counts["paid_twice"] == 0


def test_a_paused_run_is_followed_when_its_lease_has_expired_and_sends_nothing_when_it_goes_on(lake, fake: Fake):
    root = lake(MORE)
    fake.manner(latency_ms=400)
    words = (at(fake), 'spark."spark.master"="local[2]"', "lake.lease_seconds=3")
    with started(root, *words) as first:
        until(lambda: fake.calls >= MORE / 10, first)
        paused = family(first)
        for pid in paused:
            os.kill(pid, signal.SIGSTOP)
        before = fake.calls
        with started(root, *words) as second:
            until(lambda: fake.calls >= before + MORE / 10, second)
            for pid in paused:
                os.kill(pid, signal.SIGCONT)
            assert first.wait(60) == StoppedError.exit_status, said(root)
            assert second.wait(120) == 0, said(root)
    assert "was not renewed for 2.25 s" in said(root)
    assert len(answers(root)) == MORE
    assert fake.calls_beyond_the_first <= 8 + 8 / 0.4 * (FLUSH + 0.5)
    (version,) = tables.history(settled(root).lake, schemas.COMPLETIONS)
    assert version.counts["missing"] == 0


def ask_in_batch_jobs(conf: config.Config) -> object:
    teacher = "{kind='bedrock', model='fake', region='us-east-1', role_arn='arn:aws:iam::123456789012:role/x', batch_folder='s3://bucket/x'}"
    mine = ("completions.mode=batch", f"endpoints.mine={teacher}", "completions.endpoint=mine")
    return completions.run(settled(conf.lake.root, *mine, "lake.lease_seconds=3"))


@pytest.mark.parametrize(
    ("table", "ask"),
    [
        (schemas.COMPLETIONS, completions.run),
        (schemas.COMPLETIONS, ask_in_batch_jobs),
        (schemas.COMPLETIONS, refresh.run),
        (schemas.EVALUATION, evaluation.run),
    ],
)
def test_nothing_asks_while_another_run_holds_the_lease(lake, fake: Fake, table: str, ask: Callable[..., object]):
    conf = settled(lake(FEW), *all_train(FEW), at(fake), "lake.lease_seconds=3", "evaluation.students=fake")
    with lease.hold(conf.lake, table):
        with pytest.raises(StoppedError, match=f"another run, process {os.getpid()} on .*{table} since"):
            ask(conf)
        assert fake.calls == 0


# A store that refuses


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, whose size a test can set."""
    folder = tmp_path / "lake"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=50m", "tmpfs", folder], check=False).returncode:
        pytest.skip("this user may not mount a disk")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files of this process, which a process that it starts gets as TMPDIR."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


@pytest.mark.parametrize("refusal", ["full", pytest.param("read-only", marks=pytest.mark.slow)])
def test_a_disk_that_refuses_a_write_ends_the_run_and_nothing_is_paid_for_twice(
    lakes: Lakes, small_disk: Path, tmp_path: Path, fake: Fake, refusal: str, temporary: Path
):
    rows, root = 1_500, str(small_disk)
    original = lakes.copied(rows, tmp_path / "original")
    shutil.copytree(original, root, dirs_exist_ok=True)
    if refusal == "full":
        remount(small_disk, f"size={shutil.disk_usage(root).used + 90_000}")
    words = (at(fake), 'spark."spark.master"="local[2]"', "completions.in_flight=16")
    with started(root, *words, TMPDIR=str(temporary)) as run:
        if refusal == "read-only":
            until(lambda: fake.calls > rows / 4, run)
            until(lambda: remount(small_disk, "ro"))
        assert run.wait(300) == InputError.exit_status == 3, said(root)
    reason = "No space left on device" if refusal == "full" else "Read-only file system"
    assert squeezed(f"answers cannot be stored in {root}/completions: ") in squeezed(said(root))
    assert squeezed(f"{reason}; nothing more was sent. ") in squeezed(said(root))
    assert "Traceback" not in said(root)
    remount(small_disk, "rw,size=50m")
    first = fake.stats()
    assert list(temporary.rglob("*.parquet"))
    assert 0 < first["answered"] == first["calls"] < rows
    completions.run(settled(root, *words))
    assert (fake.calls, fake.calls_beyond_the_first, len(answers(root))) == (rows, 0, rows)


def remount(folder: Path, options: str) -> bool:
    return not subprocess.run(["mount", "-o", f"remount,{options}", folder], check=False).returncode


def test_a_lake_that_is_removed_ends_the_run_and_nothing_is_paid_for_twice(
    lake, tmp_path: Path, fake: Fake, temporary: Path
):
    root = lake(MORE)
    fake.manner(latency_ms=200)
    words = (at(fake), 'spark."spark.master"="local[2]"')
    with started(root, *words, TMPDIR=str(temporary)) as run:
        until(lambda: stored(root), run)
        Path(root).rename(tmp_path / "away")
        assert run.wait(60) == InputError.exit_status, said(root)
    assert not stored(root), "what was removed is not made anew"
    assert squeezed(f"answers cannot be stored in {root}/completions: the folder was removed, or its") in squeezed(
        said(root)
    )
    first = fake.calls
    shutil.rmtree(root, ignore_errors=True)
    (tmp_path / "away").rename(root)
    completions.run(settled(root, *words))
    assert (fake.calls, fake.calls_beyond_the_first, len(answers(root))) == (MORE, 0, MORE)
    assert first < MORE


SHORT, LONG = (600, 400, 16), (20_000, 200, 64)  # rows, milliseconds an answer takes, calls in flight


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("size", "spark"),
    [
        (SHORT, "4.1.1"),
        pytest.param(LONG, "4.1.1", marks=pytest.mark.slow),
        pytest.param(LONG, "3.5.8", marks=pytest.mark.slow),
    ],
)
def test_a_killed_worker_killed_executors_and_a_killed_driver_lose_no_answer_and_pay_little_twice(
    lakes: Lakes, tmp_path: Path, fake: Fake, size: tuple[int, int, int], spark: str
):
    rows, latency_ms, in_flight = size
    root, quiet = lakes.copied(rows, tmp_path / "lake"), lakes.copied(rows, tmp_path / "quiet")
    fake.manner(latency_ms=1)
    completions.run(settled(quiet, at(fake), "completions.in_flight=64"))
    undisturbed = answers(quiet)
    assert len(undisturbed) == rows
    urllib.request.urlopen(urllib.request.Request(f"{fake.url}/calls", method="DELETE")).close()

    fake.manner(latency_ms=latency_ms)
    chance = random.Random(rows)
    words = (*CLUSTER, at(fake), f"completions.in_flight={in_flight}")
    moments = [rows * chance.uniform(low, low + 0.15) for low in (0.05, 0.25, 0.45, 0.65)]
    victims = ("pyspark.daemon", "CoarseGrainedExecutorBackend", "CoarseGrainedExecutorBackend")
    with started(root, *words, spark=spark) as run:
        for moment, kind in zip(moments[:3], victims, strict=True):
            until(lambda moment=moment: fake.calls >= moment, run)
            victim = chance.choice(family(run, kind))
            assert kill(victim)
            until(lambda victim=victim: victim not in family(run), run)
        until(lambda: fake.calls >= moments[3], run)
        assert [kill(pid) for pid in [run.pid, *family(run, "SparkSubmit")]] == [True, True]
        assert run.wait(30) == -signal.SIGKILL
        until(lambda: not family(run), seconds=30)  # executors do not outlive their driver, nor ask on
    before = answers(root)
    assert 0 < len(before) < rows
    rerun(root, spark, at(fake), f"completions.in_flight={in_flight}")
    assert answers(root) == undisturbed
    assert before.items() <= undisturbed.items()
    at_risk = in_flight + in_flight / (latency_ms / 1000) * (FLUSH + 0.5)
    assert 4 <= fake.calls_beyond_the_first <= 4 * at_risk
    assert fake.stats()["most_open"] <= in_flight


def rerun(root: str, spark: str, *assignments: str) -> None:
    """Run completions to their end, in this process when that is its Spark."""
    if spark == pyspark.__version__:
        completions.run(settled(root, *assignments))
        return
    with started(root, *assignments, spark=spark) as run:
        assert run.wait(600) == 0, said(root)


def test_a_killed_worker_and_a_killed_driver_lose_no_embedding_and_pay_little_twice(tmp_path: Path, fake: Fake):
    embedder = ("base.distractors_from={embedding=1}", "base.retrieval.endpoint=fake", at(fake))
    quiet, root = (str(tmp_path / name) for name in ("quiet", "lake"))
    for place in (quiet, root):
        articles.run(settled(place, *all_train(FEW)))
    undisturbed = base.run(settled(quiet, *all_train(FEW), *embedder))
    vectors = answers(quiet, schemas.EMBEDDINGS)
    urllib.request.urlopen(urllib.request.Request(f"{fake.url}/calls", method="DELETE")).close()

    fake.manner(latency_ms=100)
    with started(root, *CLUSTER, *all_train(FEW), *embedder, stage="base") as run:
        until(lambda: fake.calls >= len(vectors) / 4, run)
        assert kill(family(run, "pyspark.daemon")[0])
        until(lambda: fake.calls >= len(vectors) / 2, run)
        assert [kill(pid) for pid in [run.pid, *family(run, "SparkSubmit")]] == [True, True]
        assert run.wait(30) == -signal.SIGKILL
        until(lambda: not family(run), seconds=30)
    before = answers(root, schemas.EMBEDDINGS)
    assert 0 < len(before) < len(vectors)
    version = base.run(settled(root, *all_train(FEW), *embedder))
    assert before.items() <= answers(root, schemas.EMBEDDINGS).items() == vectors.items()
    assert [file.sha256 for file in version.data()] == [file.sha256 for file in undisturbed.data()]
    assert 1 <= fake.calls_beyond_the_first <= 2 * (8 + 8 / 0.1 * (FLUSH + 0.5))


def test_calls_open_at_once_stay_below_the_limit_with_fewer_executors_than_tasks_and_after_one_is_lost(
    lake, fake: Fake
):
    root = lake(MORE)
    fake.manner(latency_ms=300, jitter=0.5)
    words = (*CLUSTER, at(fake), 'spark."spark.executor.instances"="5"', "completions.in_flight=7")
    with started(root, *words) as run:
        until(lambda: fake.calls >= MORE / 3, run)
        assert kill(family(run, "CoarseGrainedExecutorBackend")[0])
        assert run.wait(120) == 0, said(root)
    assert last_run(root).tasks == 5
    assert len(answers(root)) == MORE
    assert fake.calls_beyond_the_first <= 7 + 7 / 0.3 * (FLUSH + 0.5)  # the tasks that were not lost ask nothing twice
    assert fake.stats()["most_open"] == 7
    assert fake.calls_beyond_the_first > 0


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_stores_what_is_open_and_the_rerun_asks_only_the_rest(lake, fake: Fake, number: signal.Signals):
    root = lake(FEW)
    fake.manner(latency_ms=400)
    with started(root, at(fake), 'spark."spark.master"="local[2]"', "completions.flush_seconds=60") as run:
        until(lambda: fake.calls >= FEW / 3, run)
        if number == signal.SIGTERM:
            run.send_signal(number)
        else:
            os.killpg(run.pid, number)  # as a terminal does
        assert run.wait(30) == StoppedError.exit_status == 5
        until(lambda: not family(run), seconds=10)
    done = fake.stats()
    assert done["answered"] == done["calls"] == len(answers(root)) < FEW
    assert last_run(root).state == "stopped"
    assert last_run(root).reason == number.name
    assert f"{number.name}; {len(answers(root))} answers are stored, and a rerun asks only the others" in said(root)
    assert completions.run(settled(root, at(fake))).counts["asked"] == FEW - done["answered"]
    assert fake.calls == FEW


@pytest.mark.parametrize("refused", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_key_is_in_nothing_that_a_run_writes(lake, fake: Fake, refused: bool):  # noqa: FBT001 - one of two cases
    root = lake(FEW)
    repeated = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}})
    fake.behave({"key": "another"} if refused else {"status": 500, "body": repeated, "share": 0.3})
    words = [f"endpoints.mine={{kind='openai', url='{fake.url}/v1', model='fake', api_key_env='TEACHER_KEY'}}"]
    words += ["completions.endpoint=mine", "completions.attempts=1", "completions.max_failed_share=0.1"]
    with started(root, *words, 'spark."spark.master"="local[2]"', TEACHER_KEY=KEY) as run:
        assert run.wait(120) == EndpointError.exit_status == 4
    assert "Incorrect API key provided: ***" in said(root)
    assert len(stored(root)) == FEW or refused
    written = [path for path in Path(root).rglob("*") if path.is_file()] + [Path(f"{root}.log")]
    assert len(written) > 5
    assert not [path for path in written if KEY.encode() in path.read_bytes()]


# In this process


def chaos_of(root: str, fake: Fake) -> config.Config:
    """Settle a run whose every fifth call goes wrong or is turned away."""
    fake.manner(latency_ms=30, jitter=0.9, tail_share=0.05, tail_ms=500, echo=True)
    fake.behave(
        {"status": 500, "share": 0.03},
        {"status": 503, "share": 0.02},
        {"status": 429, "retry_after": 0.1, "share": 0.05},
        {"fault": "hang", "share": 0.02},
        {"fault": "drop", "share": 0.01},
        {"fault": "garbage", "share": 0.01},
    )
    wanted = ("completions.timeout_seconds=2", "completions.attempts=2", "completions.max_failed_share=0.5")
    return settled(root, at(fake), *wanted)


@pytest.mark.parametrize("rows", [MORE, pytest.param(3_000, marks=pytest.mark.slow)])
def test_in_chaos_every_row_ends_with_its_own_answer_or_a_reason_and_every_call_is_counted(lake, fake: Fake, rows: int):
    root = lake(rows)
    conf = chaos_of(root, fake)
    counts = completions.run(conf).counts
    rows_stored = stored(root)
    assert len(rows_stored) == len({row["key"] for row in rows_stored}) == rows
    failed = Counter(row["error_class"] for row in rows_stored if row["completion"] is None)
    assert failed
    assert set(failed) <= {"model_error", "unavailable", "timeout"}
    assert all(row["error"] for row in rows_stored if row["completion"] is None)
    stats = fake.stats()
    assert stats["calls"] == counts["calls"] == sum(row["attempts"] for row in rows_stored) > rows * 1.05
    assert sum(stats["by_status"].get(busy, 0) for busy in ("429", "503")) == counts["throttled"] > 0
    assert stats["hung"] > 0
    assert stats["answered"] == counts["answered"] == rows - failed.total()
    assert counts["failed_by_class"] == failed
    fake.behave()
    again = completions.run(conf).counts
    assert (again["asked"], again["answered"], again["missing"]) == (failed.total(), failed.total(), 0)
    assert fake.stats()["repeated"] == []
    assert_own_answers(conf, rows)


def assert_own_answers(conf: config.Config, rows: int) -> None:
    """Ask what each row of base would have been asked, and find the echo of just that under its key."""
    found = answers(conf.lake.root)
    version = tables.require(conf.lake, schemas.BASE)
    written = [
        row for piece in tables.row_groups(conf.lake, version) for row in parquet.read_row_group(piece).to_pylist()
    ]
    assert len(written) == len(found) == rows
    for row in written:
        request = prompts.teacher_request(row["question"], row["oracle"], conf.teacher.model, conf.completions)
        echoed, _, digest = found[request.key].rpartition(" [")
        assert len(digest) == 9
        assert echoed == request.prompt[-1]["content"]


@pytest.fixture
def own_session() -> Iterator[None]:
    """Let no other test have this one's Spark settings."""
    yield
    session.stop()


@pytest.mark.usefixtures("own_session")
def test_what_was_asked_by_three_tasks_is_not_asked_again_by_seventeen_nor_for_other_distractors(lake, fake: Fake):
    root = lake(FEW)
    session.stop()
    fake.behave({"status": 500, "share": 0.3})
    wanted = ("completions.attempts=1", "completions.max_failed_share=0.9", "completions.in_flight=32", at(fake))
    three = ('spark."spark.master"="local[1]"', 'spark."spark.default.parallelism"="3"')
    missing = completions.run(settled(root, *wanted, *three)).counts["missing"]
    assert last_run(root).tasks == 3
    assert FEW > missing > 17
    fake.behave()
    session.stop()
    seventeen = ('spark."spark.default.parallelism"="17"',)
    assert completions.run(settled(root, *wanted, *seventeen)).counts["answered"] == missing
    assert last_run(root).tasks == 17
    assert fake.calls == FEW + missing
    assert fake.stats()["repeated"] == []
    other = settled(
        root,
        *wanted,
        *seventeen,
        "base.distractors=5",
        "base.oracle_share=0.2",
        "base.seed=9",
    )
    drawn = base.run(other)
    version = completions.run(other)
    assert version.inputs["base"] == drawn.id
    assert (version.counts["known"], version.counts["asked"], version.counts["missing"]) == (FEW, 0, 0)
    assert fake.calls == FEW + missing


@pytest.mark.usefixtures("own_session")
@pytest.mark.parametrize("rate", ["completions.requests_per_second=12", "completions.tokens_per_minute=200_000"])
def test_rates_are_those_of_the_whole_cluster_with_fewer_executors_than_asked_for(lake, fake: Fake, rate: str):
    root = lake(FEW)
    session.stop()
    five = 'spark."spark.executor.instances"="5"'
    counts = completions.run(settled(root, at(fake), five, rate, "completions.max_new_tokens=50")).counts
    assert last_run(root).tasks == 5
    assert counts["answered"] == FEW
    tokens = sum(counts["tokens"].values()) / FEW
    a_second = 12 if "requests" in rate else 200_000 / 60 / tokens
    calls = [calls for _, calls, *_ in itertools.dropwhile(lambda second: not second[1], fake.stats("calls/seconds"))]
    assert max(map(sum, itertools.pairwise(calls))) <= 2 * a_second * 1.2
    assert len(calls) < 2 * FEW / a_second + 2, "far less is asked than may be"


IN, OUT = 1.0, 5.0  # dollars per million tokens
PRICED = (f"endpoints.fake.input_price={IN}", f"endpoints.fake.output_price={OUT}", "completions.max_new_tokens=50")
BY_REQUESTS = ("completions.requests_per_second=20", "completions.in_flight=6", "completions.max_spend=0.05")
BY_TOKENS = ("completions.tokens_per_minute=100_000", "completions.in_flight=6")


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("rows", "limits", "has_loss"),
    [
        (MORE, BY_REQUESTS, ""),
        pytest.param(MORE, BY_TOKENS, "", marks=pytest.mark.slow),
        pytest.param(2_000, BY_REQUESTS, "an executor", marks=pytest.mark.slow),
        pytest.param(1_000, BY_TOKENS, "an executor", marks=pytest.mark.slow),
    ],
)
def test_money_and_rates_are_kept_at_the_server_by_executors_of_their_own(
    lake, fake: Fake, rows: int, limits: tuple[str, ...], has_loss: str
):
    """What the server counts stays below each limit of the cluster, and agrees with what the run says of itself."""
    root = lake(rows)
    fake.manner(latency_ms=100)
    fake.behave({"status": 500, "share": 0.05}, {"fault": "drop", "share": 0.02})
    with started(root, *CLUSTER, at(fake), *PRICED, *limits, "completions.attempts=20") as run:
        if has_loss:
            until(lambda: fake.calls >= 50, run)
            assert kill(family(run, "CoarseGrainedExecutorBackend")[0])
        status = run.wait(900)
    has_money = "max_spend" in "".join(limits)
    assert status == (5 if has_money else 0), said(root)
    found, calls, tokens = last_run(root), busy(fake.stats("calls/seconds")), busy(fake.stats("calls/tokens"))
    assert found.tasks == 2
    assert fake.stats()["most_open"] <= 6
    assert max(a_second(calls, lambda counts: counts[1])) <= 20 * 1.2 or not has_money
    assert max(a_second(tokens, lambda counts: counts[1] + counts[2])) <= 100_000 / 60 * 1.3 or has_money

    billed = sum(read * IN + written * OUT for _, read, written in tokens) / 1e6
    assert found.dollars <= billed + 1e-6 <= found.most_dollars + 1e-6
    assert found.most_dollars <= 0.05 or not has_money
    assert found.possibly_billed >= fake.stats()["by_status"]["500"] > 0
    received = [row for row in stored(root) if row["completion"] is not None]
    assert found.dollars == pytest.approx(paid(root), abs=1e-5) or has_loss
    assert len({row["key"] for row in received}) == (rows if not has_money else found.answered)


def busy(seconds: list[list[int]]) -> list[list[int]]:
    return list(itertools.dropwhile(lambda counts: not counts[1], seconds))


def a_second(seconds: list[list[int]], count: Callable[[list[int]], int]) -> list[float]:
    """Return the mean of each two neighbouring seconds."""
    return [(count(first) + count(second)) / 2 for first, second in itertools.pairwise(seconds)]


@pytest.mark.parametrize("limit", ["completions.max_minutes=0.05", "completions.max_spend=0.02"])
def test_a_limit_of_time_or_money_stops_the_run_and_the_rerun_goes_on(lake, fake: Fake, limit: str):
    root = lake(FEW)
    fake.manner(latency_ms=400)
    prices = ("endpoints.fake.input_price=1", "endpoints.fake.output_price=5", "completions.max_new_tokens=100")
    conf = settled(root, at(fake), *prices, limit, "completions.flush_seconds=60")
    with pytest.raises(
        StoppedError, match=r"completions\.max.*; \d+ answers are stored, and a rerun asks only the oth"
    ):
        completions.run(conf)
    assert StoppedError.exit_status == 5
    done, first = fake.stats(), last_run(root)
    assert done["answered"] == done["calls"] == first.answered == len(answers(root))
    assert 0 < first.answered < FEW
    assert first.state == "stopped"
    assert first.dollars > 0
    assert first.dollars <= 0.02 or "max_spend" not in limit
    assert paid(root) == pytest.approx(first.dollars, abs=1e-5)
    unlimited = settled(root, at(fake), *prices)
    assert completions.run(unlimited).counts["asked"] == FEW - first.answered
    assert fake.calls == FEW


def paid(root: str) -> float:
    """The bill, from the tokens of the answers that are stored."""
    answers = [row for row in stored(root) if row["completion"] is not None]
    return sum(row["prompt_tokens"] * 1e-6 + row["completion_tokens"] * 5e-6 for row in answers)


@pytest.mark.parametrize(
    ("status", "reason"), [(0, "has not answered"), (401, "refuses: status 401"), (404, "refuses: .*status 404")]
)
def test_an_endpoint_that_takes_nothing_ends_the_run_before_it_has_asked_much(
    lake, fake: Fake, status: int, reason: str
):
    root = lake(FEW)
    if status:
        fake.behave({"status": status})
    else:
        fake.process.kill()
        fake.process.wait()
    with pytest.raises(EndpointError, match=f"endpoint 'fake' {reason}.*0 answers are stored, and a rerun asks"):
        completions.run(settled(root, at(fake)))
    assert EndpointError.exit_status == 4
    run = last_run(root)
    assert run.state == "failed"
    assert 0 < run.calls < 2 * 8
    assert not status or fake.calls == run.calls
    assert run.series[-1].seconds - run.series[0].seconds < 10


@pytest.mark.parametrize("rows", [MORE, pytest.param(20_000, marks=pytest.mark.slow)])
def test_an_endpoint_that_dies_half_way_ends_the_run_with_all_answers_stored(lake, fake: Fake, rows: int):
    root = lake(rows)
    fake.manner(latency_ms=200)
    seen: list[dict[str, int]] = []
    killer = threading.Thread(target=killed_half_way, args=(fake, rows, seen))
    killer.start()
    with pytest.raises(EndpointError, match=r"endpoint 'fake' has not answered for .*refused"):
        completions.run(
            settled(
                root,
                at(fake),
                "completions.flush_seconds=60",
                "completions.in_flight=16",
                "completions.silent_seconds=5",
            )
        )
    killer.join()
    run = last_run(root)
    assert rows > run.answered == len(answers(root)) >= seen[-1]["answered"] >= rows / 2
    assert run.state == "failed"
    assert run.calls - run.answered <= 16 + 2 * 16, "those that were open when it died, and twice as many"


def killed_half_way(fake: Fake, rows: int, seen: list[dict[str, int]]) -> None:
    while not seen or seen[-1]["answered"] < rows / 2:
        seen.append(fake.stats())
    fake.process.kill()


TEACHERS = {
    "sagemaker": "{kind='sagemaker', url='%s', endpoint_name='teacher', codec='tgi', region='us-east-1'}",
    "bedrock": "{kind='bedrock', url='%s', model='fake', region='us-east-1'}",
}


@pytest.mark.parametrize("kind", TEACHERS)
def test_each_service_answers_every_row_with_one_call(lake, fake: Fake, kind: str):
    root = lake(FEW)
    files = ("conf/notebook.toml",) if kind == "sagemaker" else ()
    teacher = f"endpoints.mine={TEACHERS[kind] % fake.url}"
    version = completions.run(settled(root, teacher, "completions.endpoint=mine", files=files))
    assert (version.counts["answered"], version.counts["missing"]) == (FEW, 0)
    assert set(answers(root)) == set(fake.stats("calls/keys")), "the service is told each request's own key"
    assert fake.stats("calls/keys") == {key: {"calls": 1, "answered": 1} for key in answers(root)}
