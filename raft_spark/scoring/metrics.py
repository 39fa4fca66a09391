"""Scored rows -> metrics of each student, setting and k, with 95 % intervals, in NumPy.

Intervals that need it come from a paired bootstrap (Efron and Tibshirani 1993, chapter 13): articles are resampled with
replacement, all rows of an article together, and every metric uses the same resamples. The interval of a difference of two
students is therefore computed on the same articles. Every metric is a function of sums over articles, so all resamples of a
metric are one matrix product.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

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
from raft_spark.scoring import conditions, intervals, scores
from raft_spark.scoring.conditions import Condition
from raft_spark.scoring.intervals import Array, Kind, Sample

LABELS = ("yes", "no", "maybe")
POSITIONS = ("first", "second", "third or later")  # of the oracle's first passage among the passages shown
FOUND = ("found", "not found")  # the oracle, among the passages retrieved
BASELINE = "baseline"  # the setting of answers that no model gave
RETRIEVER = "the retriever"  # named as the student of the metrics of what it found


@dataclass(frozen=True, slots=True)
class MetricDefinition:
    """How a metric is computed: `terms` of each row, shape (rows, c), are summed over articles; `combine` maps the
    sums, shape (..., c), to the metric, shape (...).
    """

    terms: Callable[[Mapping[str, NDArray[np.generic]]], Array]
    combine: Callable[[Array], Array]
    kind: Kind = "mean"


def ratio(sums: Array) -> Array:
    """Return the first sum divided by the second, NaN where the second is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sums[..., 1] > 0, sums[..., 0] / sums[..., 1], np.nan)


def macro_f1(sums: Array) -> Array:
    """Return the mean F1 over the labels that occur, from the flattened confusion matrix of _confusion_terms.

    This is scikit-learn's f1_score(average="macro"), as in PubMedQA's evaluation. An answer without a decision counts
    as a false negative of its true label, and as a false positive of no label.
    """
    counts = sums.reshape(*sums.shape[:-1], len(LABELS), len(LABELS) + 1)
    hits = np.diagonal(counts[..., :-1], axis1=-2, axis2=-1)
    both = counts.sum(axis=-1) + counts[..., :-1].sum(axis=-2)
    each = np.where(both > 0, 2 * hits / np.maximum(both, 1), 0)
    return ratio(np.stack([each.sum(axis=-1), (both > 0).sum(axis=-1)], axis=-1))


def _of_answers(column: str, kind: Kind = "share") -> MetricDefinition:
    return MetricDefinition(lambda rows: _pair(rows[column], np.ones(len(rows[column]))), ratio, kind)


def _share(part: str, whole: str, kind: Kind = "mean") -> MetricDefinition:
    return MetricDefinition(lambda rows: _pair(rows[part], rows[whole]), ratio, kind)


def _pair(first: NDArray[np.generic], second: NDArray[np.generic]) -> Array:
    return np.stack([first, second], axis=-1).astype(np.float64)


def _confusion_terms(rows: Mapping[str, NDArray[np.generic]]) -> Array:
    """Return each row's confusion matrix, flattened: true label (LABELS) x predicted label (LABELS, then none of them)."""
    truth = [rows["final_decision"] == label for label in LABELS]
    predicted = [rows["decision"] == label for label in LABELS]
    predicted.append(~np.logical_or.reduce(predicted))
    return np.stack([true & guess for true in truth for guess in predicted], axis=-1).astype(np.float64)


DEFINITIONS: Mapping[str, MetricDefinition] = {
    "accuracy": _share("correct", "labelled", "share"),
    "macro_f1": MetricDefinition(_confusion_terms, macro_f1),
    "decided": _of_answers("decided"),
    "token_f1": _share("token_f1", "referenced"),
    "squad_f1": _share("squad_f1", "referenced"),
    "rouge_l": _share("rouge_l", "referenced"),
    "bleu": _share("bleu", "referenced"),
    "chrf": _share("chrf", "referenced"),
    "abstained": _of_answers("abstained"),
    "quoting": _of_answers("quoting"),
    "quotes_of_oracle": _share("quotes_of_oracle", "quotes", "clustered"),
    "quotes_of_distractors": _share("quotes_of_distractors", "quotes", "clustered"),
    "citations_of_oracle": _share("citations_of_oracle", "citations", "clustered"),
    "faithfulness": _share("faithfulness", "faithfulness_known"),
    "relevance": _share("relevance", "relevance_known"),
    "unjudged": _of_answers("unjudged"),
    "cut": _of_answers("cut"),
    "failed": _of_answers("failed"),
}
RETRIEVER_METRICS: Mapping[str, MetricDefinition] = {
    "recall": _of_answers("found"),
    "mrr": _of_answers("reciprocal_rank", "mean"),
}
DECISION_METRICS, OVERLAP_METRICS = ("accuracy", "macro_f1"), ("token_f1", "squad_f1", "rouge_l", "bleu", "chrf")
POSITION_METRICS = ("accuracy", "rouge_l")  # also computed by the position of the oracle
FOUND_METRICS = ("accuracy", "rouge_l", "abstained")  # also computed by whether the oracle was retrieved
PLACES = {"with": (POSITION_METRICS, POSITIONS), conditions.RETRIEVED: (FOUND_METRICS, FOUND)}
LOSSES = {"accuracy_lost": "accuracy", "rouge_l_lost": "rouge_l", "token_f1_lost": "token_f1"}  # to distractors


def read_rows(place: Storage, files: Sequence[DataFile]) -> pa.Table:
    """Return all scored rows of a version, sorted by article, student, setting and k; about 1 kB each."""
    tables = [pq.read_table(pa.BufferReader(place.read(file.path) or b"")) for file in files]
    empty = schemas.SCHEMAS[schemas.EVALUATION].empty_table()
    order = [(name, "ascending") for name in ("pubid", "student", "setting", "distractors")]
    return pa.concat_tables([empty, *tables]).sort_by(order)


def compute_metrics(rows: pa.Table, conf: config.Config) -> pa.Table:
    """Return all metrics, in the schema schemas.METRICS. base.seed is the seed of the resamples."""
    columns = to_columns(rows)
    pubids, article = np.unique(columns["pubid"], return_inverse=True)
    counts = resample_counts(len(pubids), conf.evaluation.resamples, conf.base.seed)
    computed = _correct(list(_compute_rows(columns, article, counts, conf)))
    return pa.Table.from_pylist([{"articles": len(pubids), **row} for row in computed], schemas.METRICS)


def to_columns(rows: pa.Table) -> dict[str, NDArray[np.generic]]:
    """Return the columns that metrics are computed from, as arrays."""
    texts = {"question", "answer", "reference", "quoted"}
    names = [field.name for field in rows.schema if field.name not in texts]
    columns = {name: rows[name].to_numpy(zero_copy_only=False) for name in names}
    truth = np.array([(decision or "").lower() for decision in columns["final_decision"]], object)
    decision = np.array([decision or "" for decision in columns["decision"]], object)
    labelled = truth != ""
    correct = labelled & (truth == decision)
    derived = {"final_decision": truth, "decision": decision, "labelled": labelled, "correct": correct}
    derived["referenced"] = np.array([bool((text or "").strip()) for text in rows["reference"].to_pylist()], bool)
    for name in scores.JUDGE_METRICS:
        value = columns[name].astype(np.float64)
        derived |= {name: np.nan_to_num(value), f"{name}_known": ~np.isnan(value)}
    rank = columns["position"].astype(np.float64) + 1
    derived |= {"found": ~np.isnan(rank), "reciprocal_rank": np.nan_to_num(1 / rank)}
    failed, unjudged = (
        np.array([error is not None for error in columns[name]], bool) for name in ("error_class", "judge_error")
    )
    derived |= {"decided": decision != "", "quoting": columns["quotes"] > 0, "failed": failed, "unjudged": unjudged}
    return {**columns, **derived}


def resample_counts(articles: int, resamples: int, seed: int) -> NDArray[np.float32]:
    """Return how often each resample contains each article, shape (resamples, articles)."""
    slots, limits = np.arange(articles), np.full(articles, articles)
    counts = np.empty((resamples, articles), np.float32)
    for number in range(resamples):
        drawn = hashing.randbelow(hashing.hash64(seed, Stream.RESAMPLE, number, slots), limits)
        counts[number] = np.bincount(drawn, minlength=articles)
    return counts


def _compute_rows(
    columns: Mapping[str, NDArray[np.generic]],
    article: NDArray[np.int64],
    counts: NDArray[np.float32],
    conf: config.Config,
) -> Iterator[dict[str, Any]]:
    resampler, asked = _Resampler(columns, article, counts, conf), conf.evaluation
    keys = zip(columns["student"], columns["setting"], columns["distractors"], strict=True)
    cases = sorted({(str(student), str(setting), int(k)) for student, setting, k in keys})
    for recipe, students in asked.recipes.items():
        cases += [(recipe, setting, k) for student, setting, k in cases if student == students[0]]
    earlier = {name: names[:at] for names in (asked.students, [*asked.recipes]) for at, name in enumerate(names)}
    for name, setting, k in cases:
        seeds = len(asked.recipes[name]) if name in asked.recipes else None
        at = {"student": name, "setting": setting, "distractors": k, "seeds": seeds}
        for figure in _figures_of(name, setting, conf):
            own = resampler.figure(figure, name, setting, k)
            estimate = intervals.of_difference if figure in LOSSES else intervals.of_metric
            yield {**at, "figure": figure, **estimate(own)}
            for other in earlier.get(name, ()):
                difference = intervals.of_difference(own - resampler.figure(figure, other, setting, k))
                yield {**at, "against": other, "figure": figure, **difference}
    yield from _by_place(resampler, asked.students, Condition("with", conditions.comparison_k(conf)))
    for condition in conditions.all_conditions(asked):
        if condition.setting == conditions.RETRIEVED:
            yield from _of_retriever(resampler, asked.students[0], condition)
            yield from _by_place(resampler, asked.students, condition)


def _by_place(resampler: "_Resampler", students: Sequence[str], condition: Condition) -> Iterator[dict[str, Any]]:
    """Yield metrics of the answers under a condition by where the oracle was."""
    for student, figure, place in itertools.product(students, *PLACES[condition.setting]):
        at = {"student": student, **asdict(condition), "place": place}
        yield {**at, "figure": figure, **intervals.of_metric(resampler.sample(figure, **at))}


def _of_retriever(resampler: "_Resampler", student: str, condition: Condition) -> Iterator[dict[str, Any]]:
    """Yield the metrics of the retriever, from the passages that a student is shown; all are shown the same."""
    at = asdict(condition)
    for figure in RETRIEVER_METRICS:
        found = resampler.sample(figure, student=student, **at)
        yield {"student": RETRIEVER, **at, "figure": figure, **intervals.of_metric(found)}


def _figures_of(student: str, setting: str, conf: config.Config) -> Sequence[str]:
    if setting == BASELINE:
        return DECISION_METRICS if student == scores.MAJORITY else OVERLAP_METRICS
    has_losses = setting == "with" and "alone" in conf.evaluation.settings
    return [*DEFINITIONS, *(LOSSES if has_losses else ())]


def _correct(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add the p-values corrected for all comparisons of one figure: of students or of recipes, with one another or of losses with 0."""
    families: defaultdict[tuple[str, bool, bool], list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        if row.get("p") is not None:
            families[row["figure"], "against" in row, row["seeds"] is None].append(number)
    corrected: dict[int, float] = {}
    for numbers in families.values():
        corrected |= dict(zip(numbers, intervals.holm([rows[number]["p"] for number in numbers]), strict=True))
    return [{**row, "p_holm": corrected.get(number)} for number, row in enumerate(rows)]


class _Resampler:
    """Computes metrics of selected rows over all articles and over each resample of the articles."""

    def __init__(
        self,
        columns: Mapping[str, NDArray[np.generic]],
        article: NDArray[np.int64],
        counts: NDArray[np.float32],
        conf: config.Config,
    ) -> None:
        position = np.nan_to_num(columns["position"].astype(float), nan=-1).astype(int)
        place = np.where(position < 0, "", np.array(POSITIONS, object)[np.minimum(position, len(POSITIONS) - 1)])
        found = np.where(columns["found"], *FOUND)
        place = np.where(columns["setting"] == conditions.RETRIEVED, found, place)
        self._columns, self._article, self._counts = {**columns, "place": place}, article, counts
        self._recipes, self._seed = conf.evaluation.recipes, conf.base.seed

    def figure(self, figure: str, name: str, setting: str, k: int) -> Sample:
        """Return a metric, or a loss, of a student or of a recipe: the mean of its students."""
        if name in self._recipes:
            samples = [self.figure(figure, student, setting, k) for student in self._recipes[name]]
            return intervals.over_seeds(samples, self._seed, [*self._recipes].index(name))
        if figure in LOSSES:
            alone, shown = (
                self.sample(LOSSES[figure], student=name, setting=setting, distractors=k)
                for setting, k in (("alone", 0), (setting, k))
            )
            return alone - shown
        return self.sample(figure, student=name, setting=setting, distractors=k)

    def sample(self, name: str, **values: object) -> Sample:
        """Return a metric of the rows with these values."""
        mask = np.logical_and.reduce([self._columns[column] == value for column, value in values.items()])
        metric = {**DEFINITIONS, **RETRIEVER_METRICS}[name]
        terms = metric.terms({column: array[mask] for column, array in self._columns.items()})
        sums = np.zeros((self._counts.shape[1], terms.shape[1]))
        np.add.at(sums, self._article[mask], terms)
        resampled = metric.combine(np.concatenate([sums.sum(axis=0)[None], self._counts @ sums]))
        return Sample(resampled, np.empty(0) if metric.kind == "mean" else ratio(sums), metric.kind)
