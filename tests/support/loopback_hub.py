"""Serve files as a dataset repository on 127.0.0.1: the part of the Hugging Face hub that its client uses.

It answers the requests of datasets 5.2 and huggingface_hub 2.4. As on the real hub, Parquet files are reached by a
redirect to storage, and an anonymous request for a repository that does not exist gets status 401.
"""

import asyncio
import functools
import hashlib
import math
import re
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

BLOCK = 1 << 16  # bytes sent at once


class BrokenOffError(Exception):
    """Raised during a response to make the server close the connection."""


@dataclass
class Failure:
    """A failure of the requests whose `METHOD /path` matches the pattern."""

    pattern: str
    status: int  # 0: the connection is closed halfway through the answer
    good: int  # the number of requests that succeed before the first failure
    code: str  # the hub's X-Error-Code


@dataclass
class LoopbackHub:
    """One dataset repository; `with LoopbackHub("owner/name") as hub` serves it at `hub.url`."""

    repo: str
    url: str = ""
    latency: float = 0  # seconds before each answer
    rate: float = math.inf  # bytes a second of each answer from storage
    requests: list[str] = field(default_factory=list)  # METHOD /path, in order of arrival
    at_once: int = 0  # the most requests that were waiting for the end of their answers
    _waiting: int = 0
    _commits: dict[str, dict[str, bytes]] = field(default_factory=dict)  # revision -> path -> content, oldest first
    _failure: Failure | None = None

    def __enter__(self) -> Self:
        app = Starlette(
            routes=[
                Route("/api/datasets/{repo:path}/revision/{revision}", self._info),
                Route("/api/datasets/{repo:path}/tree/{revision}", self._tree),
                Route("/api/datasets/{repo:path}/tree/{revision}/{path:path}", self._tree),
                Route("/api/datasets/{repo:path}", self._info),
                Route("/datasets/{repo:path}/resolve/{revision}/{path:path}", self._resolve),
                Route("/storage/{revision}/{path:path}", self._storage),
                Route("/{path:path}", self._unknown, methods=["GET", "HEAD", "POST"]),
            ]
        )

        async def delayed(scope: Scope, receive: Receive, send: Send) -> None:
            self._waiting += 1
            self.at_once = max(self.at_once, self._waiting)
            await asyncio.sleep(self.latency)
            try:
                await app(scope, receive, send)
            finally:
                self._waiting -= 1

        config = uvicorn.Config(delayed, host="127.0.0.1", port=0, log_level="critical", lifespan="off", ws="none")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive(), "the loopback hub did not start"
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *error: object) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()

    def commit(self, files: Mapping[str, bytes]) -> str:
        """Make these files the newest revision and return its 40 hexadecimal digits."""
        revision = _digest(f"{self.repo} {len(self._commits)}".encode())
        self._commits[revision] = dict(files)
        return revision

    def fail(self, pattern: str, status: int, good: int = 0, code: str = "") -> None:
        """After `good` requests that match `pattern` fail them with `status`; 0 closes the connection midway."""
        self._failure = Failure(pattern, status, good, code)

    def heal(self) -> None:
        """End the failure."""
        self._failure = None

    async def _info(self, request: Request) -> Response:
        siblings = [{"rfilename": path} for path in self._files(request)]
        return JSONResponse({"id": self.repo, "sha": self._revision(request), "siblings": siblings})

    async def _tree(self, request: Request) -> Response:
        folder = request.path_params.get("path", "")
        deep = request.query_params.get("recursive", "").lower() == "true"
        entries = [entry for entry in _entries(self._files(request)) if _lies_in(entry["path"], folder, deep=deep)]
        if not entries:
            raise _refusal(404, "EntryNotFound")
        return JSONResponse(entries)

    async def _resolve(self, request: Request) -> Response:
        path, content, headers = self._file(request)
        if not path.endswith(".parquet"):
            return Response(content, headers=headers)
        headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(content))}
        headers["Location"] = f"{self.url}/storage/{headers['X-Repo-Commit']}/{path}"
        return Response(status_code=302, headers=headers)

    async def _storage(self, request: Request) -> Response:
        _, content, headers = self._file(request)
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", ""))
        start, end = (int(span[1]), min(int(span[2]) + 1, len(content))) if span else (0, len(content))
        headers |= {"Content-Length": str(end - start), "Content-Range": f"bytes {start}-{end - 1}/{len(content)}"}
        blocks = _blocks(content[start:end], self.rate, whole=not self._fails(request))
        return StreamingResponse(blocks, 206 if span else 200, headers)

    def _file(self, request: Request) -> tuple[str, bytes, dict[str, str]]:
        """Return path, content and headers of the requested file. Raises HTTPException if it does not exist."""
        files, path = self._files(request), request.path_params["path"]
        if path not in files:
            raise _refusal(404, "EntryNotFound")
        return path, files[path], {"X-Repo-Commit": self._revision(request), "ETag": f'"{_digest(files[path])}"'}

    async def _unknown(self, request: Request) -> Response:
        self.requests.append(_line(request))
        raise _refusal(404, "")

    def _files(self, request: Request) -> dict[str, bytes]:
        """Record the request; return the files of the requested revision. Raises HTTPException if it does not exist."""
        self.requests.append(_line(request))
        if self._failure and re.search(self._failure.pattern, self.requests[-1]):
            self._failure.good -= 1
            if self._fails(request) and self._failure.status:
                raise _refusal(self._failure.status, self._failure.code)
        if request.path_params.get("repo", self.repo) != self.repo:
            raise _refusal(401, "RepoNotFound")
        if self._revision(request) not in self._commits:
            raise _refusal(404, "RevisionNotFound")
        return self._commits[self._revision(request)]

    def _fails(self, request: Request) -> bool:
        failure = self._failure
        return failure is not None and failure.good < 0 and re.search(failure.pattern, _line(request)) is not None

    def _revision(self, request: Request) -> str:
        name: str = request.path_params.get("revision", "main")
        return list(self._commits)[-1] if name == "main" else name


def _line(request: Request) -> str:
    return f"{request.method} {request.url.path}"


def _refusal(status: int, code: str) -> HTTPException:
    return HTTPException(status, headers={"X-Error-Code": code} if code else None)


async def _blocks(content: bytes, rate: float, *, whole: bool) -> AsyncIterator[bytes]:
    begun = time.monotonic()
    for start in range(0, len(content) if whole else len(content) // 2, BLOCK):
        await asyncio.sleep(begun + start / rate - time.monotonic())
        yield content[start : start + BLOCK]
    if not whole:
        raise BrokenOffError


def _entries(files: Mapping[str, bytes]) -> Iterator[dict[str, str | int]]:
    """Yield folders and files in the shape of the hub's tree answers."""
    for folder in sorted({path.rpartition("/")[0] for path in files} - {""}):
        yield {"type": "directory", "path": folder, "oid": _digest(folder.encode()), "size": 0}
    for path, content in sorted(files.items()):
        yield {"type": "file", "path": path, "oid": _digest(content), "size": len(content)}


def _lies_in(path: object, folder: str, *, deep: bool) -> bool:
    prefix = f"{folder}/" if folder else ""
    inner = str(path).removeprefix(prefix)
    return str(path).startswith(prefix) and inner != "" and (deep or "/" not in inner)


@functools.cache  # a large file is requested in many ranges
def _digest(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
