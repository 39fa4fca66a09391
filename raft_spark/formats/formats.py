"""TrainingRow -> one record of a training format. To add a format, add a function here, its name to FORMATS and to
config.fields.

Each record follows the documentation of its consumer: TRL ("Dataset formats"), SageMaker JumpStart ("Fine-tune a large
language model using prompt instructions"), Bedrock ("Prepare data for fine-tuning"), LLaMA-Factory (data/README), and
the original notebook. In every format but the notebook's, the prompt comes from prompts.student_messages.
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
    """A base row with the prompt and the target of a student; `passages` are in the order shown.

    `completion` is the target, `answer` the same without reasoning and quotes. `rejected_answer` is the answer to the
    question of an article whose passage is shown as a distractor, or None. `completions` has the settings that the
    prompt depends on.
    """

    pubid: int
    question: str
    passages: list[str]
    oracle: str
    distracted: bool
    original_answer: str | None
    completion: str
    answer: str
    rejected_answer: str | None
    completions: Completions


Record = Mapping[str, Any]


def _no_extra_files(_: Iterable[str]) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True, slots=True)
class Format:
    """A training format: how a row becomes a record, the schema of records, and what the card says about them.

    `record` returns None for a row that the format cannot express. `is_jsonl` is true when the consumer reads JSON
    Lines only. `by_split` gives each split its own folder; otherwise all shards are in data/, which holds nothing else,
    so that Parquet readers can open it. `extra_files` maps the paths of the shards to further files that the consumer
    needs: texts by path.
    """

    record: Callable[[TrainingRow], Record | None]
    schema: pa.Schema
    about: str
    is_jsonl: bool = False
    by_split: bool = False
    extra_files: Callable[[Iterable[str]], Mapping[str, str]] = _no_extra_files

    def shard(self, split: str, number: int, of: int) -> str:
        """Return the path of a shard below the format's folder, without extension."""
        return f"{split if self.by_split else 'data'}/{split}-{number:05d}-of-{of:05d}"


def messages(row: TrainingRow) -> Record:
    """Return one conversation: system, user with all passages and the question, assistant with the answer."""
    return {"messages": [*_prompt(row), _assistant_turn(row.completion)]}


def prompt_completion(row: TrainingRow) -> Record:
    """Return the conversation split into prompt and completion: trainers compute the loss on the completion."""
    return {"prompt": _prompt(row), "completion": [_assistant_turn(row.completion)]}


def answer_only(row: TrainingRow) -> Record:
    """Return prompt and completion without chain of thought, as with completions.style = "answer"."""
    conf = row.completions
    conf = conf.model_copy(update={"style": "answer"}) if conf.style == "cot" else conf
    return {
        "prompt": prompts.student_messages(row.question, row.passages, conf),
        "completion": [_assistant_turn(row.answer)],
    }


def preference(row: TrainingRow) -> Record | None:
    """Return the chosen and the rejected answer for preference tuning such as DPO; None without a rejected one."""
    if row.rejected_answer is None:
        return None
    return {
        "prompt": _prompt(row),
        "chosen": [_assistant_turn(row.completion)],
        "rejected": [_assistant_turn(row.rejected_answer)],
    }


def notebook(row: TrainingRow) -> Record:
    """Return the columns of the original notebook, with texts unchanged."""
    return {
        "question": row.question,
        "context": prompts.SEPARATOR.join(row.passages),
        "oracle": row.oracle,
        "distracted": row.distracted,
        "original_answer": row.original_answer,
        "synthetic_answer": row.completion,
    }


def jumpstart(row: TrainingRow) -> Record:
    """Return the fields that the template of JumpStart names."""
    system, user = _system_and_user(row)
    return {
        "instruction": system,
        "context": user,
        "response": prompts.escape_markup(row.completion),
    }


def bedrock(row: TrainingRow) -> Record:
    """Return one turn in Bedrock's format, without the strings that Amazon Nova rejects."""
    system, user = map(_break_reserved, _system_and_user(row))
    answer = _break_reserved(prompts.escape_markup(row.completion))
    turns = [{"role": "user", "content": [{"text": user}]}, {"role": "assistant", "content": [{"text": answer}]}]
    return {
        "schemaVersion": "bedrock-conversation-2024",
        "system": [{"text": system}] if system else [],
        "messages": turns,
    }


def alpaca(row: TrainingRow) -> Record:
    """Return the columns of Alpaca, as LLaMA-Factory and Axolotl read them; only LLaMA-Factory reads `system`."""
    system, user = _system_and_user(row)
    return {"instruction": user, "input": "", "output": prompts.escape_markup(row.completion), "system": system}


def sharegpt(row: TrainingRow) -> Record:
    """Return one conversation in the format of ShareGPT."""
    system, user = _system_and_user(row)
    turns = [
        {"from": "human", "value": user},
        {"from": "gpt", "value": prompts.escape_markup(row.completion)},
    ]
    return {"conversations": turns, "system": system}


def _system_and_user(row: TrainingRow) -> tuple[str, str]:
    """Return the texts of the prompt's turns; the system's is "" if the template has none."""
    *system, user = (turn["content"] for turn in _prompt(row))
    return "".join(system), user


def _prompt(row: TrainingRow) -> list[Message]:
    return prompts.student_messages(row.question, row.passages, row.completions)


def _assistant_turn(answer: str) -> Message:
    return {"role": "assistant", "content": prompts.escape_markup(answer)}


def _break_reserved(text: str) -> str:
    """Put a space into the strings that Amazon Nova reserves (Bedrock User Guide, "Preparing data for fine-tuning")."""
    return _RESERVED.sub(lambda match: f"{match[0][:-1]} {match[0][-1]}", text)


def _jumpstart_template(shards: Iterable[str]) -> Mapping[str, str]:
    """Return template.json for each folder of shards: JumpStart builds prompts from it."""
    template = {"prompt": "{instruction}\n\n{context}\n\n", "completion": "{response}"}
    return {f"{shard.partition('/')[0]}/template.json": json.dumps(template) for shard in shards}


def _llama_factory_index(columns: Mapping[str, Any], shards: Iterable[str]) -> Mapping[str, str]:
    """Return dataset_info.json, LLaMA-Factory's index of a folder, with one entry per shard."""
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
        extra_files=_jumpstart_template,
    ),
    "bedrock": Format(bedrock, _bedrock, "Bedrock's fine-tuning format bedrock-conversation-2024", is_jsonl=True),
    "alpaca": Format(
        alpaca,
        _strings("instruction", "input", "output", "system"),
        "Alpaca's columns, with LLaMA-Factory's dataset_info.json",
        is_jsonl=True,
        extra_files=partial(_llama_factory_index, {"columns": _ALPACA}),
    ),
    "sharegpt": Format(
        sharegpt,
        _sharegpt,
        "ShareGPT's conversations, with LLaMA-Factory's dataset_info.json",
        is_jsonl=True,
        extra_files=partial(_llama_factory_index, _SHAREGPT),
    ),
}
