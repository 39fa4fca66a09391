"""SageMaker's asynchronous endpoints: one call a record, answers in S3, and what can go wrong; without Spark."""

import json
import pickle
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from conftest import Settle
from raft_spark import config
from raft_spark.endpoints import sagemaker_async
from raft_spark.endpoints.base import Request
from raft_spark.endpoints.batch_service import BatchJob
from raft_spark.endpoints.fake import sagemaker_async as double
from raft_spark.errors import ConfigError, EndpointError
from raft_spark.inference import batch_jobs
from raft_spark.lake.filesystem import Storage
from support import aws_model, batch_services
from support.batch_services import collect, continue_times, register, requests, service_of


@pytest.fixture
def service(tmp_path) -> Iterator[str]:
    with batch_services.serving(double.routes()) as address:
        behave(address, output=str(tmp_path / "out"), failure=str(tmp_path / "failed"))
        yield address


def behave(service: str, **fields: object) -> None:
    batch_services.behave(service, "async", **fields)


def counts(service: str) -> dict:
    return batch_services.records(service, "async")


def sagemaker(url: str) -> list[str]:
    own = ["kind=sagemaker", "endpoint_name=slow", f"url={url}", "region=us-east-1", "codec=openai"]
    return [
        *(f"endpoints.b.{setting}" for setting in own),
        "completions.endpoint=b",
        "completions.mode=batch",
        "completions.batch.poll_seconds=0.05",
        "completions.in_flight=8",
    ]


@pytest.fixture
def conf(settled: Settle, service) -> config.Config:
    return settled(*sagemaker(service))


# What is sent


@pytest.mark.row
def test_the_service_takes_the_call(settled: Settle):
    conf = settled(*sagemaker(""), "completions.timeout_seconds=900.5", "endpoints.b.route=/v1/chat/completions")
    sent = service_of(conf)._arguments("0a", "s3://lake/records/j/0a.json")
    assert aws_model.problems("sagemaker-runtime", "InvokeEndpointAsync", sent) == []
    assert sent == {
        "EndpointName": "slow",
        "ContentType": "application/json",
        "Accept": "application/json",
        "InferenceId": "0a",
        "InputLocation": "s3://lake/records/j/0a.json",
        "RequestTTLSeconds": 21_600,
        "InvocationTimeoutSeconds": 901,
        "CustomAttributes": "route=/v1/chat/completions",
    }


@pytest.mark.row
@pytest.mark.parametrize(("seconds", "sent"), [("0.1", 1), ("120", 120), ("86400", 3_600)])
def test_an_answer_may_take_an_hour_at_most(settled: Settle, seconds, sent):
    conf = settled(*sagemaker(""), f"completions.timeout_seconds={seconds}")
    assert service_of(conf)._arguments("0a", "s3://lake/a")["InvocationTimeoutSeconds"] == sent


@pytest.mark.row
@pytest.mark.parametrize(
    ("codec", "body"),
    [
        ("openai", {"messages": [{"role": "user", "content": "Why?"}], "max_tokens": 9}),
        ("tgi", {"inputs": "Why?"}),
    ],
)
def test_a_record_holds_the_body_in_the_containers_protocol(settled: Settle, codec, body):
    template = "chat" if codec == "openai" else "llama3"
    conf = settled(*sagemaker(""), f"endpoints.b.codec={codec}", f"completions.template={template}")
    prompt = [{"role": "user", "content": "Why?"}] if codec == "openai" else "Why?"
    record = json.loads(service_of(conf).line("0a", Request(prompt, "slow", {"max_tokens": 9})))
    assert record["key"] == "0a"
    assert record["body"].items() >= body.items()
    assert "model" not in record["body"]  # the endpoint's name is not the container's


# Settings


@pytest.mark.row
@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("endpoints.b.inference_component=c", r"endpoints\.b\.inference_component must be empty"),
        ('completions.retry=["ungrounded"]', "takes no calls in real time"),
        ("completions.max_spend=5", "costs by the hour"),
    ],
)
def test_what_an_asynchronous_endpoint_cannot_keep_is_refused(settled: Settle, setting, words):
    priced = "endpoints.b.hourly_price=2"
    with pytest.raises(ConfigError, match=words):
        settled(*sagemaker(""), priced, setting)
    assert settled(*sagemaker(""), priced, setting, "completions.mode=realtime").teacher.kind == "sagemaker"


@pytest.mark.row
def test_nothing_is_left_for_calls_in_real_time(settled: Settle):
    limits = settled(*sagemaker("")).batch_limits
    assert (limits.min_records, limits.max_records) == (1, 10_000)
    assert settled(*sagemaker(""), "completions.batch.max_records=500").batch_limits.max_records == 500


@pytest.mark.row
def test_the_service_travels_to_the_tasks_of_spark(settled: Settle):
    assert pickle.loads(pickle.dumps(service_of(settled(*sagemaker(""))))).address == "sagemaker slow"  # noqa: S301


# Failures


@pytest.mark.row
@pytest.mark.parametrize(
    ("text", "error_class"),
    [
        ('Received server error (500) from primary with message "out of memory"', "model_error"),
        ('Received server error (503) from primary with message ""', "throttled"),
        ('Received client error (400) from primary with message "too long"', "bad_request"),
        ('{"message": "Model responded with status code 429"}', "throttled"),
        ("Invocation timed out", "timeout"),
        ("Request expired before processing", "timeout"),
        ("the prompt has 400 tokens", "model_error"),
        ("", "model_error"),
    ],
)
def test_a_failure_has_the_class_of_the_containers_status(text, error_class):
    reply = sagemaker_async.failure_reply(text.encode())
    assert (reply.completion, reply.error_class) == (None, error_class)


@pytest.mark.row
@pytest.mark.parametrize(("age", "status", "answered"), [(60, "InProgress", 0), (30_000, "Expired", 1)])
def test_a_queue_that_is_over_is_looked_through_to_its_end(
    settled: Settle, tmp_path, monkeypatch, age, status, answered
):
    monkeypatch.setattr(sagemaker_async, "LOOKS", 1)
    files = Storage(str(tmp_path))
    sent = [{"key": key, "at": time.time() - age, "output": f"{tmp_path}/{key}.out"} for key in ("0a", "0b")]
    files.write("invoked/j.jsonl", b"".join(json.dumps(one).encode() + b"\n" for one in sent))
    files.write("0b.out", b"{}")
    found = service_of(settled(*sagemaker(""))).status(BatchJob("j", files.root, "", 2, {"modelId": "slow"}), files)
    assert (found.status, found.answered, found.failed) == (status, answered, 0)


# The whole path


@pytest.mark.parametrize("where", ["disk", "s3"])
def test_every_request_is_sent_once_and_its_answer_found(settled: Settle, service, s3, where, tmp_path):
    root = f"s3://lake/{tmp_path.name}"
    lake = [f"lake.root={root}", f"lake.s3_endpoint={s3}"] if where == "s3" else []
    places = {"output": f"{root}/out", "failure": f"{root}/failed", "s3": s3} if where == "s3" else {}
    conf = settled(*sagemaker(service), *lake)
    behave(service, seconds=0.3, **places)
    store = collect(conf, register(conf, 40, 30))
    assert sorted(store) == sorted(request.key for request in requests(conf, 70))
    found = store[requests(conf, 70)[50].key]
    assert found.completion.startswith("Context: It is 50. So it is.")
    assert (found.finish_reason, found.prompt_tokens > 5) == ("stop", True)
    assert counts(service)["sent"] == dict.fromkeys(store, 1)
    assert batch_jobs.pending(conf.lake) == []


def test_failures_are_told_from_what_never_came(conf, service, monkeypatch):
    behave(service, failed=0.3, left_out=0.2, error_code=503)
    monkeypatch.setattr(sagemaker_async, "GRACE_SECONDS", 1 - 21_600 - 120)  # so that the queue is over in a second
    store = collect(conf, register(conf, 100))
    errors = Counter((reply.error_class, reply.error) for reply in store.values() if reply.error)
    failed = 'SageMaker could not answer: Received server error (503) from primary with message "told to fail".'
    late = "no answer from the batch job, which is Expired: SageMaker wrote no more answers"
    assert set(errors) == {("throttled", failed), ("unavailable", late)}
    assert len(counts(service)["answered"]) == 100 - errors.total()
    assert set(counts(service)["sent"].values()) == {1}


@pytest.mark.parametrize("stops_after", [1, 2, 5])
def test_a_driver_lost_between_calls_sends_nothing_twice(conf, service, stops_after):
    behave(service, seconds=0.5)
    jobs = register(conf, 40)
    assert list(batch_jobs.submit_and_poll(conf, jobs, lambda _: None, continue_times(2 + stops_after))) == []
    assert len(counts(service)["sent"]) == 8 * stops_after
    assert [job.state for job in batch_jobs.pending(conf.lake)] == ["submitted" if stops_after == 5 else "submitting"]
    assert len(collect(conf, batch_jobs.pending(conf.lake))) == 40
    assert set(counts(service)["sent"].values()) == {1}


def test_a_driver_killed_before_it_could_store_a_group_sends_that_group_again_and_no_more(conf, service, monkeypatch):
    class KilledError(Exception):
        pass

    def die(*_):
        raise KilledError

    jobs = register(conf, 40)
    list(batch_jobs.submit_and_poll(conf, jobs, lambda _: None, continue_times(4)))
    with monkeypatch.context() as patched:
        patched.setattr(sagemaker_async, "_store", die)
        with pytest.raises(KilledError):
            collect(conf, batch_jobs.pending(conf.lake))
    assert len(collect(conf, batch_jobs.pending(conf.lake))) == 40
    assert Counter(counts(service)["sent"].values()) == {1: 32, 2: 8}


def test_throttling_and_lost_replies_only_delay(conf, service):
    behave(service, throttled=5, lost=2)
    assert len(collect(conf, register(conf, 30))) == 30
    assert Counter(counts(service)["sent"].values()) == {1: 28, 2: 2}  # nobody knows that these two were taken


def test_an_endpoint_that_does_not_exist_ends_the_run_and_the_records_are_free_again(conf, service):
    behave(service, status="ValidationError", message="Endpoint slow of account 123456789012 not found.")
    with pytest.raises(EndpointError, match=r"slow refuses: .* not found"):
        collect(conf, register(conf, 10))
    assert batch_jobs.pending(conf.lake) == []


def test_a_refusal_in_the_middle_loses_nothing_that_is_paid(conf, service):
    list(batch_jobs.submit_and_poll(conf, register(conf, 40), lambda _: None, continue_times(4)))
    behave(service, status="AccessDeniedException", message="no")
    store = collect(conf, batch_jobs.pending(conf.lake))
    assert sum(reply.completion is not None for reply in store.values()) == len(counts(service)["answered"]) == 16
    assert {reply.error_class for reply in store.values() if reply.error} == {"unavailable"}


def test_a_record_that_sagemaker_does_not_take_fails_alone(conf, service):
    behave(service, status="ValidationError", message="the payload is too large")
    store = collect(conf, register(conf, 10))
    assert {reply.error_class for reply in store.values()} == {"bad_request"}


def test_another_model_does_not_drop_what_was_sent(conf, service, settled):
    list(batch_jobs.submit_and_poll(conf, register(conf, 40), lambda _: None, continue_times(4)))
    other = settled(*sagemaker(service), "endpoints.b.model=other")
    store = collect(other, batch_jobs.pending(other.lake))
    assert sum(reply.completion is not None for reply in store.values()) == len(counts(service)["sent"]) == 16


def test_an_endpoint_without_a_failure_folder_is_told(settled: Settle, service, caplog):
    behave(service, failure="")
    conf = settled(*sagemaker(service))
    assert len(collect(conf, register(conf, 10))) == 10
    assert "the endpoint has no S3FailurePath" in caplog.text


def test_calls_keep_to_the_rate(settled: Settle, service):
    conf, begin = settled(*sagemaker(service), "completions.requests_per_second=20"), time.monotonic()
    assert len(collect(conf, register(conf, 30))) == 30
    assert time.monotonic() - begin >= 1.4


@pytest.mark.row
def test_a_place_is_a_bucket_and_a_key_or_a_path():
    assert sagemaker_async._split("s3://b/x/y.out") == ("s3://b", "x/y.out")
    assert sagemaker_async._split("/x/y.out") == ("/", "x/y.out")
