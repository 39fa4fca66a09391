"""articles -> evaluation: ask students the questions of the test split, with and without the oracle, and score what they answer.

    ROOT/evaluation/data/day=.../*.parquet               answers, stored as those of completions: nothing is paid twice
    versions/ID/data/split=test/part-00000.parquet       a row an article, student, setting and k: the answer and its scores
    versions/ID/metrics/metrics.parquet                  figures with 95 % intervals, also of each student less each before it
    versions/ID/evaluation.md, evaluation.html           the same to be read; the page where matplotlib is installed

A request that fails is a row with its class: wrong, and counted, never dropped. The next run asks it again.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyspark import StorageLevel, TaskContext
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from raft_spark import config
from raft_spark.common import ids
from raft_spark.endpoints.base import Request, retried_classes
from raft_spark.errors import EndpointError, InputError, StoppedError
from raft_spark.inference import realtime, requests
from raft_spark.lake import dataframes, parquet, schemas, session, tables
from raft_spark.lake.filesystem import Storage
from raft_spark.lake.tasks import map_in_arrow, worker_errors
from raft_spark.monitoring import progress, run_state
from raft_spark.recipe import corpus, corpus_files, prompts
from raft_spark.scoring import conditions, examples, judge, metrics, page, scores, summary

SCORING_VERSION = 4  # a change of how answers are scored makes other versions
DATA, METRICS, PAGE = f"data/split={conditions.SPLIT}", "metrics/metrics.parquet", "evaluation.html"
_SCHEMA = schemas.SCHEMAS[schemas.EVALUATION]


@dataclass(frozen=True)
class EvaluationTask:
    """What every task that scores gets; `majority` is the decision of most articles, None where none has one."""

    at: Storage
    style: str
    majority: str | None
    row_group_rows: int
    is_judged: bool


def run(conf: config.Config) -> tables.Version:
    """Ask every student what was never asked, score, report; return the version that is current then.

    Raises InputError when the test split is too small or a package is missing; EndpointError when an endpoint refuses the
    job or is dead, StoppedError when a signal or a limit ended the run: in both cases after every answer is stored.
    """
    articles = tables.require(conf.lake, schemas.ARTICLES)
    identity = tables.identity(schemas.EVALUATION, _settings(conf), [articles.id])
    made = tables.find_existing(conf.lake, schemas.EVALUATION, identity)
    if made and not _to_ask(made.counts, conf) and (_has_page(made) or not _can_draw()):
        return made
    _refuse_without_packages()
    spark = session.start(conf, "evaluation: look up answers")
    new = tables.open_draft(conf.lake, schemas.EVALUATION, identity)
    with worker_errors():
        pieces = _pieces(conf, articles)
        asked, up_to = cases(spark, conf, articles, new.id)
        told = _ask(spark, conf, asked)
        said = with_answers(spark, asked, conf)
        if conf.evaluation.judge:
            said = _judged(spark, conf, said, told)
        majority, judge = _majority(pieces, up_to), bool(conf.evaluation.judge)
        scoring = EvaluationTask(new.storage, conf.completions.style, majority, conf.lake.row_group_rows, judge)
        with progress.spark_tasks(spark, "evaluation: score answers"):
            files = dataframes.collect_files(build(said, scoring))
    rows = metrics.read_rows(new.storage, files)
    files += _reported(new, summary.EvaluationSummary(conf, new.id, rows, metrics.compute_metrics(rows, conf)), pieces)
    return tables.publish(new, conf, files, {schemas.ARTICLES: articles}, _counts(rows))


def _settings(conf: config.Config) -> dict[str, Any]:
    """Return all that figures depend on, beside the articles."""
    return {
        **conf.evaluation.model_dump(),
        **conf.completions.model_dump(include={"style", "decision"}),
        "models": [conf.endpoints[name].model for name in conf.evaluation.students],
        "prompt": prompts.VERSIONS[conf.completions.style],
        "judge": [conf.endpoints[conf.evaluation.judge].model, prompts.VERSIONS["judge"]]
        if conf.evaluation.judge
        else [],
        "base": [conf.base.seed, conf.base.distractors],
        "scores": SCORING_VERSION,
    }


def _refuse_without_packages() -> None:
    missing = [name for name in scores.PACKAGES if not find_spec(name)]
    if missing:
        msg = f"answers are scored with {' and '.join(missing)}: pip install 'raft-spark[evaluation]'"
        raise InputError(msg)


def _pieces(conf: config.Config, articles: tables.Version) -> list[dict[str, Any]]:
    """Return the pieces of the test split."""
    return [piece for piece in tables.row_groups(conf.lake, articles) if piece["split"] == conditions.SPLIT]


def cases(spark: SparkSession, conf: config.Config, articles: tables.Version, name: str) -> tuple[DataFrame, int]:
    """Return all that students are asked, in the schema conditions.CASES, lazy, and the hash of the last article. Brings the
    passages of the test split to every machine, under this name; no other split is needed.
    """
    pieces = _pieces(conf, articles)
    if not pieces:
        raise InputError("there is no article in the test split: articles.test_share must be above 0")
    folder = corpus_files.make_folder(spark)
    corpus.build(pieces, articles.counts["numbers"], folder, with_texts=True)
    index = corpus.map_index(f"{folder}/{corpus.INDEX}")[conditions.SPLIT]
    conditions.check_split_size(index, conf.evaluation)
    models = {student: conf.endpoints[student].model for student in conf.evaluation.students}
    work = conditions.ConditionTask(
        conf, corpus_files.distribute(spark, folder, name), models, conditions.last_hash(index, conf.evaluation.rows)
    )
    return conditions.build(
        dataframes.assign_tasks(spark, pieces, spark.sparkContext.defaultParallelism), work
    ), work.last_hash


def _ask(spark: SparkSession, conf: config.Config, asked: DataFrame) -> run_state.Run:
    """Ask every student what the store does not know, one after the other; return the run that did, whose limits hold for all.
    Raises EndpointError and StoppedError, as `run` does.
    """
    missing = missing_from_students(spark, conf, asked)
    counts = {row["student"]: row["count"] for row in missing.groupBy("student").count().collect()}
    now = ids.now()
    told = run_state.Run(ids.new_id(), "", "", now, now, total=0, stage=schemas.EVALUATION)
    for student in conf.evaluation.students:
        if student in counts:
            mine = missing.where(F.col("student") == student)
            told = _ask_one(
                spark,
                conditions.endpoint_settings(conf, student),
                mine,
                counts[student],
                conditions.build_request,
                told,
            )
    missing.unpersist()
    return told


def _judged(spark: SparkSession, conf: config.Config, said: DataFrame, told: run_state.Run) -> DataFrame:
    """Ask the judge what the store does not know, and bring each answered case what it said, `judged`. Raises as `_ask` does."""
    own, missing = judge.endpoint_settings(conf), missing_from_judge(spark, conf, said)
    count = missing.count()
    if count:
        _ask_one(spark, own, missing, count, judge.build_request, told)
    missing.unpersist()
    found = requests.look_up(
        judge.build(said, conf), dataframes.stored_answers(spark, conf.lake, schemas.EVALUATION), own.completions
    )
    return said.join(judge.collect_replies(found), judge.CASE_KEYS, "left")


def missing_from_students(spark: SparkSession, conf: config.Config, asked: DataFrame) -> DataFrame:
    """Return what students are to be asked: each request once that the store cannot answer, persisted."""
    own = conditions.endpoint_settings(
        conf, conf.evaluation.students[0]
    )  # in all that is looked up, students are alike
    return _missing(spark, own, asked.drop("article_passages", "reference", "final_decision"))


def missing_from_judge(spark: SparkSession, conf: config.Config, said: DataFrame) -> DataFrame:
    """Return what the judge is to be asked of these answers: each request once that the store cannot answer, persisted."""
    return _missing(spark, judge.endpoint_settings(conf), judge.build(said, conf))


def _missing(spark: SparkSession, own: config.Config, wanted: DataFrame) -> DataFrame:
    order = F.struct("pubid", "setting", "distractors")
    first = F.min_by(F.struct(*(name for name in wanted.columns if name != "key")), order).alias("first")
    distinct = wanted.groupBy("key").agg(first).select("key", "first.*")
    known = requests.look_up(distinct, dataframes.stored_answers(spark, own.lake, schemas.EVALUATION), own.completions)
    return known.where(requests.needs_asking(own.completions)).select(*distinct.columns).persist(StorageLevel.DISK_ONLY)


def _ask_one(
    spark: SparkSession,
    conf: config.Config,
    missing: DataFrame,
    count: int,
    worded: Callable[..., Request],
    told: run_state.Run,
) -> run_state.Run:
    """Ask the student, or the judge, that stands in the teacher's place; return the run, on top of what it had done before."""
    name, model = conf.completions.endpoint, conf.teacher.model
    told = replace(told, endpoint=name, model=model, total=told.total + count)
    told = realtime.ask(spark, missing, conf, told, partial(worded, conf=conf.completions, model=model))
    stored = f"{told.answered} answers are stored, and a rerun asks only the others"
    if told.state == "failed":
        msg = f"endpoint {name!r} {told.reason}; {stored}"
        raise EndpointError(msg)
    if told.state == "stopped":
        msg = f"{told.reason}; {stored}"
        raise StoppedError(msg)
    return told


def with_answers(spark: SparkSession, asked: DataFrame, conf: config.Config) -> DataFrame:
    """Bring each case its `answer`, null where the request failed, and the class of its `last_error`; lazy."""
    own = conditions.endpoint_settings(conf, conf.evaluation.students[0])
    return requests.look_up(asked, dataframes.stored_answers(spark, conf.lake, schemas.EVALUATION), own.completions)


def build(rows: DataFrame, work: EvaluationTask) -> DataFrame:
    """Answered cases -> the files of evaluation, in the schema schemas.FILES; lazy."""
    spread = rows.repartition("pubid").sortWithinPartitions("pubid", "student", "setting", "distractors")
    return map_in_arrow(spread, partial(_write, work=work), schemas.FILES)


def _write(batches: Iterator[pa.RecordBatch], work: EvaluationTask) -> Iterator[pa.RecordBatch]:
    context = TaskContext.get()
    rows = (row for batch in batches for row in batch.to_pylist())
    with parquet.PartitionedWriter(
        work.at, _SCHEMA, context.partitionId() if context else 0, work.row_group_rows
    ) as written:
        for _, own in groupby(rows, lambda row: row["pubid"]):
            written.write(DATA, pa.Table.from_pylist(list(_scored(list(own), work)), _SCHEMA))
    yield parquet.files_batch(written.files)


def _scored(rows: list[Mapping[str, Any]], work: EvaluationTask) -> Iterator[dict[str, Any]]:
    """Score all answers about one article, and beside them those that need no model."""
    for row in rows:
        said, judged = row["answer"] and row["answer"]["completion"], dict(row.get("judged") or ())
        told = judge.score(row["question"], said, row["passages"], judged) if work.is_judged else {}
        yield scored(row, row["answer"], work.style) | told
    first = rows[0]
    bare = {**first, "setting": metrics.BASELINE, "distractors": 0, "passages": [], "last_error": None}
    for name, answer in scores.baseline_answers(
        first["question"], first["article_passages"], first["reference"] or "", work.majority
    ).items():
        yield scored({**bare, "student": name}, {"completion": answer, "finish_reason": "stop"}, "answer")


def scored(row: Mapping[str, Any], answer: Mapping[str, Any] | None, style: str) -> dict[str, Any]:
    """Return the row of the table for a case and its answer."""
    said = answer["completion"] if answer else None
    oracle = [document["oracle"] for document in row["passages"]]
    others = [document["text"] for document in row["passages"] if not document["oracle"]]
    kept = ("pubid", "student", "setting", "distractors", "question", "reference", "final_decision")
    return {
        **{name: row[name] for name in kept},
        "shown": len(oracle),
        "position": oracle.index(True) if any(oracle) else None,
        "answer": said,
        "error_class": None if answer else row["last_error"] or "unavailable",
        "cut": bool(answer and answer["finish_reason"] == "length"),
        **scores.score(said, row["reference"] or "", row["article_passages"], others, style),
    }


def _reported(
    new: tables.Draft, told: summary.EvaluationSummary, pieces: Sequence[Mapping[str, Any]]
) -> Iterator[parquet.DataFile]:
    """Write the figures, and the same to be read; no page where matplotlib is missing, as on EMR."""
    yield parquet.write_file(new.storage, METRICS, told.metrics)
    yield parquet.write_text(new.storage, "evaluation.md", summary.markdown(told))
    if _can_draw():
        html = page.render(told, _shown(pieces, examples.choose_articles(told)))
        yield parquet.write_text(new.storage, PAGE, html)


def _can_draw() -> bool:
    return bool(find_spec("matplotlib") and find_spec("jinja2"))


def _has_page(made: tables.Version) -> bool:
    return any(file.path == PAGE for file in made.files)


def _majority(pieces: Sequence[Mapping[str, Any]], up_to: int) -> str | None:
    """Return the decision that most of the asked articles have; two columns of the test split pass through the driver."""
    counts: Counter[str] = Counter()
    for piece in pieces:
        table = parquet.read_row_group(piece, ["pubid", "final_decision"])
        asked = table.filter(pa.array(conditions.is_selected(table["pubid"].to_numpy(), up_to)))
        counts.update(decision for decision in asked["final_decision"].to_pylist() if decision)
    return max(counts, key=lambda decision: (counts[decision], decision), default=None)


def _shown(pieces: Sequence[Mapping[str, Any]], pubids: list[int]) -> dict[int, list[str]]:
    """Return the passages of some articles, in this order."""
    tables_of_pieces = (parquet.read_row_group(piece, ["pubid", "passages"]) for piece in pieces if pubids)
    wanted = pa.array(pubids, pa.int64())
    found = [row for table in tables_of_pieces for row in table.filter(pc.is_in(table["pubid"], wanted)).to_pylist()]
    return {row["pubid"]: row["passages"] for row in sorted(found, key=lambda row: pubids.index(row["pubid"]))}


def _counts(rows: pa.Table) -> dict[str, Any]:
    """Sum up."""
    failed, unjudged = (Counter(rows[name].drop_null().to_pylist()) for name in ("error_class", "judge_error"))
    of_students = pc.sum(pc.not_equal(rows["setting"], metrics.BASELINE)).as_py()
    return {
        "articles": pc.count_distinct(rows["pubid"]).as_py(),
        "rows": len(rows),
        "answers": of_students - failed.total(),
        "failed": dict(failed),
        "unjudged": dict(unjudged),
    }


def _to_ask(counts: Mapping[str, Any], conf: config.Config) -> int:
    """Return how many answers of a version the next run asks for again."""
    failed = Counter(counts["failed"]) + Counter(counts["unjudged"])
    return sum(failed[name] for name in retried_classes(conf.completions))
