"""Scored rows -> figures of each student, setting and k, with 95 % intervals. Pure NumPy.

Articles are resampled with replacement, all of an article's rows together and every figure by the same resamples: a paired
bootstrap (Efron and Tibshirani 1993, chapter 13: percentiles). So the interval of a difference of two students is that of the
same articles. Every figure is a function of sums over articles, so a resample is one row of a matrix product.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raft_spark import config
from raft_spark.common import hashing
from raft_spark.common.hashing import Stream
from raft_spark.lake import schemas
from raft_spark.lake.filesystem import Storage
from raft_spark.lake.parquet import DataFile
from raft_spark.scoring import conditions, scores

Array = NDArray[np.float64]
LABELS = ("yes", "no", "maybe")
POSITIONS = ("first", "second", "third or later")  # where the first passage of the oracle stood
BASELINE = "baseline"  # the setting of answers without a model
LOW, HIGH = 2.5, 97.5  # percentiles


@dataclass(frozen=True, slots=True)
class MetricDefinition:
    """`parts` makes numbers of rows, shape (rows, c); the figure is `of` their sums over articles, shape (..., c) -> (...)."""

    parts: Callable[[Mapping[str, NDArray[np.generic]]], Array]
    of: Callable[[Array], Array]


def ratio(sums: Array) -> Array:
    """Return the first sum by the second, NaN where that is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sums[..., 1] > 0, sums[..., 0] / sums[..., 1], np.nan)


def macro_f1(sums: Array) -> Array:
    """Return the mean F1 of the labels that occur, from (truth x said) counts of LABELS and, said, of none of them: scikit-learn's
    f1_score(average="macro"), as in PubMedQA's evaluation, with an answer that says none wrong in its own label only.
    """
    counts = sums.reshape(*sums.shape[:-1], len(LABELS), len(LABELS) + 1)
    hits = np.diagonal(counts[..., :-1], axis1=-2, axis2=-1)
    both = counts.sum(axis=-1) + counts[..., :-1].sum(axis=-2)
    each = np.where(both > 0, 2 * hits / np.maximum(both, 1), 0)
    return ratio(np.stack([each.sum(axis=-1), (both > 0).sum(axis=-1)], axis=-1))


def _mean(column: str) -> MetricDefinition:
    return MetricDefinition(lambda rows: _pair(rows[column], np.ones(len(rows[column]))), ratio)


def _share(part: str, whole: str) -> MetricDefinition:
    return MetricDefinition(lambda rows: _pair(rows[part], rows[whole]), ratio)


def _pair(first: NDArray[np.generic], second: NDArray[np.generic]) -> Array:
    return np.stack([first, second], axis=-1).astype(np.float64)


def _confusion_terms(rows: Mapping[str, NDArray[np.generic]]) -> Array:
    truth = [rows["final_decision"] == label for label in LABELS]
    said = [rows["decision"] == label for label in LABELS]
    said.append(~np.logical_or.reduce(said))
    return np.stack([true & told for true in truth for told in said], axis=-1).astype(np.float64)


DEFINITIONS: Mapping[str, MetricDefinition] = {
    "accuracy": _share("correct", "labelled"),
    "macro_f1": MetricDefinition(_confusion_terms, macro_f1),
    "decided": _mean("decided"),
    "token_f1": _share("token_f1", "referenced"),
    "rouge_l": _share("rouge_l", "referenced"),
    "bleu": _share("bleu", "referenced"),
    "chrf": _share("chrf", "referenced"),
    "abstained": _mean("abstained"),
    "quoting": _mean("quoting"),
    "quotes_of_oracle": _share("quotes_of_oracle", "quotes"),
    "quotes_of_distractors": _share("quotes_of_distractors", "quotes"),
    "faithfulness": _share("faithfulness", "faithfulness_known"),
    "relevance": _share("relevance", "relevance_known"),
    "unjudged": _mean("unjudged"),
    "cut": _mean("cut"),
    "failed": _mean("failed"),
}
DECISION_METRICS, OVERLAP_METRICS = ("accuracy", "macro_f1"), ("token_f1", "rouge_l", "bleu", "chrf")
POSITION_METRICS = ("accuracy", "rouge_l")  # figures by where the oracle stood


def read_rows(place: Storage, files: Sequence[DataFile]) -> pa.Table:
    """Return the scored rows of a version, by article: all of them, about 1 kB each."""
    found = [pq.read_table(pa.BufferReader(place.read(file.path) or b"")) for file in files]
    empty = schemas.SCHEMAS[schemas.EVALUATION].empty_table()
    order = [(name, "ascending") for name in ("pubid", "student", "setting", "distractors")]
    return pa.concat_tables([empty, *found]).sort_by(order)


def compute_metrics(rows: pa.Table, conf: config.Config) -> pa.Table:
    """Return all figures, in the schema schemas.METRICS; base.seed decides the resamples."""
    columns = to_columns(rows)
    pubids, article = np.unique(columns["pubid"], return_inverse=True)
    drawn = resample_counts(len(pubids), conf.evaluation.resamples, conf.base.seed)
    measured = list(_compute_rows(columns, article, drawn, conf))
    return pa.Table.from_pylist([{"articles": len(pubids), **row} for row in measured], schemas.METRICS)


def to_columns(rows: pa.Table) -> dict[str, NDArray[np.generic]]:
    """Return the columns that figures are made of."""
    texts = {"question", "answer", "reference", "quoted"}
    taken = [field.name for field in rows.schema if field.name not in texts]
    columns = {name: rows[name].to_numpy(zero_copy_only=False) for name in taken}
    truth = np.array([(decision or "").lower() for decision in columns["final_decision"]], object)
    said = np.array([decision or "" for decision in columns["decision"]], object)
    labelled = truth != ""
    own = {"final_decision": truth, "decision": said, "labelled": labelled, "correct": labelled & (truth == said)}
    own["referenced"] = np.array([bool((text or "").strip()) for text in rows["reference"].to_pylist()], bool)
    for name in scores.JUDGED:
        value = columns[name].astype(np.float64)
        own |= {name: np.nan_to_num(value), f"{name}_known": ~np.isnan(value)}
    failed, unjudged = (
        np.array([found is not None for found in columns[name]], bool) for name in ("error_class", "judge_error")
    )
    said_or_not = {"decided": said != "", "quoting": columns["quotes"] > 0, "failed": failed, "unjudged": unjudged}
    return {**columns, **own, **said_or_not}


def resample_counts(articles: int, resamples: int, seed: int) -> NDArray[np.float32]:
    """Return how often each article is in each resample, shape (resamples, articles)."""
    slots, limits = np.arange(articles), np.full(articles, articles)
    drawn = np.empty((resamples, articles), np.float32)
    for number in range(resamples):
        taken = hashing.randbelow(hashing.hash64(seed, Stream.RESAMPLE, number, slots), limits)
        drawn[number] = np.bincount(taken, minlength=articles)
    return drawn


def _compute_rows(
    columns: Mapping[str, NDArray[np.generic]],
    article: NDArray[np.int64],
    drawn: NDArray[np.float32],
    conf: config.Config,
) -> Iterator[dict[str, object]]:
    sample, students = _Resampler(columns, article, drawn), conf.evaluation.students
    keys = zip(columns["student"], columns["setting"], columns["distractors"], strict=True)
    before = {student: students[:number] for number, student in enumerate(students)}
    groups = sorted({(str(student), str(setting), int(k)) for student, setting, k in keys})
    for student, setting, k in groups:
        at = {"student": student, "setting": setting, "distractors": k}
        for name in _metrics_of(student, setting):
            own = sample.of(name, **at)
            yield {**at, "figure": name, **_interval(own)}
            for other in before.get(student, ()):
                less = own - sample.of(name, **{**at, "student": other})
                yield {**at, "against": other, "figure": name, **_interval(less)}
    for student, name, place in itertools.product(students, POSITION_METRICS, POSITIONS):
        at = {"student": student, "setting": "with", "distractors": conditions.comparison_k(conf), "place": place}
        yield {**at, "figure": name, **_interval(sample.of(name, **at))}


def _metrics_of(student: str, setting: str) -> Sequence[str]:
    if setting != BASELINE:
        return list(DEFINITIONS)
    return DECISION_METRICS if student == scores.MAJORITY else OVERLAP_METRICS


class _Resampler:
    """Rows with the article each belongs to, and the resamples of the articles."""

    def __init__(
        self, columns: Mapping[str, NDArray[np.generic]], article: NDArray[np.int64], drawn: NDArray[np.float32]
    ) -> None:
        position = np.nan_to_num(columns["position"].astype(float), nan=-1).astype(int)
        place = np.where(position < 0, "", np.array(POSITIONS, object)[np.minimum(position, len(POSITIONS) - 1)])
        self._columns, self._article, self._drawn = {**columns, "place": place}, article, drawn

    def of(self, figure: str, **which: object) -> Array:
        """Return a figure of the rows that have these values: first of all articles, then of each resample."""
        mask = np.logical_and.reduce([self._columns[name] == value for name, value in which.items()])
        numbers = DEFINITIONS[figure].parts({name: values[mask] for name, values in self._columns.items()})
        sums = np.zeros((self._drawn.shape[1], numbers.shape[1]))
        np.add.at(sums, self._article[mask], numbers)
        return DEFINITIONS[figure].of(np.concatenate([sums.sum(axis=0)[None], self._drawn @ sums]))


def _interval(values: Array) -> dict[str, float | None]:
    """Return a figure and its interval; of nothing there is neither."""
    resampled = values[1:][~np.isnan(values[1:])]
    if np.isnan(values[0]) or not len(resampled):
        return {"value": None, "low": None, "high": None}
    low, high = np.percentile(resampled, [LOW, HIGH])
    return {"value": float(values[0]), "low": float(low), "high": float(high)}
