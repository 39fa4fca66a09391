"""TrainingRow -> one record of a training format. To add a format, add its template to FORMATS and its name to config.fields.

Each record follows the documentation of its consumer: TRL ("Dataset formats"), SageMaker JumpStart ("Fine-tune a large
language model using prompt instructions"), Bedrock ("Prepare data for fine-tuning"), LLaMA-Factory (data/README), and
the original notebook. In every format but the notebook's, the prompt comes from prompts.student_messages.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from json.encoder import encode_basestring
from pathlib import PurePath
from typing import Any

import pyarrow as pa

from raft_spark.config import Completions
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


class RowTexts:
    """The texts of a training row that records are made of, as JSON; each is encoded once for all formats.

    `system` (None if the prompt template has none), `user` and `answer` are the texts of the turns.
    """

    def __init__(self, row: TrainingRow) -> None:
        self.row = row
        self.system, self.user = _system_and_user(row, row.completions)
        self.answer = prompts.escape_markup(row.completion)
        self._json: dict[str, bytes] = {}

    def json(self, field: str) -> bytes:
        """Return the JSON text of a field, in UTF-8."""
        if field not in self._json:
            self._json[field] = FIELDS[field](self)
        return self._json[field]


def _system_and_user(row: TrainingRow, conf: Completions) -> tuple[str | None, str]:
    *system, user = (turn["content"] for turn in prompts.student_messages(row.question, row.passages, conf))
    return (system[0] if system else None), user


def _turns(system: str | None, user: bytes) -> bytes:
    """Return the turns of the prompt, without the brackets of a list; `user` is JSON text."""
    return b'%b{"role": "user", "content": %b}' % (_system_turn(system), user)


@lru_cache(maxsize=8)
def _system_turn(system: str | None) -> bytes:
    return b"" if system is None else b'{"role": "system", "content": %b}, ' % _quoted(system)


def _plain_turns(texts: RowTexts) -> bytes:
    """Return the turns of the prompt as with completions.style = "answer" where the style is "cot"."""
    if texts.row.completions.style != "cot":
        return texts.json("turns")
    conf = texts.row.completions.model_copy(update={"style": "answer"})
    system, user = _system_and_user(texts.row, conf)
    return _turns(system, _quoted(user))


def _context(row: TrainingRow) -> str:
    """Return the passages as completions.passage_marks lays them out, else as the original notebook does."""
    if row.completions.passage_marks == "template":
        return prompts.SEPARATOR.join(row.passages)
    return prompts.lay_out_passages(row.passages, "student", row.completions)


def _nova_system(texts: RowTexts) -> bytes:
    return b'{"text": %b}' % _quoted(_break_reserved(texts.system)) if texts.system else b""


def _quoted(text: str | None) -> bytes:
    """Return the JSON text of a string or null, as `json` writes it; `replace` is twice as fast as its encoder."""
    if text is None:
        return b"null"
    quoted = text.encode().replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")
    has_controls = len(quoted.translate(None, _CONTROLS)) < len(quoted)
    return encode_basestring(text).encode() if has_controls else b'"%b"' % quoted


_CONTROLS = bytes(range(32))
FIELDS: Mapping[str, Callable[[RowTexts], bytes]] = {
    "turns": lambda texts: _turns(texts.system, texts.json("user")),
    "system": lambda texts: _quoted(texts.system or ""),
    "user": lambda texts: _quoted(texts.user),
    "answer": lambda texts: _quoted(texts.answer),
    "plain_turns": _plain_turns,
    "plain_answer": lambda texts: _quoted(prompts.escape_markup(texts.row.answer)),
    "rejected_answer": lambda texts: _quoted(prompts.escape_markup(texts.row.rejected_answer or "")),
    "nova_system": _nova_system,
    "nova_user": lambda texts: _quoted(_break_reserved(texts.user)),
    "nova_answer": lambda texts: _quoted(_break_reserved(texts.answer)),
    "question": lambda texts: _quoted(texts.row.question),
    "context": lambda texts: _quoted(_context(texts.row)),
    "oracle": lambda texts: _quoted(texts.row.oracle),
    "distracted": lambda texts: b"true" if texts.row.distracted else b"false",
    "original_answer": lambda texts: _quoted(texts.row.original_answer),
    "synthetic_answer": lambda texts: _quoted(texts.row.completion),
}


def _field(name: str) -> str:
    """Return the text that stands in a template for a field of FIELDS."""
    return f"\0{name}\0"


_FIELD = re.compile(r'"\\u0000(\w+)\\u0000"')  # in a template's JSON text


def _no_extra_files(_: Iterable[str]) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True)
class Format:
    """A training format: the template of its records, their schema, and what the card says about them.

    A template is a record in which `_field` names what FIELDS put there: a value, or items of a list. `is_jsonl` is true when the consumer reads JSON
    Lines only. `by_split` gives each split its own folder; otherwise all shards are in data/, which holds nothing else,
    so that Parquet readers can open it. `extra_files` maps the paths of the shards to further files that the consumer
    needs: texts by path.
    """

    template: Record
    schema: pa.Schema
    about: str
    is_jsonl: bool = False
    by_split: bool = False
    extra_files: Callable[[Iterable[str]], Mapping[str, str]] = _no_extra_files

    def shard(self, split: str, number: int, of: int) -> str:
        """Return the path of a shard below the format's folder, without extension."""
        return f"{split if self.by_split else 'data'}/{split}-{number:05d}-of-{of:05d}"

    @cached_property
    def _fields(self) -> tuple[bytes, list[str]]:
        """The JSON text of the template with %b for each field, and the names of the fields."""
        text = json.dumps(self.template).replace("%", "%%")
        return _FIELD.sub("%b", text).encode(), _FIELD.findall(text)

    def line(self, texts: RowTexts) -> bytes | None:
        """Return the record of a row as JSON in UTF-8; None for a row that the format cannot express, as one without a
        rejected answer.
        """
        text, fields = self._fields
        if texts.row.rejected_answer is None and "rejected_answer" in fields:
            return None
        return text % tuple(map(texts.json, fields))

    def record(self, row: TrainingRow) -> Record | None:
        """Return the record of a row; None for a row that the format cannot express."""
        line = self.line(RowTexts(row))
        return None if line is None else json.loads(line)


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
_TURNS = _field("turns")
_ANSWER = {"role": "assistant", "content": _field("answer")}
_turn = pa.struct([("role", pa.string()), ("content", pa.string())])
_turn_list = pa.list_(_turn)
_blocks = pa.list_(pa.struct([("text", pa.string())]))
_notebook = pa.schema(
    [
        *((name, pa.string()) for name in ("question", "context", "oracle")),
        ("distracted", pa.bool_()),
        ("original_answer", pa.string()),
        ("synthetic_answer", pa.string()),
    ]
)
_prompt_completion = pa.schema([("prompt", _turn_list), ("completion", _turn_list)])
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
    "messages": Format(
        {"messages": [_TURNS, _ANSWER]},
        pa.schema([("messages", _turn_list)]),
        "TRL's conversational language modelling format",
    ),
    "prompt_completion": Format(
        {"prompt": [_TURNS], "completion": [_ANSWER]},
        _prompt_completion,
        "TRL's conversational prompt-completion format: the loss falls on the completion",
    ),
    "answer_only": Format(
        {
            "prompt": [_field("plain_turns")],
            "completion": [{"role": "assistant", "content": _field("plain_answer")}],
        },
        _prompt_completion,
        "TRL's conversational prompt-completion format, the answers without reasoning and quotes",
    ),
    "preference": Format(
        {
            "prompt": [_TURNS],
            "chosen": [_ANSWER],
            "rejected": [{"role": "assistant", "content": _field("rejected_answer")}],
        },
        pa.schema([("prompt", _turn_list), ("chosen", _turn_list), ("rejected", _turn_list)]),
        "TRL's conversational preference format: the rejected answer is that of a distractor's article",
    ),
    "notebook": Format(
        {name: _field(name) for name in _notebook.names},
        _notebook,
        "the columns of the original notebook's synthetic_training_data.json",
    ),
    "jumpstart": Format(
        {"instruction": _field("system"), "context": _field("user"), "response": _field("answer")},
        _strings("instruction", "context", "response"),
        "SageMaker JumpStart's instruction tuning format, a folder a split with its template.json",
        is_jsonl=True,
        by_split=True,
        extra_files=_jumpstart_template,
    ),
    "bedrock": Format(
        {
            "schemaVersion": "bedrock-conversation-2024",
            "system": [_field("nova_system")],
            "messages": [
                {"role": "user", "content": [{"text": _field("nova_user")}]},
                {"role": "assistant", "content": [{"text": _field("nova_answer")}]},
            ],
        },
        _bedrock,
        "Bedrock's fine-tuning format bedrock-conversation-2024",
        is_jsonl=True,
    ),
    "alpaca": Format(
        {"instruction": _field("user"), "input": "", "output": _field("answer"), "system": _field("system")},
        _strings("instruction", "input", "output", "system"),
        "Alpaca's columns, with LLaMA-Factory's dataset_info.json",
        is_jsonl=True,
        extra_files=partial(_llama_factory_index, {"columns": _ALPACA}),
    ),
    "sharegpt": Format(
        {
            "conversations": [{"from": "human", "value": _field("user")}, {"from": "gpt", "value": _field("answer")}],
            "system": _field("system"),
        },
        _sharegpt,
        "ShareGPT's conversations, with LLaMA-Factory's dataset_info.json",
        is_jsonl=True,
        extra_files=partial(_llama_factory_index, _SHAREGPT),
    ),
}
