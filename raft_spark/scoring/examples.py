"""Scored rows -> example articles: each with the answers of all students, quotes marked in answers and passages."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow.compute as pc

from raft_spark.config import Completions
from raft_spark.config.templates import Marks
from raft_spark.recipe import answer_checks, quote_search
from raft_spark.scoring import conditions
from raft_spark.scoring.summary import EvaluationSummary, label

Row = Mapping[str, Any]


@cache
def quoted(marks: Marks) -> re.Pattern[str]:
    """Return the pattern of a quote with its marks."""
    begin, end = re.escape(marks.begin_quote), re.escape(marks.end_quote)
    return re.compile(rf"{begin}\s*((?:(?!{begin}|{end}).)*?)\s*{end}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class TextSpan:
    """A part of a text. `source` of a quote is oracle, distractor or nowhere; it is "" for other text."""

    text: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class ExampleAnswer:
    """An answer and its scores. `condition` is its label; `verdict` is right, wrong, or "" when the article has no
    final_decision or no decision was asked for.
    """

    condition: str
    spans: Sequence[TextSpan]
    verdict: str
    decision: str
    rouge_l: float
    error: str


@dataclass(frozen=True, slots=True)
class Example:
    """An article with its own answer (`reference`, `decision`), its marked passages, and students' answers."""

    pubid: int
    question: str
    reference: str
    decision: str
    passages: Sequence[Sequence[TextSpan]]
    answers: Mapping[str, Sequence[ExampleAnswer]]


def choose_articles(summary: EvaluationSummary) -> list[int]:
    """Return the pubids of the articles to show: first those on which students' decisions differ in the main condition,
    then the others, each in the order in which articles were selected.
    """
    decisions: dict[int, set[Any]] = {pubid: set() for pubid in summary.rows["pubid"].to_pylist()}
    for row in summary.rows.select(["pubid", "setting", "distractors", "decision", "error_class"]).to_pylist():
        if (
            conditions.Condition(row["setting"], row["distractors"]) == summary.main_condition
            and not row["error_class"]
        ):
            decisions[row["pubid"]].add(row["decision"])
    hashes = dict(zip(decisions, conditions.article_hashes(np.array([*decisions], np.int64)).tolist(), strict=True))
    order = sorted(decisions, key=lambda pubid: (len(decisions[pubid]) < 2, hashes[pubid]))  # noqa: PLR2004
    return order[: summary.conf.evaluation.examples]


def build_examples(summary: EvaluationSummary, articles: Mapping[int, Sequence[str]]) -> Iterator[Example]:
    """Yield an example for each of `articles` (pubid -> passages), in that order."""
    for pubid, passages in articles.items():
        rows = summary.rows.filter(pc.equal(summary.rows["pubid"], pubid)).to_pylist()
        by_case = {(row["student"], row["setting"], row["distractors"]): row for row in rows}
        answers = {
            student: [
                _example_answer(by_case[student, condition.setting, condition.distractors], summary.conf.completions)
                for condition in reversed(summary.compared_conditions)
                if (student, condition.setting, condition.distractors) in by_case
            ]
            for student in summary.students
        }
        quotes = [
            span.text
            for of_student in answers.values()
            for answer in of_student
            for span in answer.spans
            if span.source == "oracle"
        ]
        marked = [list(highlight(text, quotes)) for text in passages]
        first = rows[0]
        yield Example(
            pubid, first["question"], first["reference"] or "", first["final_decision"] or "", marked, answers
        )


def _example_answer(row: Row, conf: Completions) -> ExampleAnswer:
    truth, decision = (row["final_decision"] or "").lower(), row["decision"] or ""
    verdict = ("right" if truth == decision else "wrong") if truth and conf.decision else ""
    condition = conditions.Condition(row["setting"], row["distractors"])
    spans = list(split_at_quotes(row["answer"] or "", row["quoted"] or [], conf.words.marks))
    return ExampleAnswer(label(condition), spans, verdict, decision, row["rouge_l"], row["error_class"] or "")


def split_at_quotes(answer: str, found_in: Sequence[str], marks: Marks = answer_checks.MARKS) -> Iterator[TextSpan]:
    """Split an answer into its quotes and the text between them. `found_in` has the source of every quote of the answer;
    an unclosed quote gets no span of its own. Quote marks that answer_checks.parse does not count, as in the answer
    line, give no source.
    """
    quotes = answer_checks.parse(answer, marks).quotes
    sources = (source for quote, source in zip(quotes, found_in, strict=False) if quote)
    for number, text in enumerate(quoted(marks).split(answer)):
        if text:
            yield TextSpan(text, next(sources, "") if number % 2 else "")


def highlight(passage: str, quotes: Sequence[str]) -> Iterator[TextSpan]:
    """Split a passage into the parts that quotes cover and the text between them."""
    normalized = [(sign, at) for at, letter in enumerate(passage) for sign in quote_search.normalize(letter)]
    text, quoted = quote_search.QuoteSearch("".join(sign for sign, _ in normalized)), bytearray(len(passage))
    for begin, end in filter(None, map(text.find, map(quote_search.comparable_quote, quotes))):
        first, last = normalized[begin][1], normalized[end - 1][1]
        quoted[first : last + 1] = b"\1" * (last + 1 - first)
    start = 0
    for at in range(1, len(passage) + 1):
        if at == len(passage) or quoted[at] != quoted[start]:
            yield TextSpan(passage[start:at], "oracle" if quoted[start] else "")
            start = at
