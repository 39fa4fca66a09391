"""A joined row -> what a student reads and what it is to say, fitted to its length. Pure.

A row that keeps its oracle says what the teacher said. One without says what dataset.absent_answer wants of it: RAFT's answer
(Zhang et al. 2024, section 3: it must be remembered), the same without quotes, or that the passages do not answer.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from raft_spark.config import Completions, Dataset, Lake
from raft_spark.errors import InputError
from raft_spark.formats.formats import TrainingRow
from raft_spark.lake.filesystem import Storage
from raft_spark.recipe import answer_checks, prompts

TURN_TOKENS = 8  # tokens that a chat template takes at most for one turn, beside its text
HEAD_TOKENS = 40  # and before the first turn, as that of Llama 3.1 with its dates

TokenCounter = Callable[[str], int]


def training_row(joined: Mapping[str, Any], conf: Dataset, asked: Completions) -> TrainingRow:
    """Return the row that formats write, with all its passages. What is `astray` and no answer, or the same one, is left out."""
    completion = joined["completion"].strip()
    answer = answer_checks.parse(completion).answer or completion if asked.style == "cot" else completion
    said, answer = _target(completion, answer, joined, conf, asked)
    return TrainingRow(
        pubid=joined["pubid"],
        question=joined["question"],
        passages=[document["text"] for document in joined["documents"]],
        oracle=joined["oracle"],
        distracted=joined["distracted"],
        original_answer=joined["original_answer"],
        completion=said,
        answer=answer,
        astray=_rejected(joined.get("astray"), said, asked),
        asked=asked,
    )


def _target(
    completion: str, answer: str, joined: Mapping[str, Any], conf: Dataset, asked: Completions
) -> tuple[str, str]:
    """Return what the row is to say, with and without its chain of thought."""
    if not joined["distracted"] or conf.absent_answer == "oracle":
        return completion, answer
    answer = prompts.REFUSAL_ANSWER if conf.absent_answer == "refuse" else answer
    return (f"{prompts.ANSWER} {answer}" if asked.style == "cot" else answer), answer


def _rejected(answer: str | None, said: str, asked: Completions) -> str | None:
    answer = (answer or "").strip()
    told = answer_checks.parse(answer).answer if asked.style == "cot" else answer
    return None if not told or answer == said or prompts.REFUSAL_PATTERN.search(told) else answer


def fit_length(
    row: TrainingRow, oracle: Sequence[bool], taught: str, count: TokenCounter, most: int
) -> list[str] | None:
    """Return the passages that `most` tokens of prompt and answer have room for, in the order shown; None where the oracle
    and the answer alone are too many. `oracle` says which passages stay; of the others a hash says which goes first. A row
    without its oracle needs room for that, and for what the teacher said, `taught`, all the same: else rows with it would be
    left out more often, and P would not be what was asked for.
    """
    bare = [turn["content"] for turn in prompts.student_messages(row.question, [], row.asked)]
    answer = max(count(text) for text in (row.completion, taught, row.astray or ""))
    room = most - HEAD_TOKENS - answer - TURN_TOKENS - sum(count(text) + TURN_TOKENS for text in bare)
    if row.distracted and count(prompts.escape_markup(row.oracle)) + count(prompts.SEPARATOR) > room:
        return None
    sizes = [count(prompts.escape_markup(text)) + count(prompts.SEPARATOR) for text in row.passages]
    going = sorted(
        (number for number, stays in enumerate(oracle) if not stays),
        key=lambda number: zlib.crc32(row.passages[number].encode()),
    )
    kept = set(range(len(sizes)))
    while sum(sizes[number] for number in kept) > room:
        if not going:
            return None
        kept.remove(going.pop())
    return [row.passages[number] for number in sorted(kept)]


def token_counter(tokenizer: str) -> TokenCounter:
    """Return what counts a text's tokens: a tokenizer.json's content; "" counts one for 3 bytes, more than most texts of PubMed have."""
    if not tokenizer:
        return lambda text: -(-len(text.encode()) // 3)
    from tokenizers import Tokenizer  # noqa: PLC0415 - only who names a tokenizer needs the package

    loaded = Tokenizer.from_str(tokenizer)
    loaded.no_truncation()  # as it may have been saved
    loaded.no_padding()
    return lambda text: len(loaded.encode(text, add_special_tokens=False).ids)


def read_tokenizer(conf: Dataset, lake: Lake) -> str:
    """Return the content of dataset.tokenizer, "" where none is named. Raises InputError where there is none, or it is no tokenizer."""
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
