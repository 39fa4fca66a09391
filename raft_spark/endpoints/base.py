"""The types of a call to a model: what is sent (Request), what comes back (Reply), and the client that every endpoint implements."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Literal, Protocol

from raft_spark.config import Completions

Message = Mapping[str, str]
ErrorClass = Literal[
    "throttled", "timeout", "unavailable", "model_error", "bad_request", "filtered", "empty", "refused"
]
RETRIED = frozenset({"throttled", "timeout", "unavailable", "model_error"})
MAY_PASS = frozenset(
    {"throttled", "timeout", "unavailable", "model_error", "refused"}
)  # refused: meant for the job, not the row


@dataclass(frozen=True)
class Request:
    """All that is sent: `prompt` is one text (a completions call) or messages (a chat call), `parameters` by their
    OpenAI names (temperature, top_p, max_tokens).
    """

    prompt: str | Sequence[Message]
    model: str
    parameters: Mapping[str, float]

    @cached_property
    def key(self) -> str:
        """Name the request: a hash of all that is sent, 32 hexadecimal digits. The same request is paid for once, ever."""
        sent = {"prompt": self.prompt, "model": self.model, "parameters": dict(self.parameters)}
        return sha256(json.dumps(sent, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:32]

    @cached_property
    def key_of_any_length(self) -> str:
        """Name the request without its max_tokens: an answer that ended by itself answers it under a larger limit too."""
        unlimited = {name: value for name, value in self.parameters.items() if name != "max_tokens"}
        return replace(self, parameters=unlimited).key

    @property
    def characters(self) -> int:
        """Return how long the prompt is."""
        return len(self.prompt) if isinstance(self.prompt, str) else sum(len(turn["content"]) for turn in self.prompt)

    @property
    def max_tokens(self) -> int:
        """Return the most tokens an answer may have."""
        return int(self.parameters.get("max_tokens", 0))


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: exactly one of `completion` and `error` is set.

    `error_class` says what to do next: those in RETRIED are asked again, `refused` (wrong key, unknown model) stops the
    job, the others fail their row. `retry_after` is in seconds, as the server wished. finish_reason is stop or length.
    """

    completion: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    error_class: ErrorClass | None = None
    error: str | None = None
    retry_after: float | None = None


class Client(Protocol):
    """An open connection to a model; `ask` is called from many threads at once."""

    def ask(self, request: Request, seconds: float | None = None) -> Reply:
        """Send one request, once: no retry hides here. Give up after `seconds`, when they are fewer than the client's own."""
        ...

    def close(self) -> None:
        """Give the connections back."""
        ...


def retried_classes(conf: Completions) -> frozenset[str]:
    """Return the classes of failed rows that are asked again."""
    return MAY_PASS.union(conf.retry)
