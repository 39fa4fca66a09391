"""Provide the benchmark of completions with the fake endpoint, lakes with base rows, and the clients to compare.

All clients are measured at the server: complete answers a second, in a window without start and end.
"""

import asyncio
import contextlib
import itertools
import json
import multiprocessing
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pyarrow.parquet as pq
from botocore.config import Config as Settings

from raft_spark import config, endpoints
from raft_spark.endpoints import codecs
from raft_spark.endpoints.base import Request
from raft_spark.errors import StoppedError
from raft_spark.inference import answer_store, executor
from raft_spark.inference.admission import Admission, Patience
from raft_spark.inference.quota import UNLIMITED, Allocation
from raft_spark.lake import browse, schemas, tables
from raft_spark.recipe import prompts
from raft_spark.stages import articles, base, completions

WARM, SPARE = 10, 10  # seconds before the window, longer than the tail; seconds after it
TAIL_SHARE, TAIL_MS = 0.01, 5_000
TIMEOUT = 70  # seconds, of a call


def mean_seconds(latency_ms: float) -> float:
    """Return how long an answer takes on average."""
    return ((1 - TAIL_SHARE) * latency_ms + TAIL_SHARE * TAIL_MS) / 1000


def rows_for(latency_ms: float, in_flight: int, seconds: int) -> int:
    """Return more rows than anybody can ask until the window is over."""
    return int(in_flight / mean_seconds(latency_ms) * (WARM + seconds + SPARE)) + 2 * in_flight


class Fake:
    """The fake endpoint, in a process of its own, told over HTTP."""

    def __init__(self, url: str) -> None:
        self.url = url.removesuffix("/v1")

    def behave(self, latency_ms: float, capacity: int = 0, tail_share: float = TAIL_SHARE) -> None:
        """Set how it answers, and forget what it was asked."""
        manner = {"latency_ms": latency_ms, "capacity": capacity, "tail_share": tail_share, "tail_ms": TAIL_MS}
        self._request("POST", "/manner", json.dumps(manner).encode())
        self._request("DELETE", "/calls")

    def calls(self) -> dict[str, Any]:
        """Return what was asked."""
        return self._request("GET", "/calls")

    def seconds(self) -> list[tuple[int, int, int]]:
        """Return calls, answers and throttled calls of each second, from the first with an answer to the last."""
        found = [tuple(numbers) for _, *numbers in self._request("GET", "/calls/seconds")]
        good = [second for second, (_, answered, _) in enumerate(found) if answered]
        return found[good[0] : good[-1] + 1] if good else []

    def steady(self, seconds: int) -> dict[str, float]:
        """Return answers a second and the share of throttled calls in the window. Raises when the run ended before it did."""
        measured = self.seconds()[WARM : WARM + seconds]
        if len(measured) < seconds:
            msg = f"only {len(measured)} of the window's {seconds} seconds were measured"
            raise RuntimeError(msg)
        calls, answered, throttled = (sum(numbers) for numbers in zip(*measured, strict=True))
        return {"answers_per_second": round(answered / seconds, 1), "throttled_share": round(throttled / calls, 4)}

    def _request(self, method: str, path: str, data: bytes | None = None) -> Any:
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data, method=method)) as answer:
            return json.load(answer)


def settled(fake: Fake, folder: Path, rows: int, kind: str = "sagemaker", **asking: object) -> config.Config:
    """Settle a lake of `rows` built-in articles whose teacher is the fake, spoken to as `kind`; make its base once."""
    ours = {
        "sagemaker": [f"url={fake.url}", "endpoint_name=fake", "codec=tgi", "region=us-east-1"],
        "openai": [f"url={fake.url}/v1", "model=fake"],
    }[kind]
    conf = config.load(
        assignments=[
            f"lake.root={folder}/lake-{rows}",
            f"articles.source=sample:{rows}",
            'spark."spark.master"="local[2]"',
            f"endpoints.bench.kind={kind}",
            *(f"endpoints.bench.{one}" for one in ours),
            "completions.endpoint=bench",
            f"completions.template={'llama3' if kind == 'sagemaker' else 'chat'}",
            *(f"completions.{name}={value}" for name, value in asking.items()),
        ]
    )
    articles.run(conf)
    base.run(conf)
    return conf


def stage(conf: config.Config) -> dict[str, Any]:
    """Ask from an empty store until all is answered or the time is over; return the counts of the version."""
    tables.storage(conf.lake, schemas.COMPLETIONS).delete("")
    with contextlib.suppress(StoppedError):
        completions.run(conf)
    return dict(tables.require(conf.lake, schemas.COMPLETIONS).counts)


def requests(conf: config.Config) -> Iterator[tuple[int, Request]]:
    """Return what the stage asks, in the order of the files."""
    version = tables.require(conf.lake, schemas.BASE)
    for file in version.data():
        path = f"{browse.folder(conf.lake, version)}/{file.path}"
        for row in pq.read_table(path, columns=["pubid", "question", "oracle"], partitioning=None).to_pylist():
            yield (
                row["pubid"],
                prompts.teacher_request(row["question"], row["oracle"], conf.teacher.model, conf.completions),
            )


def alone(work: Callable[..., Any], *arguments: object) -> Any:
    """Call in a fresh process, without Spark."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


def bare(conf: config.Config, calls: int, seconds: float) -> float:
    """Be the floor: one boto3 client, a thread for each call in flight, each sends ready bodies in a loop and reads the answers.

    Ends after that many calls or seconds, whichever comes first; returns the seconds of CPU it took.
    """
    in_flight, turn = conf.completions.in_flight, bodies(conf, calls)
    settings = Settings(max_pool_connections=in_flight, retries={"total_max_attempts": 1}, read_timeout=TIMEOUT)
    client = boto3.client("sagemaker-runtime", region_name="us-east-1", endpoint_url=conf.teacher.url, config=settings)
    begin, over = time.process_time(), time.monotonic() + seconds

    def ask() -> None:
        while time.monotonic() < over and (body := next(turn, None)):
            kind = "application/json"
            client.invoke_endpoint(EndpointName="fake", ContentType=kind, Accept=kind, Body=body)["Body"].read()

    threads = [threading.Thread(target=ask) for _ in range(in_flight)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.process_time() - begin


def bodies(conf: config.Config, calls: int) -> Iterator[bytes]:
    """Return the bodies of the first calls, made before the first is taken."""
    asked = itertools.islice(requests(conf), calls)
    return iter([json.dumps(codecs.generate_body(request)).encode() for _, request in asked])


def bare_asyncio(conf: config.Config, calls: int, seconds: float) -> float:
    """Be the floor without threads, signatures and a library: one event loop with a connection for each call in flight.

    Ends after that many calls or seconds, whichever comes first; returns the seconds of CPU it took.
    """
    address, turn = urlsplit(conf.teacher.url), bodies(conf, calls)
    head = f"POST /endpoints/fake/invocations HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
    begin, over = time.process_time(), time.monotonic() + seconds

    async def ask() -> None:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        while time.monotonic() < over and (body := next(turn, None)):
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            replied = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(re.search(rb"(?i)content-length: *(\d+)", replied)[1]))
        writer.close()

    async def ask_all() -> None:
        await asyncio.gather(*(ask() for _ in range(conf.completions.in_flight)))

    asyncio.run(ask_all())
    return time.process_time() - begin


def windowed(conf: config.Config, calls: int) -> float:
    """Do what a task of the stage does with that many rows, without Spark and files; return the seconds of CPU it took."""
    rows = list(itertools.islice(requests(conf), calls))
    asking = conf.completions
    admission = Admission(
        Allocation(asking.in_flight, UNLIMITED, UNLIMITED, UNLIMITED),
        conf.price,
        Patience(TIMEOUT, TIMEOUT, TIMEOUT, asking.deadline_seconds),
    )
    limits = executor.RetryLimits(asking.attempts, asking.deadline_seconds)
    with contextlib.closing(endpoints.connect(conf.teacher, asking.in_flight, TIMEOUT)) as client:
        begin = time.process_time()
        for inflight in executor.ask_all(iter(rows), client.ask, limits, admission):
            if inflight:
                answer_store.answer_row(inflight, conf.teacher.model, "run")
        return time.process_time() - begin


def peer(python: str, conf: config.Config, folder: Path, seconds: float) -> dict[str, Any]:
    """Let the peer ask all rows in an environment of its own; `failed` is None when it did not end in time."""
    file = folder / "requests.jsonl"
    with file.open("w") as lines:
        for _, request in requests(conf):
            lines.write(json.dumps({"messages": request.prompt, "parameters": dict(request.parameters)}) + "\n")
    home = folder / f"peer-{time.monotonic_ns()}"  # it keeps answers, and asks none twice
    script = str(Path(__file__).with_name("peer.py"))
    command: Sequence[str] = [
        python,
        "-P",
        script,
        str(file),
        conf.teacher.url,
        str(conf.completions.in_flight),
        str(home),
    ]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=True).stdout
    except subprocess.TimeoutExpired:
        return {"peer": "did not end", "failed": None}
    except subprocess.CalledProcessError as error:
        sys.exit(f"the peer failed: {error.stderr[-2000:]}")
    return json.loads(said.strip().splitlines()[-1])
