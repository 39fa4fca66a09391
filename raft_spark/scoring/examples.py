"""Scored rows -> articles shown with all students' answers side by side, quotes marked in the answer and in the passages. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from raft_spark.recipe import answer_checks, prompts
from raft_spark.scoring import conditions
from raft_spark.scoring.summary import EvaluationSummary, label

Row = Mapping[str, Any]
_NO_MARK = f"(?:(?!{re.escape(prompts.BEGIN)}|{re.escape(prompts.END)}).)"
QUOTED = re.compile(rf"{re.escape(prompts.BEGIN)}\s*({_NO_MARK}*?)\s*{re.escape(prompts.END)}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class TextSpan:
    """Some words, and where they stand if they are a quote: oracle, distractor or nowhere; "" for all other words."""

    text: str
    stands: str = ""


@dataclass(frozen=True, slots=True)
class ExampleAnswer:
    """One answer: what was asked with, its pieces, and what it came to; `verdict` is right, wrong or "" (no label,
    or no decision was asked for).
    """

    asked: str
    pieces: Sequence[TextSpan]
    verdict: str
    decision: str
    rouge_l: float
    error: str


@dataclass(frozen=True, slots=True)
class Example:
    """An article: its question, its own answer, its passages with what was quoted of them, and each student's answers."""

    pubid: int
    question: str
    reference: str
    decision: str
    passages: Sequence[Sequence[TextSpan]]
    answers: Mapping[str, Sequence[ExampleAnswer]]


def choose_articles(told: EvaluationSummary) -> list[int]:
    """Return which articles are shown: first those where students' decisions differ among distractors, else in the order they
    were taken in.
    """
    said: dict[int, set[Any]] = {pubid: set() for pubid in told.rows["pubid"].to_pylist()}
    for row in told.rows.select(["pubid", "setting", "distractors", "decision", "error_class"]).to_pylist():
        if conditions.Condition(row["setting"], row["distractors"]) == told.main and not row["error_class"]:
            said[row["pubid"]].add(row["decision"])
    hashes = dict(zip(said, conditions.article_hashes(np.array([*said], np.int64)).tolist(), strict=True))
    order = sorted(said, key=lambda pubid: (len(said[pubid]) < 2, hashes[pubid]))  # noqa: PLR2004 - they differ
    return order[: told.conf.evaluation.examples]


def build_examples(told: EvaluationSummary, own: Mapping[int, Sequence[str]]) -> Iterator[Example]:
    """Yield the articles of `own` (pubid -> passages), in its order."""
    for pubid, passages in own.items():
        rows = told.rows.filter(pc.equal(told.rows["pubid"], pubid)).to_pylist()
        found = {(row["student"], row["setting"], row["distractors"]): row for row in rows}
        answers = {
            student: [
                _example_answer(
                    found[student, case.setting, case.distractors], is_judged=told.conf.completions.decision
                )
                for case in reversed(told.compared)
                if (student, case.setting, case.distractors) in found
            ]
            for student in told.students
        }
        quotes = [
            piece.text
            for said in answers.values()
            for each in said
            for piece in each.pieces
            if piece.stands == "oracle"
        ]
        marked = [list(highlight(text, quotes)) for text in passages]
        first = rows[0]
        yield Example(
            pubid, first["question"], first["reference"] or "", first["final_decision"] or "", marked, answers
        )


def _example_answer(row: Row, *, is_judged: bool) -> ExampleAnswer:
    truth, decision = (row["final_decision"] or "").lower(), row["decision"] or ""
    verdict = ("right" if truth == decision else "wrong") if truth and is_judged else ""
    case = conditions.Condition(row["setting"], row["distractors"])
    pieces = list(split_at_quotes(row["answer"] or "", row["quoted"] or []))
    return ExampleAnswer(label(case), pieces, verdict, decision, row["rouge_l"], row["error_class"] or "")


def split_at_quotes(answer: str, quoted: Sequence[str]) -> Iterator[TextSpan]:
    """Cut an answer at its quotes; `quoted` says where each stands, those without an end among them, which are no pieces.
    Marks beyond those, in the answer line, make no quote.
    """
    whole = (stands for quote, stands in zip(answer_checks.parse(answer).quotes, quoted, strict=False) if quote)
    for number, text in enumerate(QUOTED.split(answer)):
        if text:
            yield TextSpan(text, next(whole, "") if number % 2 else "")


def highlight(passage: str, quotes: Sequence[str]) -> Iterator[TextSpan]:
    """Cut a passage where one of the quotes begins or ends, as they are compared."""
    signs = [(sign, at) for at, letter in enumerate(passage) for sign in answer_checks.normalize(letter)]
    text, inside = answer_checks.QuoteSearch("".join(sign for sign, _ in signs)), bytearray(len(passage))
    for begin, end in filter(None, map(text.find, map(answer_checks.bare, quotes))):
        first, last = signs[begin][1], signs[end - 1][1]
        inside[first : last + 1] = b"\1" * (last + 1 - first)
    start = 0
    for at in range(1, len(passage) + 1):
        if at == len(passage) or inside[at] != inside[start]:
            yield TextSpan(passage[start:at], "oracle" if inside[start] else "")
            start = at
