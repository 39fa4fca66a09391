"""A finished row -> one record of a training format. To add one: a function here, its name in FORMATS and in config.

Each record is what its consumer documents: TRL ("Dataset formats"), SageMaker JumpStart ("Fine-tune a large language
model using prompt instructions"), Bedrock ("Prepare data for fine-tuning"), LLaMA-Factory (data/README), and the original
notebook. What a student reads comes from prompts.student alone, whatever the format.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from typing import Any

import pyarrow as pa

from raft_spark.config import Completions
from raft_spark.endpoints.base import Message
from raft_spark.recipe import prompts


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """A base row with what a student reads and is to say; `passages` in the order shown.

    `completion` is the answer that is trained on, `answer` the same without reasoning and quotes. `astray` is the answer to
    another question, that of an article whose passage is shown as a distractor; None without one.
    """

    pubid: int
    question: str
    passages: list[str]
    oracle: str
    distracted: bool
    original_answer: str | None
    completion: str
    answer: str
    astray: str | None
    asked: Completions


Record = Mapping[str, Any]


def _no_extra_files(_: Iterable[str]) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True, slots=True)
class Format:
    """How a row is written, in which columns, and what the card says of them.

    `record` returns None for a row that the format has no place for. `beside` returns texts by the names of the files that
    a consumer wants beside these shards; `by_split` gives each split a folder, in place of data/ for all, where readers of Parquet
    find nothing but shards; `is_jsonl`: its consumer reads nothing else.
    """

    record: Callable[[TrainingRow], Record | None]
    schema: pa.Schema
    about: str
    is_jsonl: bool = False
    by_split: bool = False
    beside: Callable[[Iterable[str]], Mapping[str, str]] = _no_extra_files

    def shard(self, split: str, number: int, of: int) -> str:
        """Return the path of a shard below the format's folder, without its ending."""
        return f"{split if self.by_split else 'data'}/{split}-{number:05d}-of-{of:05d}"


def messages(row: TrainingRow) -> Record:
    """Return one conversation: system, user with all passages and the question, assistant with the answer."""
    return {"messages": [*_prompt(row), _assistant_turn(row.completion)]}


def prompt_completion(row: TrainingRow) -> Record:
    """Return the conversation cut in two, so that a trainer takes its loss on the answer only."""
    return {"prompt": _prompt(row), "completion": [_assistant_turn(row.completion)]}


def answer_only(row: TrainingRow) -> Record:
    """Return question and answer without the chain of thought, as completions.style = "answer" would have them."""
    asked = row.asked.model_copy(update={"style": "answer"}) if row.asked.style == "cot" else row.asked
    return {
        "prompt": prompts.student_messages(row.question, row.passages, asked),
        "completion": [_assistant_turn(row.answer)],
    }


def preference(row: TrainingRow) -> Record | None:
    """Return the answer beside one that was led astray by a distractor, as DPO and its kin want them."""
    if row.astray is None:
        return None
    return {
        "prompt": _prompt(row),
        "chosen": [_assistant_turn(row.completion)],
        "rejected": [_assistant_turn(row.astray)],
    }


def notebook(row: TrainingRow) -> Record:
    """Return the original notebook's columns; texts are the article's own, unchanged."""
    return {
        "question": row.question,
        "context": prompts.SEPARATOR.join(row.passages),
        "oracle": row.oracle,
        "distracted": row.distracted,
        "original_answer": row.original_answer,
        "synthetic_answer": row.completion,
    }


def jumpstart(row: TrainingRow) -> Record:
    """Return the fields that TEMPLATE names."""
    system, user = _prompt(row)
    return {
        "instruction": system["content"],
        "context": user["content"],
        "response": prompts.escape_markup(row.completion),
    }


def bedrock(row: TrainingRow) -> Record:
    """Return one turn as Bedrock's fine-tuning wants it, without the strings that end a job of Nova."""
    system, user = (_break_reserved(turn["content"]) for turn in _prompt(row))
    said = _break_reserved(prompts.escape_markup(row.completion))
    turns = [{"role": "user", "content": [{"text": user}]}, {"role": "assistant", "content": [{"text": said}]}]
    return {"schemaVersion": "bedrock-conversation-2024", "system": [{"text": system}], "messages": turns}


def alpaca(row: TrainingRow) -> Record:
    """Return the columns of Alpaca as LLaMA-Factory and Axolotl read them; `system` is the former's."""
    system, user = _prompt(row)
    said = prompts.escape_markup(row.completion)
    return {"instruction": user["content"], "input": "", "output": said, "system": system["content"]}


def sharegpt(row: TrainingRow) -> Record:
    """Return a conversation as ShareGPT named its turns."""
    system, user = _prompt(row)
    turns = [
        {"from": "human", "value": user["content"]},
        {"from": "gpt", "value": prompts.escape_markup(row.completion)},
    ]
    return {"conversations": turns, "system": system["content"]}


def _prompt(row: TrainingRow) -> list[Message]:
    return prompts.student_messages(row.question, row.passages, row.asked)


def _assistant_turn(answer: str) -> Message:
    return {"role": "assistant", "content": prompts.escape_markup(answer)}


def _break_reserved(text: str) -> str:
    """Put a space into what Amazon Nova keeps for itself ("Preparing data for fine-tuning", Bedrock's guide)."""
    return _RESERVED.sub(lambda found: f"{found[0][:-1]} {found[0][-1]}", text)


def _jumpstart_template(shards: Iterable[str]) -> Mapping[str, str]:
    """Return how JumpStart puts a record together; it wants one in each folder of records."""
    template = {"prompt": "{instruction}\n\n{context}\n\n", "completion": "{response}"}
    return {f"{shard.partition('/')[0]}/template.json": json.dumps(template) for shard in shards}


def _llama_factory_index(columns: Mapping[str, Any], shards: Iterable[str]) -> Mapping[str, str]:
    """Return LLaMA-Factory's list of what is in a folder: an entry a shard, named as the shard."""
    entries = {PurePath(shard).stem: {"file_name": shard, **columns} for shard in shards}
    return {"dataset_info.json": json.dumps(entries, indent=1)}


_RESERVED = re.compile(r"(?:User|Bot|Assistant|System):|<(?:image|video)>|\[EOS\]")
_turn = pa.struct([("role", pa.string()), ("content", pa.string())])
_turns = pa.list_(_turn)
_blocks = pa.list_(pa.struct([("text", pa.string())]))
_notebook = pa.schema(
    [
        *((name, pa.string()) for name in ("question", "context", "oracle")),
        ("distracted", pa.bool_()),
        ("original_answer", pa.string()),
        ("synthetic_answer", pa.string()),
    ]
)
_prompt_completion = pa.schema([("prompt", _turns), ("completion", _turns)])
_bedrock = pa.schema(
    [
        ("schemaVersion", pa.string()),
        ("system", _blocks),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", _blocks)]))),
    ]
)
_sharegpt = pa.schema(
    [
        ("conversations", pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))),
        ("system", pa.string()),
    ]
)
_ALPACA = {"prompt": "instruction", "query": "input", "response": "output", "system": "system"}
_SHAREGPT = {"formatting": "sharegpt", "columns": {"messages": "conversations", "system": "system"}}


def _strings(*names: str) -> pa.Schema:
    return pa.schema([(name, pa.string()) for name in names])


FORMATS: Mapping[str, Format] = {
    "messages": Format(messages, pa.schema([("messages", _turns)]), "TRL's conversational language modelling format"),
    "prompt_completion": Format(
        prompt_completion,
        _prompt_completion,
        "TRL's conversational prompt-completion format: the loss falls on the completion",
    ),
    "answer_only": Format(
        answer_only,
        _prompt_completion,
        "TRL's conversational prompt-completion format, the answers without reasoning and quotes",
    ),
    "preference": Format(
        preference,
        pa.schema([("prompt", _turns), ("chosen", _turns), ("rejected", _turns)]),
        "TRL's conversational preference format: the rejected answer is that of a distractor's article",
    ),
    "notebook": Format(notebook, _notebook, "the columns of the original notebook's synthetic_training_data.json"),
    "jumpstart": Format(
        jumpstart,
        _strings("instruction", "context", "response"),
        "SageMaker JumpStart's instruction tuning format, a folder a split with its template.json",
        is_jsonl=True,
        by_split=True,
        beside=_jumpstart_template,
    ),
    "bedrock": Format(bedrock, _bedrock, "Bedrock's fine-tuning format bedrock-conversation-2024", is_jsonl=True),
    "alpaca": Format(
        alpaca,
        _strings("instruction", "input", "output", "system"),
        "Alpaca's columns, with LLaMA-Factory's dataset_info.json",
        is_jsonl=True,
        beside=partial(_llama_factory_index, {"columns": _ALPACA}),
    ),
    "sharegpt": Format(
        sharegpt,
        _sharegpt,
        "ShareGPT's conversations, with LLaMA-Factory's dataset_info.json",
        is_jsonl=True,
        beside=partial(_llama_factory_index, _SHAREGPT),
    ),
}
