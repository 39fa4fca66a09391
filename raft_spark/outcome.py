"""Figures -> the tables that people read, as Markdown and for the page: each student, setting and k beside what needs no model."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from raft_spark import cases, config, scores
from raft_spark.figures import BASELINE, DECISIONS, PLACED, PLACES, WORDS

DASH = "\N{EN DASH}"  # for what there is none of
TITLES = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "decided": "says yes, no or maybe",
    "token_f1": "token F1",
    "rouge_l": "ROUGE-L",
    "bleu": "BLEU",
    "chrf": "chrF",
    "abstained": "abstains",
    "quoting": "answers with a quote",
    "quotes_of_oracle": "quotes in the oracle",
    "quotes_of_distractors": "quotes in a distractor",
    "faithfulness": "faithfulness",
    "relevance": "relevance",
    "unjudged": "not judged",
    "cut": "cut",
    "failed": "failed",
}
SETTINGS = {"closed": "no passage", "without": "without oracle", "with": "with oracle", "alone": "oracle alone"}
SHEETS: Mapping[str, tuple[Sequence[str], str]] = {
    "Decisions": (
        (*DECISIONS, "decided"),
        (
            "Yes, no or maybe, as the answer begins, against final_decision (PubMedQA's own measures). An answer that says none of "
            "them, and one that never came, is wrong."
        ),
    ),
    "Words": (
        WORDS,
        (
            "The answer beside the article's own long_answer; articles without one are left out. The best sentence of the oracle is "
            "chosen with that answer at hand, so it is no floor but a ceiling of copying."
        ),
    ),
    "Oracle and quotes": (
        ("abstained", "quoting", "quotes_of_oracle", "quotes_of_distractors", "cut", "failed"),
        (
            "To abstain is right without the oracle and wrong with it. Quotes are word for word, or are not: the shares are of all "
            "quotes. What is neither in the oracle nor in a distractor is invented."
        ),
    ),
}
JUDGED = (
    "After ragas. Faithfulness: the share of an answer's statements that can be inferred from the passages shown. Relevance: how like "
    "the question those are that the answer would answer, by chrF. What the judge did not answer as asked is in no figure but the last."
)
COMPARED = ("accuracy", "macro_f1", "token_f1", "rouge_l", "abstained", "quotes_of_oracle")
Metric = Mapping[str, Any]  # a row of schemas.METRICS


@dataclass(frozen=True)
class Sheet:
    """A table with a title and a sentence that says how to read it."""

    title: str
    said: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Outcome:
    """What an evaluation came to: the scored `rows` (schemas.EVALUATION) and the `metrics` made of them (schemas.METRICS)."""

    conf: config.Config
    version: str
    rows: pa.Table
    metrics: pa.Table

    @cached_property
    def found(self) -> Mapping[tuple[Any, ...], Metric]:
        """Return the metrics by student, against, setting, k, place and figure; None for what a row has not."""
        names = ("student", "against", "setting", "distractors", "place", "figure")
        return {tuple(row[name] for name in names): row for row in self.metrics.to_pylist()}

    def metric(self, student: str, case: cases.Case, figure: str, against: str | None = None) -> Metric | None:
        """Return one figure with its interval, None where there is nothing it is made of."""
        row = self.found.get((student, against, case.setting, case.distractors, None, figure))
        return row if row and row["value"] is not None else None

    def placed(self, student: str, place: str, figure: str) -> Metric | None:
        """Return a figure of the answers for which the oracle stood there."""
        row = self.found.get((student, None, "with", self.k, place, figure))
        return row if row and row["value"] is not None else None

    @property
    def students(self) -> Sequence[str]:
        """Return the students, the first one first."""
        return self.conf.evaluation.students

    @property
    def k(self) -> int:
        """Return the k that settings are compared at."""
        return cases.compared_at(self.conf)

    @property
    def asked(self) -> list[cases.Case]:
        """Return what was asked with, from no passage to the oracle alone, k ascending."""
        order = list(SETTINGS)
        return sorted(cases.cases(self.conf.evaluation), key=lambda case: (order.index(case.setting), case.distractors))

    @property
    def compared(self) -> list[cases.Case]:
        """Return each setting once, at `k` where it has one."""
        return [case for case in self.asked if case.distractors in {0, self.k}]

    @property
    def articles(self) -> int:
        """Return how many articles were asked about."""
        return max(self.metrics["articles"].to_pylist(), default=0)

    def failures(self) -> Counter[tuple[str, str, int, str]]:
        """Count the answers that never came: by student, setting, k and class."""
        names = ("student", "setting", "distractors", "error_class")
        rows = self.rows.select(names).filter(self.rows["error_class"].is_valid()).to_pylist()
        return Counter(tuple(row[name] for name in names) for row in rows)


def named(case: cases.Case) -> str:
    """Say what a question was asked with."""
    return SETTINGS[case.setting] + (f", k = {case.distractors}" if case.distractors else "")


def markdown(told: Outcome) -> str:
    """Return the outcome as one Markdown text."""
    lines = [f"# Evaluation {told.version}", "", *about(told), ""]
    for sheet in sheets(told):
        rows = [sheet.head, ["---"] * len(sheet.head), *sheet.rows]
        lines += [
            f"## {sheet.title}",
            "",
            sheet.said,
            "",
            *("| " + " | ".join(map(_cell, row)) + " |" for row in rows),
            "",
        ]
    return "\n".join(lines)


def about(told: Outcome) -> Iterator[str]:
    """Yield what a reader has to know first."""
    teacher, models = told.conf.completions, {name: told.conf.endpoints[name].model for name in told.students}
    yield f"{told.articles} articles of the test split. Students: {', '.join(f'{name} ({model})' for name, model in models.items())}."
    yield (
        f"Brackets: 95 % intervals, {told.conf.evaluation.resamples} resamples of the articles, the same ones everywhere. An answer that "
        "failed counts as wrong, and as 0."
    )
    if not teacher.decision:
        yield (
            "completions.decision is false: students are not asked to begin with yes, no or maybe, and those that do not are "
            "counted as wrong."
        )


def sheets(told: Outcome) -> list[Sheet]:
    """Return all tables that have a row."""
    found = [_figures(told, title, names, said) for title, (names, said) in SHEETS.items()]
    if told.conf.evaluation.judge:
        found.append(_figures(told, f"As {told.conf.evaluation.judge} judges", (*scores.JUDGED, "unjudged"), JUDGED))
    found += [_differences(told, other) for other in told.students]
    return [sheet for sheet in (*found, _places(told), _failures(told)) if sheet.rows]


def _figures(told: Outcome, title: str, names: Sequence[str], said: str) -> Sheet:
    rows = [
        [student, named(case), *_cells(told, student, case, names)] for case in told.asked for student in told.students
    ]
    for baseline in (scores.MAJORITY, scores.QUESTION, scores.LAST_SENTENCES, scores.BEST_SENTENCE):
        cells = _cells(told, baseline, cases.Case(BASELINE, 0), names)
        rows += [[baseline, "no model", *cells]] if set(cells) != {DASH} else []
    return Sheet(title, said, ["student", "asked", *(TITLES[name] for name in names)], rows)


def _cells(
    told: Outcome, student: str, case: cases.Case, names: Sequence[str], against: str | None = None
) -> list[str]:
    return [interval(told.metric(student, case, name, against)) for name in names]


def _differences(told: Outcome, other: str) -> Sheet:
    rows = [
        [student, named(case), *_cells(told, student, case, COMPARED, other)]
        for case in told.asked
        for student in told.students[told.students.index(other) + 1 :]
    ]
    said = f"Above 0: more than {other}, on the same articles. An interval that holds 0 is no difference that was seen."
    return Sheet(f"Against {other}", said, ["student", "asked", *(TITLES[name] for name in COMPARED)], rows)


def _places(told: Outcome) -> Sheet:
    rows = [
        [student, place, *(interval(told.placed(student, place, name)) for name in PLACED)]
        for student in told.students
        for place in PLACES
        if told.placed(student, place, PLACED[1])
    ]
    said = (
        f"With the oracle, k = {told.k}: whether its first passage was the first of all that were shown, the second, or a later one. "
        "Other articles stand at each place, so compare students, or widely different figures."
    )
    return Sheet("Where the oracle stood", said, ["student", "place", *(TITLES[name] for name in PLACED)], rows)


def _failures(told: Outcome) -> Sheet:
    rows = [
        [student, named(cases.Case(setting, k)), error, f"{count:,}"]
        for (student, setting, k, error), count in sorted(told.failures().items())
    ]
    said = "Requests without an answer. They are in every figure above, as wrong; the next run asks again those that may pass."
    return Sheet("Failed", said, ["student", "asked", "class", "answers"], rows)


def interval(metric: Metric | None) -> str:
    """Say a figure with its interval."""
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]" if metric else DASH


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
