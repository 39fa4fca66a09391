"""The types of a call to a model: Request, Reply, and Client, the protocol that every kind of endpoint implements."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from hashlib import sha256
from typing import Any, Literal, Protocol

from raft_spark.config import Completions

Message = Mapping[str, str]
ErrorClass = Literal[
    "throttled", "timeout", "unavailable", "model_error", "bad_request", "filtered", "empty", "refused"
]
RETRIED = frozenset({"throttled", "timeout", "unavailable", "model_error"})
MAY_PASS = RETRIED | {"refused"}  # what a later run asks again: `refused` concerns the job, not the row


_json = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class BodyChanges:
    """What the settings change about the body that a protocol makes of a request.

    `add` has fields as they are sent; `leave_out` and `rename` name parameters by their OpenAI names.
    """

    add: Mapping[str, Any] = field(default_factory=dict)
    leave_out: Sequence[str] = ()
    rename: Mapping[str, str] = field(default_factory=dict)

    @property
    def set(self) -> dict[str, Any]:
        """Return the changes that are not empty, as a JSON value that does not depend on their order."""
        changes = {"add": self.add, "leave_out": sorted(self.leave_out), "rename": self.rename}
        return {name: change for name, change in changes.items() if change}


@dataclass(frozen=True)
class Request:
    """One request to a model.

    `prompt` is one text (a completions call) or a sequence of messages (a chat call). `parameters` have their OpenAI
    names: temperature, top_p, max_tokens. `changes` are those of the settings; what a model family takes is not among them,
    see families. A request that `is_embedding` has one text and is answered with its vector, see embeddings.
    """

    prompt: str | Sequence[Message]
    model: str
    parameters: Mapping[str, float]
    changes: BodyChanges = field(default_factory=BodyChanges)
    is_embedding: bool = False

    @cached_property
    def key(self) -> str:
        """Return a hash of the whole request, 32 hexadecimal digits.

        Answers are stored by it, so none is paid for twice.
        """
        return self._key(self.parameters)

    @cached_property
    def key_without_max_tokens(self) -> str:
        """Return the key of the request without max_tokens: a complete answer is also valid for a larger limit."""
        return self._key({name: value for name, value in self.parameters.items() if name != "max_tokens"})

    @cached_property
    def _prompt_json(self) -> str:
        return _json(self.prompt)

    def _key(self, parameters: Mapping[str, float]) -> str:
        """Hash the JSON object of what is sent, with sorted names: changes if there are any, model, parameters, prompt."""
        changes, items = self.changes, tuple(parameters.items())
        changed = _json(changes.set) if changes.add or changes.leave_out or changes.rename else ""
        text = f'{_head(self.model, items, repr(items), changed)},"prompt":{self._prompt_json}}}'  # both keys share the prompt
        return sha256(f"{'embedding' * self.is_embedding}{text}".encode()).hexdigest()[:32]

    @property
    def characters(self) -> int:
        """Return the number of characters in the prompt."""
        return len(self.prompt) if isinstance(self.prompt, str) else sum(len(turn["content"]) for turn in self.prompt)

    @property
    def max_tokens(self) -> int:
        """Return the limit of the answer in tokens, 0 for none."""
        return 0 if "max_tokens" in self.changes.leave_out else int(self.parameters.get("max_tokens", 0))


@lru_cache(maxsize=64)
def _head(model: str, parameters: tuple[tuple[str, float], ...], _words: str, changes: str) -> str:
    """Return the JSON object of what is the same in all requests of a run, without its closing brace.

    `_words` are the parameters as text: 0, 0.0 and -0.0 are equal, but not in JSON.
    """
    sent = _json({"model": model, "parameters": dict(parameters)})[:-1]
    return f'{{"changes":{changes},{sent[1:]}' if changes else sent


@dataclass(frozen=True, slots=True)
class Reply:
    """The outcome of a request: either `completion` or `error` is set.

    `error_class` decides what happens next: the classes in RETRIED are sent again, `refused` (wrong key, unknown model)
    stops the job, any other fails its row. `retry_after` is the server's wish, in seconds. `finish_reason` is stop or
    length, None for an answer of which the server does not say how it ended. `removed` says what was taken out of the text, see answer_text. Token counts are set also for a failed
    request that the server has billed; None is not known. `is_cut_off` means that the connection broke, or a gateway
    gave up, after the request was sent: the server may have answered it.
    """

    completion: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    error_class: ErrorClass | None = None
    error: str | None = None
    retry_after: float | None = None
    removed: tuple[str, ...] = ()
    is_cut_off: bool = False


class Client(Protocol):
    """A connection to a model; many threads call `ask` at the same time."""

    def ask(self, request: Request, seconds: float | None = None) -> Reply:
        """Send a request once, without retries.

        Give up after `seconds` or the client's own timeout, whichever is less.
        """
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


def retried_classes(conf: Completions) -> frozenset[str]:
    """Return the error classes whose rows a later run asks again."""
    return MAY_PASS.union(conf.retry)
