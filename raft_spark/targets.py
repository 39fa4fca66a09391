"""A joined row -> what a student reads and what it is to say, fitted to its length. Pure.

A row that keeps its oracle says what the teacher said. One without says what dataset.absent_answer wants of it: RAFT's answer
(Zhang et al. 2024, section 3: it must be remembered), the same without quotes, or that the passages do not answer.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from raft_spark import grounding, prompts
from raft_spark.config import Completions, Dataset, Lake
from raft_spark.errors import InputError
from raft_spark.files import Place
from raft_spark.formats import Row

TURN = 8  # tokens that a chat template takes at most for one turn, beside its text

Count = Callable[[str], int]


def row(joined: Mapping[str, Any], conf: Dataset, asked: Completions) -> Row:
    """Return the row that formats write, with all its passages."""
    completion = joined["completion"].strip()
    answer = grounding.read(completion).answer or completion if asked.style == "cot" else completion
    said, answer = _said(completion, answer, joined, conf, asked)
    return Row(
        pubid=joined["pubid"],
        question=joined["question"],
        passages=[document["text"] for document in joined["documents"]],
        oracle=joined["oracle"],
        distracted=joined["distracted"],
        original_answer=joined["original_answer"],
        completion=said,
        answer=answer,
        astray=joined.get("astray"),
        asked=asked,
    )


def _said(
    completion: str, answer: str, joined: Mapping[str, Any], conf: Dataset, asked: Completions
) -> tuple[str, str]:
    """Return what the row is to say, with and without its chain of thought."""
    if not joined["distracted"] or conf.absent_answer == "oracle":
        return completion, answer
    answer = prompts.REFUSED if conf.absent_answer == "refuse" else answer
    return (f"{prompts.ANSWER} {answer}" if asked.style == "cot" else answer), answer


def fitted(row: Row, oracle: Sequence[bool], count: Count, most: int) -> list[str] | None:
    """Return the passages that `most` tokens of prompt and answer have room for, in the order shown; None where the oracle
    and the answer alone are too many. `oracle` says which passages stay; of the others a hash says which goes first.
    """
    bare = [turn["content"] for turn in prompts.student(row.question, [], row.asked)]
    room = most - sum(count(text) + TURN for text in (*bare, row.completion))
    sizes = [count(prompts.as_data(text)) + count(prompts.SEPARATOR) for text in row.passages]
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


def counter(tokenizer: str) -> Count:
    """Return what counts a text's tokens: a tokenizer.json's content; "" counts one for 3 bytes, more than any text of PubMed."""
    if not tokenizer:
        return lambda text: -(-len(text.encode()) // 3)
    from tokenizers import Tokenizer  # noqa: PLC0415 - only who names a tokenizer needs the package

    loaded = Tokenizer.from_str(tokenizer)
    return lambda text: len(loaded.encode(text, add_special_tokens=False).ids)


def tokenizer(conf: Dataset, lake: Lake) -> str:
    """Return the content of dataset.tokenizer, "" where none is named. Raises InputError where there is none, or it is no tokenizer."""
    if not conf.tokenizer:
        return ""
    folder, _, name = conf.tokenizer.rpartition("/")
    text = (Place.of(lake, folder or ".").read(name) or b"{}").decode(errors="replace")
    try:
        counter(text)
    except ImportError as error:
        msg = "dataset.tokenizer needs the package tokenizers: pip install 'raft-spark[hub]'"
        raise InputError(msg) from error
    except Exception as error:
        msg = f"dataset.tokenizer is {conf.tokenizer!r}; it must be a tokenizer.json: {error}"
        raise InputError(msg) from error
    return text
