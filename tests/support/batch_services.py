"""Serve fake batch services in a thread, and register, submit and collect jobs without Spark."""

import itertools
import json
import socket
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

from raft_spark import config, endpoints
from raft_spark.endpoints.base import Reply, Request
from raft_spark.endpoints.batch_service import BatchJob, BatchService
from raft_spark.inference import batch_jobs
from raft_spark.inference.batch_jobs import BatchFile, RecordInfo
from raft_spark.lake.filesystem import Storage
from raft_spark.recipe import prompts

RUN = "20261122T170138Z-0123abcd-4567"


@contextmanager
def serving(routes: Sequence[Route], seen: list[Any] | None = None, pair: Path | None = None) -> Iterator[str]:
    """Yield the address of a server on loopback, in a thread. It keeps in `seen` what each call began with, as ASGI says it.

    `pair` is the file of a private key and a certificate, with which it is reached by HTTPS.
    """
    app = Starlette(routes=list(routes))

    async def keep(scope: Any, receive: Any, send: Any) -> None:
        if seen is not None:
            seen.append(scope)
        await app(scope, receive, send)

    listener = socket.create_server(("127.0.0.1", 0))
    tls = {"ssl_certfile": pair, "ssl_keyfile": pair} if pair else {}
    server = uvicorn.Server(uvicorn.Config(keep, log_level="error", lifespan="off", **tls))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http{'s' if pair else ''}://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def behave(service: str, kind: str, **fields: object) -> None:
    """Set faults of a fake service: `kind` is jobs (Bedrock), batches (OpenAI) or async (SageMaker)."""
    urllib.request.urlopen(f"{service}/{kind}/behave", json.dumps(fields).encode()).close()


def records(service: str, kind: str) -> dict[str, Any]:
    """Return what a fake service has counted."""
    with urllib.request.urlopen(f"{service}/{kind}/records") as answer:
        return dict(json.load(answer))


def service_of(conf: config.Config) -> BatchService:
    return endpoints.batch_service_of(conf.teacher, conf.completions)


def requests(conf: config.Config, count: int) -> list[Request]:
    """Return requests of the teacher, one for each number."""
    return [
        prompts.teacher_request(f"Is it {number}?", f"It is {number}. So it is.", conf.teacher.model, conf.completions)
        for number in range(count)
    ]


def register(conf: config.Config, *sizes: int, run: str = RUN) -> list[BatchJob]:
    """Write the input of one job for each size, and register the jobs, as a run does."""
    folder, asked, files = batch_jobs.run_folder(conf, run), requests(conf, sum(sizes)), []
    for index, size in enumerate(sizes):
        own, asked, name = asked[:size], asked[size:], f"{run}-00000000-00000-{index}"
        data = b"".join(service_of(conf).line(request.key, request) for request in own)
        infos = ((one.key, RecordInfo(7, one.key_without_max_tokens, one.max_tokens, one.characters)) for one in own)
        folder.write(f"input/{name}.jsonl", data)
        folder.write(f"keys/{name}.tsv", "".join(batch_jobs.key_line(*info) for info in infos).encode())
        files.append(BatchFile(name, size, len(data), sha256(data).hexdigest()))
    return batch_jobs.register_jobs(conf, folder, files)


def continue_times(count: int) -> Callable[[], bool]:
    """Return a function that returns True `count` times: once for each round and each job in it, and each pause."""
    left = iter([True] * count)
    return lambda: next(left, False)


def ended(conf: config.Config, jobs: list[BatchJob]) -> Iterator[BatchJob]:
    """Submit jobs and wait for them."""
    return itertools.chain.from_iterable(batch_jobs.submit_and_poll(conf, jobs, lambda _: None, lambda: True))


def collect(conf: config.Config, jobs: list[BatchJob]) -> dict[str, Reply]:
    """Submit jobs, wait for them and collect their replies, as a run does."""
    store: dict[str, Reply] = {}
    for job in ended(conf, jobs):
        ignored: Counter[str] = Counter()
        for key, _, reply in batch_jobs.replies(job, Storage.of(conf.lake, job.folder), service_of(conf), ignored):
            assert key not in store
            store[key] = reply
        assert not ignored
        batch_jobs.mark_collected(conf.lake, job)
    return store
