"""Send requests to an asynchronous endpoint of SageMaker, and read its answers from S3.

    FILES/input/NAME.jsonl            {"key": key, "body": body of a call}
    FILES/records/NAME/KEY.json       the body alone, which SageMaker reads
    FILES/invoked/NAME/NNNNN.jsonl    what was sent, a group of concurrent calls each: see Invocation
    FILES/invoked/NAME.jsonl          the same of the whole job, when all is sent

A job is one call a record. After each group of calls the places of its answers are stored, so a killed driver may send
again one group at most: completions.in_flight records. SageMaker writes each answer to the output folder of the
endpoint's configuration, and each failure to its failure folder. Sources: the API reference, InvokeEndpointAsync, and the
developer guide, "Asynchronous inference".
"""

import json
import logging
import math
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from raft_spark.config import Completions, Endpoint
from raft_spark.endpoints import aws, aws_errors, aws_service, batch_service, codecs, responses
from raft_spark.endpoints.base import ErrorClass, Reply, Request
from raft_spark.endpoints.batch_service import BatchJob, BatchStatus, Files
from raft_spark.errors import ConfigError, EndpointError

LOG = logging.getLogger(__name__)
QUEUE_SECONDS = 21_600  # the longest that SageMaker keeps a request in its queue
ANSWER_SECONDS = 3_600  # the longest that a container may take for an answer
GRACE_SECONDS = 600
THREADS = 64  # concurrent calls at most; SageMaker takes a call within some 50 ms
LOOKS = 1_000  # files that are looked for at once; a queue answers roughly in order, so the rest is later
CALL_SECONDS = 60
STATUS = re.compile(r"(?:\(|status(?: code)?[ :=]*)([45]\d\d)\b")  # of a container, in the text of a failure


@dataclass(frozen=True, slots=True)
class Invocation:
    """A record that was sent: where SageMaker will write its answer or failure, and when it was sent.

    With `error_class` SageMaker did not take it, for the reason `error`. The times are seconds since 1970.
    """

    key: str
    at: float
    output: str = ""
    failure: str = ""
    error_class: ErrorClass | None = None
    error: str | None = None


class SageMakerAsync:
    """An asynchronous endpoint as a BatchService. It connects when it is first used, so that Spark can send this object."""

    needs_bucket = True

    def __init__(self, conf: Endpoint, completions: Completions) -> None:
        self._conf, self._completions = conf, completions
        self._threads = min(completions.in_flight, THREADS)
        self._sent: dict[str, list[Invocation]] = {}  # by job, once all is sent
        self._ended: dict[str, dict[str, bool]] = {}  # by job and key, whether it was answered

    @property
    def address(self) -> str:
        """Return the endpoint."""
        return f"sagemaker {self._conf.endpoint_name}"

    def call(self, _name: str, _digest: str, _files: Files) -> dict[str, Any]:
        """Return the model, which is all that a job needs besides its input."""
        return {"modelId": self._conf.model}

    def line(self, key: str, request: Request) -> bytes:
        """Return a request with its body in the container's protocol."""
        return json.dumps({"key": key, "body": codecs.sagemaker_body(request, self._conf)}).encode() + b"\n"

    def find(self, job: BatchJob, files: Files) -> str | None:
        """Return the job's name if all of it was sent, or a part of it with other settings than now."""
        sent = _read_sent(job, files)
        is_whole = len(sent) == job.records or (bool(sent) and job.model != self._conf.model)
        return job.name if is_whole else ""

    def create(self, job: BatchJob, files: Files, should_continue: Callable[[], bool]) -> str | None:
        """Send the records that were not sent yet, `in_flight` at a time; return the job's name when all is sent."""
        sent = {one.key: one for one in _read_sent(job, files)}
        records = map(json.loads, batch_service.lines(files, f"input/{job.name}.jsonl"))
        rest = deque(record for record in records if record["key"] not in sent)
        with ThreadPoolExecutor(self._threads) as pool:
            while rest:
                if not should_continue():
                    return None
                begin = time.monotonic()
                group = [rest.popleft() for _ in range(min(self._threads, len(rest)))]
                done = list(pool.map(partial(self._invoke, job, files), group))
                taken = [one for one in done if isinstance(one, Invocation)]
                if taken:
                    _store(job, files, len(sent), taken)
                    sent |= {one.key: one for one in taken}
                refusal = next((one for one in done if isinstance(one, str) and one), None)
                if refusal and not sent:
                    raise EndpointError(refusal)
                if refusal:  # what was sent is paid for: it is collected, and the next round asks for the rest
                    LOG.warning(
                        "batch job %s ends after %d of %d records: %s", job.name, len(sent), job.records, refusal
                    )
                    break
                rest.extend(record for record, one in zip(group, done, strict=True) if one == "")
                if not taken:
                    return None
                self._keep_rate(len(group), time.monotonic() - begin, is_throttled=len(taken) < len(group))
        files.write(f"invoked/{job.name}.jsonl", b"".join(map(_line, sent.values())))
        return job.name

    def status(self, job: BatchJob, files: Files) -> BatchStatus | None:
        """Look for the answers that have not been seen yet."""
        if job.name not in self._sent:
            self._sent[job.name] = _read_sent(job, files)
            self._ended[job.name] = {one.key: False for one in self._sent[job.name] if one.error_class}
        sent, ended = self._sent[job.name], self._ended[job.name]
        is_late = time.time() > max((one.at for one in sent), default=0) + QUEUE_SECONDS + self._seconds + GRACE_SECONDS
        waiting = [one for one in sent if one.key not in ended]
        for begin in range(0, len(waiting), LOOKS):
            found = _ended(files, waiting[begin : begin + LOOKS])
            ended |= found
            if not found and not is_late:
                break
        answered = sum(ended.values())
        whole = "Completed" if len(ended) == len(sent) else "InProgress"
        status = "Expired" if is_late and whole == "InProgress" else whole
        return BatchStatus(
            status, "" if status != "Expired" else "SageMaker wrote no more answers", answered, len(ended) - answered
        )

    def output(self, job: BatchJob, files: Files) -> Iterator[tuple[str, Reply]]:
        """Read the answers and failures, some at a time."""
        sent = _read_sent(job, files)
        with ThreadPoolExecutor(THREADS // 4) as pool:
            for begin in range(0, len(sent), LOOKS):
                group = sent[begin : begin + LOOKS]
                replies = pool.map(partial(self._reply, files), group)
                yield from ((one.key, reply) for one, reply in zip(group, replies, strict=True) if reply)

    @property
    def _seconds(self) -> int:
        return min(ANSWER_SECONDS, math.ceil(self._completions.timeout_seconds))

    @cached_property
    def _client(self) -> Any:  # noqa: ANN401 - boto3 creates its classes at run time
        try:
            return aws_service.open_client("sagemaker-runtime", self._conf, CALL_SECONDS, self._threads)
        except (BotoCoreError, ConfigError) as error:
            raise EndpointError(aws_errors.message_of(error)) from error

    def _invoke(self, job: BatchJob, files: Files, record: dict[str, Any]) -> Invocation | str:
        """Send a record; return "" if it must be repeated later, or a text if the endpoint refuses every record."""
        path = f"records/{job.name}/{record['key']}.json"
        files.write(path, json.dumps(record["body"]).encode())
        try:
            taken = self._client.invoke_endpoint_async(**self._arguments(record["key"], batch_service.uri(files, path)))
        except (BotoCoreError, ClientError, HTTPError) as error:
            reply = aws_errors.reply(error, CALL_SECONDS)
            if reply.error_class == "refused":
                return f"{self._conf.endpoint_name} refuses: {reply.error}"
            if reply.error_class == "bad_request":
                return Invocation(record["key"], time.time(), error_class="bad_request", error=reply.error)
            LOG.warning("a call of the asynchronous endpoint failed and will be repeated: %s", reply.error)
            return ""
        return Invocation(record["key"], time.time(), taken["OutputLocation"], taken.get("FailureLocation", ""))

    def _arguments(self, key: str, location: str) -> dict[str, Any]:
        route = aws.sagemaker_route(self._conf)
        return {
            "EndpointName": self._conf.endpoint_name,
            "ContentType": aws.JSON,
            "Accept": aws.JSON,
            "InferenceId": key,
            "InputLocation": location,
            "RequestTTLSeconds": QUEUE_SECONDS,
            "InvocationTimeoutSeconds": self._seconds,
            **({"CustomAttributes": route} if route else {}),
        }

    def _keep_rate(self, calls: int, seconds: float, *, is_throttled: bool) -> None:
        """Wait until requests_per_second allows the next group, a second at least after a call that was throttled."""
        limit = self._completions.requests_per_second
        time.sleep(max(0, calls / limit - seconds if limit else 0, 1 if is_throttled else 0))

    def _reply(self, files: Files, sent: Invocation) -> Reply | None:
        """Return the reply to a record, None if SageMaker wrote neither an answer nor a failure."""
        if sent.error_class:
            return responses.failed_reply(sent.error_class, sent.error or "")
        _, read = codecs.SAGEMAKER[self._conf.codec]
        if (answer := _read(files, sent.output)) is not None:
            reply = read(responses.parse_json(answer))
        elif (failure := _read(files, sent.failure)) is not None:
            reply = failure_reply(failure)
        else:
            return None
        return replace(reply, error=responses.one_line(reply.error)) if reply.error else reply


def failure_reply(text: bytes) -> Reply:
    """Return the failed reply of what SageMaker wrote to the failure folder; the container's status decides its class."""
    message = responses.message_in(responses.parse_json(text))
    status = STATUS.search(message)
    error_class: ErrorClass = (
        "timeout" if re.search("time.?out|timed out|expired", message, re.IGNORECASE) else "model_error"
    )
    if status and error_class != "timeout":
        error_class = responses.class_of_status(int(status[1]))
    return responses.failed_reply(error_class, f"SageMaker could not answer: {message}")


def _read_sent(job: BatchJob, files: Files) -> list[Invocation]:
    """Return what was sent of a job, each record once."""
    groups = files.at("invoked", job.name)
    whole = files.read(f"invoked/{job.name}.jsonl")
    texts = [whole] if whole is not None else [groups.read(path) or b"" for path in groups.paths()]
    sent = (Invocation(**json.loads(line)) for text in texts for line in text.splitlines())
    return list({one.key: one for one in sent}.values())


def _store(job: BatchJob, files: Files, number: int, taken: Sequence[Invocation]) -> None:
    """Store a group of records that were sent; `number` is how many there were before."""
    if not any(one.failure or one.error_class for one in taken):
        LOG.warning("the endpoint has no S3FailurePath: a record that fails is noticed after hours only")
    files.write(f"invoked/{job.name}/{number:08d}.jsonl", b"".join(map(_line, taken)))


def _line(sent: Invocation) -> bytes:
    return json.dumps(asdict(sent)).encode() + b"\n"


def _ended(files: Files, waiting: Sequence[Invocation]) -> dict[str, bool]:
    """Return by key which records have an answer (True) or a failure (False)."""
    answered = _existing(files, [one.output for one in waiting])
    rest = [one for one in waiting if one.output not in answered and one.failure]
    failed = _existing(files, [one.failure for one in rest])
    return {one.key: True for one in waiting if one.output in answered} | {
        one.key: False for one in rest if one.failure in failed
    }


def _existing(files: Files, locations: Sequence[str]) -> set[str]:
    """Return which of these URIs (on this machine, for a fake endpoint: paths) exist."""
    split = {location: _split(location) for location in locations}
    by_root: dict[str, list[str]] = {}
    for root, path in split.values():
        by_root.setdefault(root, []).append(path)
    existing = {(root, path) for root, paths in by_root.items() for path in files.elsewhere(root).existing(paths)}
    return {location for location, place in split.items() if place in existing}


def _read(files: Files, location: str) -> bytes | None:
    root, path = _split(location)
    return files.elsewhere(root).read(path) if location else None


def _split(location: str) -> tuple[str, str]:
    """Return the bucket and the key of a URI; the folder / and the rest of a path."""
    scheme, separator, rest = location.partition("://")
    if not separator:
        return "/", location.lstrip("/")
    bucket, _, key = rest.partition("/")
    return f"{scheme}://{bucket}", key
