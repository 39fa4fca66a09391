"""A real LiteLLM proxy between the command line and the fake server: `make litellm` installs it."""

import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from conftest import ROOT
from raft_spark.config import Endpoint
from support import teacher_runs
from support.fake_server import behave, calls, forget, manner
from support.teacher_runs import ROWS, Ended

pytestmark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.timeout(600)]

LITELLM = ROOT / "build/env-litellm/bin/litellm"
KEY = "sk-right"
ANSWER = "Yes, the treatment works."
LIMIT = 45  # requests a minute, fewer than ROWS
STARTS_WITHIN = 180.0  # seconds, on a busy machine


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return teacher_runs.make_lake(tmp_path_factory.mktemp("lakes") / "original")


@pytest.fixture
def root(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "lake"))


def settings(url: str) -> dict[str, object]:
    """Return the proxy's settings: three names for the fake server, one of them limited, and one for a server that is off."""
    behind = {"model": "openai/m", "api_base": url, "api_key": "x"}
    limited = {**behind, "rpm": LIMIT}
    gone = {**behind, "api_base": "http://127.0.0.1:9/v1"}
    models = {"teacher": behind, "limited": limited, "gone": gone}
    return {
        "model_list": [{"model_name": name, "litellm_params": params} for name, params in models.items()],
        "router_settings": {"optional_pre_call_checks": ["enforce_model_rate_limits"]},
        "general_settings": {"master_key": KEY},
    }


@pytest.fixture(scope="module")
def proxy(fake: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the proxy."""
    folder = tmp_path_factory.mktemp("litellm")
    file = folder / "proxy.yaml"
    file.write_text(yaml.safe_dump(settings(fake.url)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [LITELLM, "--config", file, "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
    quiet = {"PATH": os.environ["PATH"], "LITELLM_LOCAL_MODEL_COST_MAP": "True", "HOME": str(folder)}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=quiet, stdout=log, stderr=log)
        try:
            wait_until_alive(server, f"http://127.0.0.1:{port}/health/liveliness", folder / "log")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            server.wait(30)


def wait_until_alive(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.5)
        else:
            return
    pytest.fail(f"the proxy does not answer at {url}: {log.read_text()[-2000:]}")


@pytest.fixture(autouse=True)
def good(fake: Endpoint) -> Iterator[None]:
    """Let each test begin with a server that has no limits and answers well."""
    behave(fake.url, text=ANSWER)
    manner(fake.url, capacity=0, latency_ms=5)
    forget(fake.url)
    yield
    manner(fake.url, capacity=0, latency_ms=5)
    behave(fake.url)


def run(root: Path, proxy: str, model: str, *assignments: str, key: str = KEY) -> Ended:
    endpoint = f"{{kind='openai', url='{proxy}', model='{model}', api_key_env='LITELLM_KEY'}}"
    return teacher_runs.run(root, endpoint, *assignments, LITELLM_KEY=key)


def test_an_answer_comes_through_without_its_thought(root: Path, proxy: str, fake: Endpoint):
    behave(fake.url, text=f"<think>\nSo it says.\n</think>\n\n{ANSWER}")
    ended = run(root, proxy, "teacher")
    assert (ended.status, set(ended.texts), ended.answers) == (0, {ANSWER}, ROWS), ended.words
    assert calls(fake.url)["calls"] == ROWS


def test_an_answer_that_was_stopped_is_not_whole_though_the_proxy_says_stop(root: Path, proxy: str, fake: Endpoint):
    behave(fake.url, text="Yes, the", finish_reason="abort", share=0.3)
    ended = run(root, proxy, "teacher", "completions.attempts=20")
    assert (ended.status, ended.answers) == (0, ROWS), ended.words
    assert "Yes, the" not in ended.texts
    assert calls(fake.url)["calls"] > ROWS


@pytest.mark.parametrize(
    ("model", "key", "words", "remedy"),
    [
        ("teacher", "sk-wrong", "status 400: No connected db.", "correct endpoints.mine.api_key_env or api_key_secret"),
        ("nothing", KEY, "Invalid model name passed in model=nothing", "correct endpoints.mine.model"),
        ("gone", KEY, "Connection error", "start the server"),
    ],
)
def test_what_concerns_every_row_ends_the_run(root: Path, proxy: str, model: str, key: str, words: str, remedy: str):
    ended = run(root, proxy, model, "completions.deadline_seconds=30", key=key)
    assert (ended.status, ended.answers, ended.permanent) == (4, 0, 0), ended.words
    assert words in ended.words
    assert remedy in ended.words


@pytest.mark.parametrize(("model", "capacity"), [("limited", 0), ("teacher", 4)])
def test_a_limit_of_the_proxy_or_of_the_server_behind_it_loses_no_row(
    root: Path, proxy: str, fake: Endpoint, model: str, capacity: int
):
    manner(fake.url, capacity=capacity, latency_ms=100)
    ended = run(root, proxy, model, "completions.in_flight=32")
    assert (ended.status, ended.answers, ended.permanent) == (0, ROWS, 0), ended.words
    assert calls(fake.url)["answered"] == ROWS  # each is paid for once
