"""OpenAI's batch jobs: files, jobs, their output and what can go wrong with each; without Spark."""

import json
import pickle
from collections import Counter
from collections.abc import Iterator

import pytest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from conftest import Settle
from raft_spark import config
from raft_spark.endpoints import openai_batch
from raft_spark.endpoints.base import Request
from raft_spark.endpoints.fake import openai_batches
from raft_spark.errors import ConfigError, EndpointError, InputError
from raft_spark.inference import batch_jobs
from raft_spark.lake.filesystem import Storage
from support import batch_services
from support.batch_services import collect, continue_times, ended, register, requests, service_of


@pytest.fixture
def service() -> Iterator[str]:
    with batch_services.serving(openai_batches.routes()) as address:
        yield address


def behave(service: str, **fields: object) -> None:
    batch_services.behave(service, "batches", **fields)


def counts(service: str) -> dict:
    return batch_services.records(service, "batches")


def openai(url: str) -> list[str]:
    own = ["kind=openai", "model=m", f"url={url}/v1"]
    return [
        *(f"endpoints.b.{setting}" for setting in own),
        "completions.endpoint=b",
        "completions.mode=batch",
        "completions.batch.poll_seconds=0.05",
    ]


@pytest.fixture
def conf(settled: Settle, service, monkeypatch) -> config.Config:
    monkeypatch.setattr("raft_spark.endpoints.openai_files.PAUSE", 0.01)
    return settled(*openai(service))


# Lines


@pytest.mark.row
def test_a_request_becomes_a_line_with_the_route_that_answers_it(settled: Settle):
    service = service_of(settled(*openai("http://x")))
    chat = Request([{"role": "user", "content": "Why?"}], "m", {"temperature": 0.5, "max_tokens": 64})
    assert json.loads(service.line("0a", chat)) == {
        "custom_id": "0a",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": "m",
            "messages": [{"role": "user", "content": "Why?"}],
            "temperature": 0.5,
            "max_tokens": 64,
        },
    }
    assert json.loads(service.line("0a", Request("Why?", "m", {})))["url"] == "/v1/completions"
    azure = service_of(settled(*openai("http://x"), "endpoints.b.route=/chat/completions"))
    assert json.loads(azure.line("0a", chat))["url"] == "/chat/completions"
    assert azure.call("n", "", Storage("/x"))["endpoint"] == "/chat/completions"


@pytest.mark.row
def test_a_job_carries_its_name_and_what_the_settings_say(settled: Settle):
    conf = settled(*openai("http://x"), 'endpoints.b.request_metadata={team = "x"}', "completions.template=llama3")
    assert service_of(conf).call("n-1", "0a", Storage("/x")) == {
        "modelId": "m",
        "endpoint": "/v1/completions",
        "completion_window": "24h",
        "metadata": {"team": "x", "raft-spark": "n-1"},
    }


def output(**fields: object) -> bytes:
    return json.dumps({"id": "batch_req_1", "custom_id": "0a", **fields}).encode()


@pytest.mark.row
def test_an_answer_is_read_with_its_tokens():
    choice = {"message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    body = {"choices": [choice], "usage": usage}
    for response in ({"status_code": 200, "body": body}, body):
        key, reply = openai_batch.read_line(output(response=response, error=None))
        assert (key, reply.completion, reply.prompt_tokens, reply.completion_tokens) == ("0a", "Yes.", 7, 3)


@pytest.mark.row
@pytest.mark.parametrize(
    ("response", "error", "error_class", "words"),
    [
        (
            {"status_code": 400, "body": {"error": {"message": "too\nlong"}}},
            None,
            "bad_request",
            "status 400: too long",
        ),
        ({"status_code": 429, "body": {"error": {"message": "busy"}}}, None, "throttled", "status 429: busy"),
        # vLLM's runner has the error beside the response
        ({"status_code": 400, "body": None}, {"message": "no such role"}, "bad_request", "status 400: no such role"),
        (None, {"code": "batch_expired", "message": "late"}, "unavailable", "error batch_expired: late"),
        (None, {"code": "batch_cancelled", "message": "off"}, "unavailable", "error batch_cancelled: off"),
        (None, {"code": "request_timeout", "message": "slow"}, "timeout", "error request_timeout: slow"),
        (None, {"code": "unheard", "message": "odd"}, "model_error", "error unheard: odd"),
        (None, None, "model_error", "error : null"),
        ({"status_code": 200, "body": {}}, None, "model_error", "the answer has no choices: {}"),
    ],
)
def test_a_record_that_failed_says_why_in_its_class(response, error, error_class, words):
    key, reply = openai_batch.read_line(output(response=response, error=error))
    assert (key, reply.error_class, reply.error) == ("0a", error_class, words)


@pytest.mark.row
@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"null", b'{"custom_id": 1}', b"[" * 9_999])
def test_a_line_that_is_none_has_no_key(line):
    assert openai_batch.read_line(line)[0] == ""


# Settings


@pytest.mark.row
def test_batch_mode_is_for_kinds_that_have_it(settled: Settle):
    with pytest.raises(ConfigError, match=r"endpoints\.fake must have kind 'bedrock', 'openai'"):
        settled("completions.mode=batch")
    with pytest.raises(ConfigError, match=r"endpoints\.b must have role_arn"):
        settled("endpoints.b={kind='bedrock', model='m'}", "completions.endpoint=b", "completions.mode=batch")
    assert settled(*openai("http://x")).teacher.role_arn == ""


@pytest.mark.row
def test_a_file_stays_below_the_servers_limit(settled: Settle):
    assert settled(*openai("http://x")).batch_limits.max_file_mb == 200
    assert settled(*openai("http://x"), "completions.batch.max_file_mb=10").batch_limits.max_file_mb == 10
    assert settled().batch_limits.max_file_mb == 1_000


@pytest.mark.row
def test_the_service_travels_to_the_tasks_of_spark(settled: Settle):
    service = service_of(settled(*openai("http://x/")))
    assert pickle.loads(pickle.dumps(service)).address == "openai http://x//v1"  # noqa: S301 - made above


# The whole path


@pytest.mark.parametrize("where", ["disk", "s3"])
def test_every_request_is_sent_once_and_its_answer_found(settled: Settle, service, s3, where, tmp_path):
    lake = [f"lake.root=s3://lake/{tmp_path.name}", f"lake.s3_endpoint={s3}"] if where == "s3" else []
    conf = settled(*openai(service), *lake)
    behave(service, seconds=0.5)
    store = collect(conf, register(conf, 150, 100))
    assert sorted(store) == sorted(request.key for request in requests(conf, 250))
    found = store[requests(conf, 250)[200].key]
    assert found.completion.startswith("Context: It is 200. So it is.")
    assert (found.finish_reason, found.prompt_tokens > 5) == ("stop", True)
    assert (counts(service)["jobs"], set(counts(service)["sent"].values())) == (2, {1})
    assert batch_jobs.pending(conf.lake) == []


def test_the_failed_records_are_told_from_those_without_a_line(conf, service):
    behave(service, failed=0.3, left_out=0.2, error_code=503)
    store = collect(conf, register(conf, 200))
    classes = Counter(reply.error for reply in store.values() if reply.error)
    assert set(classes) == {"status 503: told to fail", "no answer from the batch job, which is completed"}
    assert set(counts(service)["answered"].values()) == {1}
    assert len(counts(service)["answered"]) == 200 - classes.total()


def test_a_job_whose_making_was_never_answered_is_not_made_again(conf, service):
    behave(service, lost=1)
    jobs = register(conf, 50)
    assert list(batch_jobs.submit_and_poll(conf, jobs, lambda _: None, continue_times(2))) == []
    assert [(job.state, job.arn) for job in batch_jobs.pending(conf.lake)] == [("submitting", "")]
    assert len(collect(conf, batch_jobs.pending(conf.lake))) == 50
    assert (counts(service)["jobs"], set(counts(service)["sent"].values())) == (1, {1})


def test_a_job_is_found_among_many_others(conf, service):
    first = register(conf, 3)
    done = next(ended(conf, first))
    others = [register(conf, 1, run=f"{batch_services.RUN}{index}")[0] for index in range(25)]
    assert len(list(ended(conf, others))) == 25
    assert service_of(conf).find(first[0], Storage("/x")) == done.arn == "batch_0"


def test_a_list_that_ignores_where_it_should_go_on_has_an_end(settled: Settle):
    async def same(_):
        page = [{"id": "batch_7", "metadata": None, "created_at": 4_000_000_000}]
        return JSONResponse({"data": page, "has_more": True})

    with batch_services.serving([Route("/v1/batches", same)]) as address:
        conf = settled(*openai(address))
        assert service_of(conf).find(register(conf, 1)[0], Storage("/x")) == ""


def test_a_driver_lost_while_a_job_runs_finds_it_again(conf, service):
    behave(service, seconds=0.5)
    jobs = register(conf, 50)
    assert list(batch_jobs.submit_and_poll(conf, jobs, lambda _: None, continue_times(2))) == []
    assert [(job.state, job.arn) for job in batch_jobs.pending(conf.lake)] == [("submitted", "batch_0")]
    assert len(collect(conf, batch_jobs.pending(conf.lake))) == 50
    assert (counts(service)["jobs"], set(counts(service)["sent"].values())) == (1, {1})


@pytest.mark.parametrize(("status", "answered"), [("expired", 25), ("cancelled", 25)])
def test_a_job_that_ends_early_keeps_what_it_has(conf, service, status, answered):
    behave(service, status=status)
    store = collect(conf, register(conf, 50))
    assert sum(reply.completion is not None for reply in store.values()) == answered
    errors = {(reply.error_class, reply.error) for reply in store.values() if reply.error}
    assert errors == {("unavailable", f"error batch_{status}: This request was not executed in time.")}


def test_a_job_whose_input_is_refused_says_why(conf, service):
    behave(service, status="failed", message="the model m is retired")
    store = collect(conf, register(conf, 10))
    reason = "no answer from the batch job, which is failed: the model m is retired"
    assert {(reply.error_class, reply.error) for reply in store.values()} == {("unavailable", reason)}


def test_a_job_that_does_not_fit_into_the_queue_is_made_again_later(conf, service, caplog):
    behave(service, full=2, message="Enqueued token limit reached for m")
    assert len(collect(conf, register(conf, 50))) == 50
    assert counts(service)["jobs"] == 3
    assert set(counts(service)["sent"].values()) == {1}
    assert batch_jobs.pending(conf.lake) == []


def test_throttling_only_delays(conf, service):
    behave(service, throttled=5)
    assert len(collect(conf, register(conf, 50))) == 50
    assert set(counts(service)["sent"].values()) == {1}


def test_a_download_that_breaks_off_is_repeated(conf, service):
    behave(service, cut=2)
    store = collect(conf, register(conf, 50))
    assert sum(reply.completion is not None for reply in store.values()) == 50
    assert counts(service)["calls"]["content"] == 3


def test_answers_that_the_server_no_longer_has_are_not_paid_again_unasked(conf, service):
    behave(service, forgetful=True)
    with pytest.raises(InputError, match=r"50 answers, but the server has no file batch_0-output any more; .* delete"):
        collect(conf, register(conf, 50))
    assert [job.state for job in batch_jobs.pending(conf.lake)] == ["submitted"]


def test_a_server_that_keeps_no_names_is_told(conf, service, caplog):
    behave(service, no_metadata=True)
    assert len(collect(conf, register(conf, 10))) == 10
    assert "does not keep the metadata" in caplog.text


def test_a_server_without_batch_jobs_says_what_to_change(settled: Settle):
    with batch_services.serving([]) as address:
        conf = settled(*openai(address))
        with pytest.raises(EndpointError, match=r"/v1/batches: status 404: .* completions\.mode = 'realtime'"):
            collect(conf, register(conf, 10))
    assert [job.state for job in batch_jobs.pending(conf.lake)] == ["submitting"]


def test_a_key_is_sent_and_never_told(settled: Settle, service, monkeypatch):
    conf = settled(*openai(service), "endpoints.b.api_key_env=BATCH_KEY")
    monkeypatch.delenv("BATCH_KEY", raising=False)
    with pytest.raises(EndpointError, match="the environment variable BATCH_KEY"):
        collect(conf, register(conf, 10))
    monkeypatch.setenv("BATCH_KEY", "sk-secret")
    behave(service, failed=1, message="x")
    assert len(collect(conf, batch_jobs.pending(conf.lake))) == 10


def test_jobs_of_another_service_stay_for_it(settled: Settle, service):
    conf = settled(*openai(service))
    register(conf, 10)
    other = settled(*openai("http://127.0.0.1:9"))
    assert batch_jobs.split_pending(other) == ([], batch_jobs.pending(conf.lake))
    assert batch_jobs.split_pending(conf) == (batch_jobs.pending(conf.lake), [])


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (401, {"message": "Incorrect API key provided: sk-secret"}, r"status 401: Incorrect API key provided: \*\*\*$"),
        (429, {"code": "insufficient_quota", "message": "check your plan"}, "status 429: check your plan$"),
        (307, {"message": "moved"}, "status 307: moved$"),
        (200, "<html>", "status 200: <html>$"),
    ],
)
def test_what_waiting_does_not_mend_ends_the_run(settled: Settle, monkeypatch, status, error, words):
    monkeypatch.setenv("BATCH_KEY", "sk-secret")

    async def refuse(_):
        return Response(error) if status == 200 else JSONResponse({"error": error}, status)

    with batch_services.serving([Route("/v1/batches", refuse)]) as address:
        conf = settled(*openai(address), "endpoints.b.api_key_env=BATCH_KEY")
        with pytest.raises(EndpointError, match=words):
            collect(conf, register(conf, 10))
    assert [job.state for job in batch_jobs.pending(conf.lake)] == ["submitting"]
