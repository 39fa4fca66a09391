"""Batch jobs: every request is in one job, every job is created once, every answer is found."""

import itertools
import json
import re
import socket
from collections import Counter
from collections.abc import Iterator

import pyarrow as pa
import pytest
from botocore.session import get_session
from botocore.validate import ParamValidator
from hypothesis import given
from hypothesis import strategies as st

from conftest import Settle
from raft_spark import config
from raft_spark.endpoints import bedrock_batch, converse
from raft_spark.endpoints.base import Request
from raft_spark.endpoints.batch_service import BatchJob
from raft_spark.endpoints.fake import batch_jobs as bedrock_double
from raft_spark.errors import ConfigError, EndpointError, InputError
from raft_spark.inference import batch_input, batch_jobs
from raft_spark.lake import session
from raft_spark.lake.filesystem import Storage
from raft_spark.recipe import prompts
from support import batch_services
from support.batch_services import collect, continue_times, ended, service_of

MODEL = "meta.llama3-1-8b-instruct-v1:0"
ROLE = "arn:aws:iam::123456789012:role/batch"
CALM = config.load().completions.batch
RUN = "20261122T170138Z-0123abcd-4567"

# Records


@pytest.mark.row
def test_a_request_becomes_the_body_of_a_converse_call():
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Why?"}]
    request = Request(messages, MODEL, {"temperature": 0.5, "top_p": 1.0, "max_tokens": 64})
    assert json.loads(converse.batch_line("0a", request)) == {
        "recordId": "0a",
        "modelInput": {
            "messages": [{"role": "user", "content": [{"text": "Why?"}]}],
            "system": [{"text": "Be short."}],
            "inferenceConfig": {"temperature": 0.5, "topP": 1.0, "maxTokens": 64},
        },
    }


@pytest.mark.row
def test_a_prompt_of_one_text_is_what_the_user_says():
    assert converse.body(Request("Why?", MODEL, {})) == {
        "messages": [{"role": "user", "content": [{"text": "Why?"}]}],
        "inferenceConfig": {},
    }


@pytest.mark.row
@pytest.mark.parametrize("template", ["chat", "llama3"])
def test_the_service_takes_the_body(template):
    conf = config.load([], [f"completions.template={template}"]).completions
    body = converse.body(prompts.teacher_request("Why?", "Because.", MODEL, conf))
    assert accepted("bedrock-runtime", "Converse", {"modelId": MODEL, **body})


def answer(text: str, reason: str = "end_turn") -> dict[str, object]:
    return {
        "output": {"message": {"role": "assistant", "content": [{"text": text}]}},
        "stopReason": reason,
        "usage": {"inputTokens": 7, "outputTokens": 3, "totalTokens": 10},
    }


@pytest.mark.row
@pytest.mark.parametrize(
    ("reason", "finish_reason", "error_class"),
    [
        ("end_turn", "stop", None),
        ("stop_sequence", "stop", None),
        ("max_tokens", "length", None),
        ("model_context_window_exceeded", "length", None),
        ("guardrail_intervened", None, "filtered"),
        ("content_filtered", None, "filtered"),
        ("malformed_model_output", None, "model_error"),
    ],
)
def test_the_reason_for_an_end_decides_and_the_tokens_are_counted_all_the_same(reason, finish_reason, error_class):
    reply = converse.reply(answer("Yes.", reason))
    assert (reply.finish_reason, reply.error_class) == (finish_reason, error_class)
    assert (reply.completion == "Yes.") == (error_class is None)
    assert (reply.prompt_tokens, reply.completion_tokens) == (7, 3)


@pytest.mark.row
def test_what_a_model_thinks_is_not_what_it_says():
    found = answer("")
    found["output"]["message"]["content"] = [{"reasoningContent": {"text": "Hm."}}, {"text": "Yes"}, {"text": "."}]
    assert converse.reply(found).completion == "Yes."


@pytest.mark.row
@pytest.mark.parametrize("body", [None, [], {}, "text", {"output": {"message": {}}, "stopReason": "end_turn"}])
def test_an_answer_without_words_is_the_models_error(body):
    assert converse.reply(body).error_class == "model_error"


@pytest.mark.row
def test_an_empty_answer_says_so():
    assert converse.reply(answer("  ")).error_class == "empty"


@pytest.mark.row
@pytest.mark.parametrize(
    ("code", "error_class"),
    [
        (400, "bad_request"),
        ("400", "bad_request"),
        (403, "refused"),
        (408, "timeout"),
        (424, "model_error"),
        (429, "throttled"),
        (500, "model_error"),
        (503, "throttled"),
        ("ThrottlingException", "throttled"),
        ("com.amazonaws.bedrock#ValidationException", "bad_request"),
        ("Unheard", "model_error"),
        (None, "model_error"),
    ],
)
def test_a_record_that_failed_gets_the_class_of_its_error(code, error_class):
    line = json.dumps({"recordId": "0a", "error": {"errorCode": code, "errorMessage": "so\nit is"}})
    key, reply = converse.read_batch_line(line.encode())
    assert (key, reply.error_class, reply.error) == ("0a", error_class, f"error {code}: so it is")


# Input files


@pytest.mark.row
def test_requests_are_shared_out_evenly():
    assert batch_input.records_per_file([2_500] * 120_000, CALM) == [40_000, 40_000, 40_000]
    assert batch_input.records_per_file([2_500] * 50_000, CALM) == [50_000]
    assert batch_input.records_per_file([2_500] * 50_001, CALM) == [25_000, 25_001]
    assert batch_input.records_per_file([], CALM) == []


@pytest.mark.row
def test_a_file_ends_before_it_is_too_large():
    small = CALM.model_copy(update={"max_file_mb": 1})
    assert batch_input.records_per_file([400_000] * 5, small) == [1, 2, 2]
    assert batch_input.records_per_file([2_000_000, 10], small) == [1, 1]


@pytest.mark.row
@given(st.lists(st.integers(1, 1_200_000), max_size=60), st.integers(1, 20))
def test_no_record_is_lost_and_no_limit_passed(lengths, most):
    limits = CALM.model_copy(update={"max_records": most, "max_file_mb": 1})
    rest = iter(lengths)
    divided = [[next(rest) for _ in range(size)] for size in batch_input.records_per_file(lengths, limits)]
    assert [length for file in divided for length in file] == lengths
    assert all(1 <= len(file) <= most for file in divided)
    assert all(sum(file) <= 1_000_000 or len(file) == 1 for file in divided)


@pytest.mark.row
@given(st.integers(1, 5_000), st.integers(1, 100), st.integers(0, 400))
def test_no_file_is_below_the_minimum_that_need_not_be(count, least, more):
    limits = CALM.model_copy(update={"min_records": least, "max_records": least + more})
    avoidable = any(files * least <= count <= files * (least + more) for files in range(1, count + 1))
    assert not avoidable or min(batch_input.records_per_file([10] * count, limits)) >= least


# Replies


@pytest.mark.row
@given(st.data())
def test_every_record_gets_one_reply_whatever_the_output_looks_like(data):
    asked = {f"{number:032x}": number for number in range(data.draw(st.integers(0, 8)))}
    keys = st.sampled_from([*asked, "unknown"])
    good = keys.map(lambda key: json.dumps({"recordId": key, "modelOutput": answer(f"of {key}")}))
    bad = keys.map(lambda key: json.dumps({"recordId": key, "error": {"errorCode": 429, "errorMessage": "busy"}}))
    broken = st.sampled_from(["", "{", "[]", "null", '{"recordId": 1}', "[" * 9_999])
    lines = data.draw(st.lists(good | bad | broken, max_size=20))
    ignored: Counter[str] = Counter()
    found = list(
        batch_jobs.match_replies(map(converse.read_batch_line, map(str.encode, lines)), asked, "it is gone", ignored)
    )
    assert sorted((key, pubid) for key, pubid, _ in found) == sorted(asked.items())
    for key, _, reply in found:
        about = [line for line in lines if f'"{key}"' in line]
        if any("modelOutput" in line for line in about):
            assert reply.completion == f"of {key}"
        else:
            assert reply.error_class == ("throttled" if about else "unavailable")
            assert about or reply.error == "it is gone"
    assert ignored["unknown"] == sum('"unknown"' in line for line in lines)
    assert ignored["unreadable"] == sum('"recordId": "' not in line for line in lines)


@pytest.mark.row
def test_a_line_that_comes_twice_counts_once_and_an_answer_outweighs_an_error():
    failed = b'{"recordId": "a", "error": {"errorCode": 500, "errorMessage": "no"}}'
    good = json.dumps({"recordId": "a", "modelOutput": answer("Yes.")}).encode()
    ignored: Counter[str] = Counter()
    found = list(
        batch_jobs.match_replies(
            map(converse.read_batch_line, [failed, failed, good, good, failed]), {"a": 1}, "", ignored
        )
    )
    assert [(key, pubid, reply.completion) for key, pubid, reply in found] == [("a", 1, "Yes.")]
    assert ignored == {"doubled": 3}


# What is sent to the service


@pytest.mark.row
@pytest.mark.parametrize("root", ["s3://lake", "s3://lake/deep/er"])
def test_the_service_takes_the_call(settled: Settle, root):
    conf = settled(*bedrock(""), f"lake.root={root}", 'endpoints.b.request_metadata={team = "x"}')
    call = service_of(conf).call(f"{RUN}-01234567-00000-0", "0a", batch_jobs.run_folder(conf, RUN))
    assert accepted("bedrock", "CreateModelInvocationJob", call)
    prefix = f"{root}/completions/batches/{RUN}"
    assert call["inputDataConfig"]["s3InputDataConfig"]["s3Uri"] == f"{prefix}/input/{RUN}-01234567-00000-0.jsonl"
    assert call["outputDataConfig"]["s3OutputDataConfig"]["s3Uri"] == f"{prefix}/output/"
    assert {"key": "team", "value": "x"} in call["tags"]


@pytest.mark.row
def test_the_same_input_is_the_same_job_and_another_round_another_one(settled: Settle):
    conf = settled(*bedrock(""), "lake.root=s3://lake")
    calls = [
        service_of(conf).call(*of, batch_jobs.run_folder(conf, RUN))
        for of in (("a", "00"), ("a", "00"), ("a", "01"), ("b", "00"))
    ]
    tokens = [call["clientRequestToken"] for call in calls]
    assert tokens[0] == tokens[1]
    assert len(set(tokens)) == 3


@pytest.mark.row
def test_a_folder_of_ones_own_is_used_and_a_local_one_refused(settled: Settle):
    own = settled(*bedrock(""), "endpoints.b.batch_folder=s3://mine/batch/")
    assert batch_jobs.run_folder(own, RUN).root == f"s3://mine/batch/{RUN}"
    for url in ("", "https://vpce-1.bedrock.eu-central-1.vpce.amazonaws.com"):
        with pytest.raises(ConfigError, match=r"endpoints\.b\.batch_folder"):
            batch_jobs.run_folder(settled(*bedrock(url)), RUN)


def accepted(service: str, operation: str, sent: dict[str, object]) -> bool:
    """Validate arguments against the service's model, including the patterns, which botocore does not check."""
    shape = get_session().get_service_model(service).operation_model(operation).input_shape
    report = ParamValidator().validate(sent, shape)
    assert not report.has_errors(), report.generate_report()
    return all(matches(shape.members[name], value) for name, value in sent.items())


def matches(shape, value) -> bool:
    if shape.type_name == "structure":
        return all(matches(shape.members[name], below) for name, below in value.items())
    if shape.type_name == "list":
        return all(matches(shape.member, below) for below in value)
    pattern, most = shape.metadata.get("pattern"), shape.metadata.get("max", 1e9)
    fits = shape.type_name != "string" or (len(value) <= most and (not pattern or re.fullmatch(pattern, value)))
    assert fits, f"{shape.name} does not take {value!r}"
    return True


@pytest.mark.row
def test_the_control_plane_may_have_another_address_than_the_model(conf, monkeypatch):
    assert bedrock_batch.connect(conf.teacher).meta.endpoint_url == conf.teacher.url
    monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK", "https://vpce-1.bedrock.eu-central-1.vpce.amazonaws.com")
    client = bedrock_batch.connect(conf.teacher)
    assert client.meta.endpoint_url == "https://vpce-1.bedrock.eu-central-1.vpce.amazonaws.com"
    assert client.meta.region_name == "us-east-1"


# The whole path


@pytest.fixture
def service() -> Iterator[str]:
    """A fake control plane on loopback, in a thread."""
    with batch_services.serving(bedrock_double.routes()) as address:
        yield address


def behave(service: str, **fields: object) -> None:
    batch_services.behave(service, "jobs", **fields)


def records(service: str) -> dict:
    return batch_services.records(service, "jobs")


def bedrock(url: str) -> list[str]:
    own = ["kind=bedrock", f"model={MODEL}", f"role_arn={ROLE}", f"url={url}", "region=us-east-1"]
    return [
        *(f"endpoints.b.{setting}" for setting in own),
        "completions.endpoint=b",
        "completions.mode=batch",
        "completions.batch.poll_seconds=0.05",
    ]


@pytest.fixture
def conf(settled: Settle, service) -> config.Config:
    return settled(*bedrock(service))


def rows(conf: config.Config, count: int) -> list[dict[str, object]]:
    asked = [(number, f"Is it {number}?", f"It is {number}. So it is.") for number in range(count)]
    request = [
        prompts.teacher_request(question, oracle, conf.teacher.model, conf.completions) for _, question, oracle in asked
    ]
    return [
        {"key": request.key, "pubid": pubid, "question": question, "oracle": oracle}
        for request, (pubid, question, oracle) in zip(request, asked, strict=True)
    ]


def create_jobs(conf: config.Config, missing: list[dict[str, object]], run: str = RUN) -> list[BatchJob]:
    """Write input files and register jobs for rows, as a run does."""
    at = batch_jobs.run_folder(conf, run)
    frame = session.start(conf).createDataFrame(pa.Table.from_pylist(missing).to_pandas())
    return batch_jobs.register_jobs(conf, at, batch_input.write_input_files(frame, conf, at, len(missing)))


@pytest.mark.spark
@pytest.mark.parametrize("where", ["disk", "s3"])
def test_every_request_is_sent_once_and_its_answer_found(settled: Settle, service, s3, where, tmp_path):
    lake = [f"lake.root=s3://lake/{tmp_path.name}", f"lake.s3_endpoint={s3}"] if where == "s3" else []
    conf = settled(*bedrock(service), *lake, "completions.batch.max_records=200")
    behave(service, s3=s3, seconds=3)
    asked = rows(conf, 450)
    seen: list[list[str]] = []
    jobs = create_jobs(conf, asked)
    assert min(job.records for job in jobs) >= 100
    assert sum(job.records for job in jobs) == 450
    store = {}
    ended_jobs = batch_jobs.submit_and_poll(
        conf, jobs, lambda now: seen.append([job.status for job in now]), lambda: True
    )
    for job in itertools.chain.from_iterable(ended_jobs):
        found = batch_jobs.replies(job, Storage.of(conf.lake, job.folder), service_of(conf), Counter())
        store |= {key: (info, reply) for key, info, reply in found}
        batch_jobs.mark_collected(conf.lake, job)
    assert {key: info.pubid for key, (info, _) in store.items()} == {row["key"]: row["pubid"] for row in asked}
    for info, reply in store.values():
        assert info.max_tokens == 512
        assert reply.completion.startswith(f"Context: It is {info.pubid}. So it is.")
        assert reply.prompt_tokens > 5
    assert set(records(service)["sent"].values()) == {1}
    assert batch_jobs.pending(conf.lake) == []
    assert set(seen[0]) <= {"Submitted", "InProgress"}
    assert seen[-1] == ["Completed"] * len(jobs)


@pytest.mark.spark
def test_only_the_failed_records_are_sent_again(conf, service):
    behave(service, failed=0.3, left_out=0.2, min_records=1)
    asked = rows(conf, 300)
    first = collect(conf, create_jobs(conf, asked))
    again = [row for row in asked if first[row["key"]].completion is None]
    classes = Counter(reply.error_class for reply in first.values() if reply.error_class)
    assert 60 < classes["model_error"] < 120
    assert 30 < classes["unavailable"] < 90
    behave(service, failed=0, left_out=0)
    second = collect(conf, create_jobs(conf, again))
    assert sorted(second) == sorted(row["key"] for row in again)
    assert set(records(service)["answered"].values()) == {1}
    assert len(records(service)["answered"]) == 300


@pytest.mark.spark
def test_a_driver_lost_before_the_call_loses_nothing(conf, service):
    asked = rows(conf, 150)
    create_jobs(conf, asked)
    assert records(service)["jobs"] == 0
    assert len(collect(conf, batch_jobs.pending(conf.lake))) == 150
    assert (records(service)["jobs"], set(records(service)["sent"].values())) == (1, {1})


@pytest.mark.spark
@pytest.mark.parametrize("weakness", ["forgetful", "unlisted"])
def test_a_job_whose_making_was_never_answered_is_not_made_again(conf, service, weakness):
    behave(service, lost=1, **{weakness: True})
    jobs = create_jobs(conf, rows(conf, 150))
    assert list(batch_jobs.submit_and_poll(conf, jobs, lambda _: None, continue_times(2))) == []
    assert [(job.state, job.arn) for job in batch_jobs.pending(conf.lake)] == [("submitting", "")]
    assert len(collect(conf, batch_jobs.pending(conf.lake))) == 150
    assert (records(service)["jobs"], set(records(service)["sent"].values())) == (1, {1})


@pytest.mark.spark
def test_a_driver_lost_while_a_job_runs_finds_it_again(conf, service):
    behave(service, seconds=1)
    jobs = create_jobs(conf, rows(conf, 150))
    assert list(batch_jobs.submit_and_poll(conf, jobs, lambda _: None, continue_times(2))) == []
    assert [job.state for job in batch_jobs.pending(conf.lake)] == ["submitted"]
    assert len(collect(conf, batch_jobs.pending(conf.lake))) == 150
    assert (records(service)["jobs"], set(records(service)["sent"].values())) == (1, {1})


@pytest.mark.spark
def test_a_driver_lost_while_it_collects_collects_again(conf, service):
    jobs = create_jobs(conf, rows(conf, 150))
    done = next(ended(conf, jobs))
    next(batch_jobs.replies(done, Storage.of(conf.lake, done.folder), service_of(conf), Counter()))
    assert len(collect(conf, batch_jobs.pending(conf.lake))) == 150
    assert batch_jobs.pending(conf.lake) == []
    assert (records(service)["jobs"], set(records(service)["sent"].values())) == (1, {1})


@pytest.mark.spark
def test_throttling_only_delays(conf, service):
    behave(service, throttled=5)
    assert len(collect(conf, create_jobs(conf, rows(conf, 150)))) == 150
    assert set(records(service)["sent"].values()) == {1}


@pytest.mark.spark
@pytest.mark.parametrize(("status", "answered"), [("Failed", 0), ("Expired", 75), ("Stopped", 75)])
def test_a_job_that_ends_badly_keeps_what_it_has_and_says_why_the_rest_is_missing(conf, service, status, answered):
    behave(service, status=status, message="the model is gone")
    store = collect(conf, create_jobs(conf, rows(conf, 150)))
    assert sum(reply.completion is not None for reply in store.values()) == answered
    errors = {(reply.error_class, reply.error) for reply in store.values() if reply.error}
    assert errors == {("unavailable", f"no answer from the batch job, which is {status}: the model is gone")}


@pytest.mark.spark
def test_a_job_that_is_refused_is_an_error_and_its_records_are_free_again(conf, service):
    jobs = create_jobs(conf, rows(conf, 50))
    with pytest.raises(EndpointError, match="50 records; a job has 100 to 50000"):
        collect(conf, jobs)
    assert batch_jobs.pending(conf.lake) == []
    assert records(service)["sent"] == {}


@pytest.mark.spark
def test_a_job_that_was_never_made_is_dropped_when_another_model_is_asked(conf, settled, service):
    create_jobs(conf, rows(conf, 150))
    other = settled(*bedrock(service), "endpoints.b.model=amazon.nova-lite-v1:0")
    assert collect(other, batch_jobs.pending(other.lake)) == {}
    assert batch_jobs.pending(other.lake) == []
    assert records(service)["jobs"] == 0


@pytest.mark.spark
def test_answers_that_the_service_counts_and_nobody_finds_are_not_paid_again(conf, service):
    jobs = create_jobs(conf, rows(conf, 150))
    done = next(ended(conf, jobs))
    at = Storage.of(conf.lake, done.folder)
    at.delete("output")
    with pytest.raises(InputError, match=r"150 answers, but .*/output holds no"):
        list(batch_jobs.replies(done, at, service_of(conf), Counter()))
    assert [job.state for job in batch_jobs.pending(conf.lake)] == ["submitted"]


@pytest.mark.spark
def test_a_service_out_of_reach_is_waited_for(settled: Settle):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    conf = settled(*bedrock(f"http://127.0.0.1:{port}"))
    jobs = create_jobs(conf, rows(conf, 150))
    assert list(batch_jobs.submit_and_poll(conf, jobs, lambda _: None, continue_times(3))) == []
    assert batch_jobs.pending(conf.lake) == jobs


@pytest.mark.spark
def test_without_credentials_nothing_is_dropped(conf, monkeypatch):
    jobs = create_jobs(conf, rows(conf, 150))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/none")
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    with pytest.raises(EndpointError, match="credentials"):
        collect(conf, jobs)
    assert batch_jobs.pending(conf.lake) == jobs


@pytest.mark.spark
def test_a_job_of_the_service_is_stopped_by_hand(conf, service):
    import boto3

    behave(service, seconds=30)
    jobs = create_jobs(conf, rows(conf, 150))
    client = boto3.client("bedrock", endpoint_url=service)

    def stop(now: list[BatchJob]) -> None:
        for job in now:
            if job.status == "Submitted":
                client.stop_model_invocation_job(jobIdentifier=job.arn)

    ((done,),) = batch_jobs.submit_and_poll(conf, jobs, stop, lambda: True)
    assert (done.status, done.answered) == ("Stopped", 75)
