"""row numbers and a seed -> invented articles in the PubMedQA schema, so that demos and tests need no download.

Each row has a unique code, which gives its pubid and the invented name of a compound, programme or marker. The question and
all passages contain the name, so no two rows share a text, and no model knows what a passage reports. All places and
findings are invented too; the words are in vocabulary.toml.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raft_spark.errors import InputError
from raft_spark.sources.vocabulary import (
    ENDINGS,
    FINDINGS,
    GOALS,
    LAYOUTS,
    MEANS,
    NAMES,
    QUANTITIES,
    SCENE,
    SECTIONS,
    SHARES,
    SYLLABLES,
    TOPICS,
    Lexicon,
)

STRINGS = pa.list_(pa.string())
SCHEMA = pa.schema(
    [
        ("pubid", pa.int32()),
        ("question", pa.string()),
        ("context", pa.struct([("contexts", STRINGS), ("labels", STRINGS), ("meshes", STRINGS)])),
        ("long_answer", pa.string()),
        ("final_decision", pa.string()),
    ]
)
FIRST_PUBID = 90_000_001  # far above the numbers PubMed gives out
STRIDE = 5_431_291  # prime, and about 0.618 of NAMES, so that neighbouring rows get different-looking names
NUMBERS_PER_ROW = 64  # a row uses at most 62 random numbers; Philox makes 4 at a time
BATCH_ROWS = 1000  # rows that are Python objects at the same time; more would slow the garbage collector down

Item = TypeVar("Item")


class Facts(dict[str, str | int]):
    """The facts of one article. A fact is drawn when a text first uses it, and then stays the same."""

    __slots__ = ("lexicon", "numbers")

    def __init__(self, known: Mapping[str, str | int], lexicon: Lexicon, numbers: Iterator[int]) -> None:
        """Start with the known facts; the others are drawn from the lexicon."""
        super().__init__(known)
        self.lexicon = lexicon
        self.numbers = numbers

    def __missing__(self, word: str) -> str:
        """Draw the fact for a word; `Word` is the fact for `word` with a capital letter, for the start of a sentence."""
        if word in self.lexicon:
            fact = choose(self.lexicon[word], self.numbers)
            fact = fact.format_map(self) if "{" in fact else fact
        else:
            fact = str(self[word.lower()])
            fact = fact[0].upper() + fact[1:]
        self[word] = fact
        return fact

    def compose(self, slots: Sequence[Sequence[str]]) -> str:
        """Return a text with one sentence of each slot, in the order of the slots."""
        return " ".join([choose(slot, self.numbers) for slot in slots]).format_map(self)


def articles(start: int, stop: int, seed: int) -> pa.RecordBatch:
    """Return rows start..stop-1 as one batch of SCHEMA; row i depends only on the seed and i.

    A row takes about 1.5 kB, and twice that while the batch is made. Raises InputError unless
    0 <= start <= stop <= NAMES (8,788,000).
    """
    if not 0 <= start <= stop <= NAMES:
        message = f"sample rows {start}..{stop} do not exist; 0 <= start <= stop <= {NAMES} is required"
        raise InputError(message)
    ranges = [range(first, min(first + BATCH_ROWS, stop)) for first in range(start, stop, BATCH_ROWS)] or [range(0)]
    return pa.concat_batches([row_batch(rows, seed) for rows in ranges])


def row_batch(rows: range, seed: int) -> pa.RecordBatch:
    """Return a few rows as a batch."""
    numbers = [iter(row.tolist()) for row in random_numbers(rows, seed)]
    codes = [((row + 1) * STRIDE + seed) % NAMES for row in rows]
    return pa.RecordBatch.from_pylist([article(*row) for row in zip(codes, numbers, strict=True)], schema=SCHEMA)


def random_numbers(rows: range, seed: int) -> npt.NDArray[np.uint64]:
    """Return 31-bit random numbers, shape (len(rows), NUMBERS_PER_ROW); the row number sets Philox's counter."""
    source = np.random.Philox(key=seed % 2**64, counter=rows.start * NUMBERS_PER_ROW // 4)
    return source.random_raw(len(rows) * NUMBERS_PER_ROW).reshape(-1, NUMBERS_PER_ROW) >> np.uint64(33)


def article(code: int, numbers: Iterator[int]) -> dict[str, object]:
    """Return one row. Its numbers are drawn first, its other facts when the texts use them."""
    goal, finding = choose(GOALS, numbers), choose(FINDINGS, numbers)
    outcome, subject = choose(goal.outcomes, numbers), choose(goal.subjects, numbers)
    name = compound_name(code)
    known: dict[str, str | int] = {"name": name, "NAME": name.upper(), "verb": goal.verb}
    known |= {"outcome": outcome.noun, "event": outcome.event, "unit": outcome.unit}
    known |= {word: between(low, high, numbers) for word, (low, high) in QUANTITIES.items()}
    known |= trial_figures(goal.sign * between(*finding.effect, numbers), outcome.scale, finding.patients, numbers)
    wording = SHARES if outcome.event else MEANS
    facts = Facts(known, {**SCENE, **subject, **wording, **finding.words}, numbers)
    labels = choose(LAYOUTS, numbers)
    return {
        "pubid": FIRST_PUBID + code,
        "question": facts["question"],
        "context": {
            "contexts": [facts.compose(SECTIONS[label]) for label in labels],
            "labels": labels,
            "meshes": [facts["Disease"], facts["mesh"], *choose(TOPICS, numbers)],
        },
        "long_answer": facts["answer"],
        "final_decision": finding.decision,
    }


def trial_figures(effect: int, scale: float, patients: tuple[int, int], numbers: Iterator[int]) -> dict[str, str | int]:
    """Return the numbers of both groups and the 95 % Wald interval of their difference; a mean is a share times `scale`.

    With at most 220 patients in a group and an effect of at most 6 points, the interval contains zero. With at least 150
    patients and an effect of 20 points it does not. So the decision follows from the numbers in the text.
    """
    n1, n2, rate = between(*patients, numbers), between(*patients, numbers), between(350, 600, numbers) / 1000
    a, b = round(n1 * (rate + effect / 100)), round(n2 * rate)
    p, q = a / n1, b / n2
    value, reference = round(1000 * scale * p), round(1000 * scale * q)  # these and all below are tenths
    margin = round(1960 * scale * math.sqrt(p * (1 - p) / n1 + q * (1 - q) / n2))
    gap = value - reference
    tenths = {"value": value, "reference": reference, "difference": gap, "gap": abs(gap)}
    tenths |= {"low": gap - margin, "high": gap + margin}
    counts: dict[str, str | int] = {"n1": n1, "n2": n2, "n": n1 + n2, "a": a, "b": b}
    return counts | {word: f"{number / 10:.1f}" for word, number in tenths.items()}


def compound_name(code: int) -> str:
    """Return the name of a code, three syllables of two letters and an ending. Each code has another name."""
    rest, last = divmod(code, len(ENDINGS))
    rest, third = divmod(rest, len(SYLLABLES))
    first, second = divmod(rest, len(SYLLABLES))
    return SYLLABLES[first] + SYLLABLES[second] + SYLLABLES[third] + ENDINGS[last]


def choose(options: Sequence[Item], numbers: Iterator[int]) -> Item:
    """Return one of the options."""
    return options[next(numbers) % len(options)]


def between(low: int, high: int, numbers: Iterator[int]) -> int:
    """Return a number from low to high, including both."""
    return low + next(numbers) % (high - low + 1)
