"""The types of batch inference: BatchJob, BatchStatus, and BatchService, the protocol of every service that has it."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from raft_spark.endpoints.base import Reply, Request

State = Literal["submitting", "submitted", "collected", "dropped"]
BEDROCK = "bedrock"
ENDED = frozenset(
    {"Completed", "PartiallyCompleted", "Failed", "Stopped", "Expired"}  # Bedrock's names, ...
    | {"completed", "failed", "cancelled", "expired"}  # ... and OpenAI's
)
DEFERRED = "Deferred"  # the status of a job that the service has given up before it began: it is created again
READ_BYTES = 8_000_000  # of each call to S3


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """The state of a job: status, message of a failure, numbers of records that succeeded and failed."""

    status: str
    message: str
    answered: int
    failed: int


@dataclass(frozen=True, slots=True)
class BatchJob:
    """A batch job as the lake stores it.

    `call` holds the arguments that create it, `day` (YYYY-MM-DD, UTC) is the day of its registration, `arn` the
    service's name of it. `service` says where it runs, as BatchService.address. `status`, `message`, `answered` and
    `failed` are the service's last report to the running driver.
    """

    name: str
    folder: str
    day: str
    records: int
    call: Mapping[str, Any]
    state: State = "submitting"
    arn: str = ""
    status: str = ""
    message: str = ""
    answered: int = 0
    failed: int = 0
    service: str = BEDROCK

    @property
    def ended(self) -> bool:
        """Return whether the service has ended the job, successfully or not."""
        return self.status in ENDED

    @property
    def model(self) -> str:
        """Return the model that the job asks."""
        return str(self.call["modelId"])


class Files(Protocol):
    """The files below a folder or a prefix in S3: what a service needs of lake.filesystem.Storage."""

    @property
    def root(self) -> str:
        """The folder's path or URI."""
        ...

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""
        ...

    def at(self, *names: str) -> "Files":
        """Return a folder below this one."""
        ...

    def elsewhere(self, root: str) -> "Files":
        """Return another folder or bucket, reached in the same way."""
        ...

    def existing(self, paths: Sequence[str]) -> set[str]:
        """Return which of these files exist."""
        ...

    def path(self, path: str = "") -> str:
        """Return an absolute path, or bucket/key."""
        ...

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes, None when there is no such file."""
        ...

    def open(self, path: str) -> Any:  # noqa: ANN401 - pyarrow has no types
        """Open a file for reading."""
        ...

    def write(self, path: str, data: bytes) -> None:
        """Write a file atomically, replacing one that exists."""
        ...

    def paths(self) -> Sequence[str]:
        """Return the paths of all files, sorted."""
        ...


class BatchService(Protocol):
    """A service that answers files of requests later; it is open on the driver and in Spark tasks.

    A method returns None when its call must be repeated later: the service throttles, fails or cannot be reached. An
    error that waiting cannot resolve is an EndpointError. `files` is the folder of the run that made the job, with
    input/NAME.jsonl.
    """

    needs_bucket: bool  # whether the service itself reads `files`

    @property
    def address(self) -> str:
        """Where jobs of this service run; another service cannot find them."""
        ...

    def call(self, name: str, digest: str, files: Files) -> dict[str, Any]:
        """Return the arguments that create a job, with `modelId`: they depend on the settings and the input only."""
        ...

    def line(self, key: str, request: Request) -> bytes:
        """Return a request as one line of a job's input."""
        ...

    def find(self, job: BatchJob, files: Files) -> str | None:
        """Return the service's name of a job, "" if it does not exist."""
        ...

    def create(self, job: BatchJob, files: Files, should_continue: Callable[[], bool]) -> str | None:
        """Create a job that `find` has not found; return the service's name of it."""
        ...

    def status(self, job: BatchJob, files: Files) -> BatchStatus | None:
        """Return the state of a job."""
        ...

    def output(self, job: BatchJob, files: Files) -> Iterator[tuple[str, Reply]]:
        """Yield (key, reply) for each line of the output of a job that has ended; the key is "" for an unreadable one.

        Raises InputError if the service reports answers and there is no output.
        """
        ...


def uri(files: Files, path: str) -> str:
    """Return the address that a service of AWS takes; on this machine, for the fake one, a path."""
    return files.path(path) if files.is_local else f"s3://{files.path(path)}"


def lines(files: Files, path: str) -> Iterator[bytes]:
    """Yield the lines of a file."""
    with files.open(path) as stream:
        yield from io.BufferedReader(stream, READ_BYTES)
