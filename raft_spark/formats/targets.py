"""A base row with its completion -> the row that a student is trained on, shortened to dataset.max_tokens.

The target of a row with its oracle is the teacher's completion. The target of a row without it depends on
dataset.absent_answer: the completion as in RAFT (Zhang et al. 2024, section 3: the student must remember it), the
answer without reasoning and quotes, or a refusal.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from raft_spark.config import Completions, Dataset, Lake
from raft_spark.endpoints import answer_text
from raft_spark.errors import InputError
from raft_spark.formats.formats import TrainingRow
from raft_spark.lake.filesystem import Storage
from raft_spark.recipe import answer_checks, citations, prompts, refusals

TURN_TOKENS = 8  # at most, of the markup of one turn in a chat template
HEAD_TOKENS = 40  # at most, before the first turn: Llama 3.1 writes dates there

TokenCounter = Callable[[str], int]


def training_row(joined: Mapping[str, Any], text: str, conf: Dataset, completions: Completions) -> TrainingRow:
    """Return the row that formats write, with all its passages; `text` is its answer as answer_text.clean returns it.

    The rejected answer is None when it is missing, the same as the completion, or a refusal.
    """
    completion = text.strip()
    answer = (
        answer_checks.parse(completion, completions.words.marks).answer or completion
        if completions.style == "cot"
        else completion
    )
    target, answer = _target(completion, answer, joined, conf, completions)
    return TrainingRow(
        pubid=joined["pubid"],
        question=joined["question"],
        passages=joined["passages"],
        oracle=joined["oracle"],
        distracted=joined["distracted"],
        original_answer=joined["original_answer"],
        completion=target,
        answer=answer,
        rejected_answer=_rejected_answer(joined.get("rejected_answer"), target, completions),
        completions=completions,
    )


def _target(
    completion: str, answer: str, joined: Mapping[str, Any], conf: Dataset, completions: Completions
) -> tuple[str, str]:
    """Return the target of a row, with and without its chain of thought."""
    if not joined["distracted"] or conf.absent_answer == "oracle":
        return completion, answer
    words = completions.words
    answer = words.refusal if conf.absent_answer == "refuse" else answer
    return (f"{words.marks.answer} {answer}" if completions.style == "cot" else answer), answer


def _rejected_answer(completion: str | None, target: str, completions: Completions) -> str | None:
    if completion is None:
        return None
    clean = answer_text.clean(completion)
    completion = "" if clean.is_open or answer_text.has_next_turn(clean.text) else clean.text.strip()
    marks = completions.words.marks
    answer = answer_checks.parse(completion, marks).answer if completions.style == "cot" else completion
    return None if not answer or completion == target or refusals.is_refusal(answer, marks.unknown) else completion


def fit_length(
    row: TrainingRow, is_whole: Sequence[bool], completion: str, count: TokenCounter, max_tokens: int
) -> list[str] | None:
    """Return the passages that fit, with the prompt and the longest answer, into `max_tokens`, in the order shown; None
    when the oracle and the answer alone do not fit.

    `is_whole` marks the passages of the oracle, which are never removed, or of its stand-in, which are removed last; a hash
    decides which of the others is removed first. A row without its oracle must have room for the oracle and for the teacher's `completion` too: otherwise rows with the
    oracle would be rejected more often, and their share would fall below base.oracle_share.
    """
    conf, last = row.completions, len(row.passages)
    bare = [turn["content"] for turn in prompts.student_messages(row.question, [], conf)]
    answers = (row.completion, completion, row.rejected_answer or "")
    answer = max(count(_renumber(text, lambda _: last, conf)) for text in answers)
    room = max_tokens - HEAD_TOKENS - answer - TURN_TOKENS - sum(count(text) + TURN_TOKENS for text in bare)
    separator = count(conf.words.student.separator)
    fill = partial(prompts.lay_out_passages, reader="student", conf=conf, first=last)
    if row.distracted and count(fill(row.oracle.split(prompts.SEPARATOR))) + separator > room:
        return None
    sizes = [count(fill([text])) + separator for text in row.passages]
    removable = sorted(
        (number for number in range(len(sizes)) if row.distracted or not is_whole[number]),
        key=lambda number: (not is_whole[number], zlib.crc32(row.passages[number].encode())),
    )
    kept = set(range(len(sizes)))
    while sum(sizes[number] for number in kept) > room:
        if not removable:
            return None
        kept.remove(removable.pop())
    return [row.passages[number] for number in sorted(kept)]


def renumber_citations(row: TrainingRow, distractor: str = "") -> TrainingRow:
    """Return the row with its citations renumbered to the places of the passages in its prompt; the teacher saw the oracle's alone.

    A rejected answer cites `distractor`, a passage of its article ("" = there is none). No citation is left in a row without
    its oracle, nor in an answer without its chain of thought.
    """
    if not row.completions.cites_passages:
        return row
    places = {} if row.distracted else _places(row)
    shown = [] if row.distracted else row.passages
    of_rejected = shown.index(distractor) + 1 if distractor in shown else None
    rejected = row.rejected_answer
    return replace(
        row,
        completion=_renumber(row.completion, places.get, row.completions),
        answer=_renumber(row.answer, lambda _: None, row.completions),
        rejected_answer=rejected and _renumber(rejected, lambda _: of_rejected, row.completions),
    )


def _places(row: TrainingRow) -> dict[int, int]:
    """Return the place in the row's prompt of each passage of the oracle, by its number in the teacher's prompt.

    A passage that holds a blank line has a number for each part in the teacher's prompt.
    """
    place_of = {
        part: place for place, passage in enumerate(row.passages, 1) for part in passage.split(prompts.SEPARATOR)
    }
    parts = enumerate(row.oracle.split(prompts.SEPARATOR), 1)
    return {number: place_of[part] for number, part in parts if part in place_of}


def _renumber(text: str, place_of: Callable[[int], int | None], conf: Completions) -> str:
    return citations.renumber(text, place_of, conf.words.marks) if conf.cites_passages else text


def token_counter(tokenizer: str) -> TokenCounter:
    """Return a function that counts the tokens of a text. `tokenizer` is the content of a tokenizer.json; with "" every
    3 bytes count as a token, which is more than most texts of PubMed have.
    """
    if not tokenizer:
        return lambda text: -(-len(text.encode()) // 3)
    from tokenizers import Tokenizer  # noqa: PLC0415 - only dataset.tokenizer needs the package

    loaded = Tokenizer.from_str(tokenizer)
    loaded.no_truncation()  # both may be set in the file
    loaded.no_padding()
    return lambda text: len(loaded.encode(text, add_special_tokens=False).ids)


def read_tokenizer(conf: Dataset, lake: Lake) -> str:
    """Return the content of the file dataset.tokenizer, "" if not set. Raises InputError if it is no tokenizer."""
    if not conf.tokenizer:
        return ""
    folder, _, name = conf.tokenizer.rpartition("/")
    text = (Storage.of(lake, folder or ".").read(name) or b"{}").decode(errors="replace")
    try:
        token_counter(text)
    except ImportError as error:
        msg = "dataset.tokenizer needs the package tokenizers: pip install 'raft-spark[hub]'"
        raise InputError(msg) from error
    except Exception as error:
        msg = f"dataset.tokenizer is {conf.tokenizer!r}; it must be a tokenizer.json: {error}"
        raise InputError(msg) from error
    return text
