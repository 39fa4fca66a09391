"""A finished row -> one record of a training format. To add one: a function here, its name in FORMATS and in config.

Each record is what its consumer documents: TRL's conversational `messages` and `prompt`/`completion` (TRL, "Dataset
formats"), and the columns of the original notebook.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raft_spark import prompts
from raft_spark.config import Completions
from raft_spark.endpoints import Message


@dataclass(frozen=True, slots=True)
class Row:
    """A base row with its answer, and how it was asked for; `passages` in the order shown."""

    pubid: int
    question: str
    passages: list[str]
    oracle: str
    distracted: bool
    original_answer: str | None
    completion: str
    asked: Completions


@dataclass(frozen=True, slots=True)
class Format:
    """How a row is written, in which columns, and what the card says of them."""

    record: Callable[[Row], Mapping[str, Any]]
    schema: pa.Schema
    about: str


def messages(row: Row) -> Mapping[str, Any]:
    """Return one conversation: system, user with all passages and the question, assistant with the answer."""
    return {"messages": [*_asked(row), _answer(row)]}


def prompt_completion(row: Row) -> Mapping[str, Any]:
    """Return the conversation cut in two, so that a trainer takes its loss on the answer only."""
    return {"prompt": _asked(row), "completion": [_answer(row)]}


def notebook(row: Row) -> Mapping[str, Any]:
    """Return the original notebook's columns; texts are the article's own, unchanged."""
    return {
        "question": row.question,
        "context": prompts.SEPARATOR.join(row.passages),
        "oracle": row.oracle,
        "distracted": row.distracted,
        "original_answer": row.original_answer,
        "synthetic_answer": row.completion,
    }


def _asked(row: Row) -> list[Message]:
    return prompts.student(row.question, row.passages, row.asked)


def _answer(row: Row) -> Mapping[str, str]:
    return {"role": "assistant", "content": prompts.as_data(row.completion)}


_turns = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_texts = ("question", "context", "oracle")
_notebook = pa.schema(
    [
        *((name, pa.string()) for name in _texts),
        ("distracted", pa.bool_()),
        ("original_answer", pa.string()),
        ("synthetic_answer", pa.string()),
    ]
)
FORMATS: Mapping[str, Format] = {
    "messages": Format(messages, pa.schema([("messages", _turns)]), "TRL's conversational language modelling format"),
    "prompt_completion": Format(
        prompt_completion,
        pa.schema([("prompt", _turns), ("completion", _turns)]),
        "TRL's conversational prompt-completion format: the loss falls on the completion",
    ),
    "notebook": Format(notebook, _notebook, "the columns of the original notebook's synthetic_training_data.json"),
}
