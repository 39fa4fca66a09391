"""articles -> evaluation: ask students the questions of the test split, with and without the oracle, and score the answers.

    ROOT/evaluation/data/day=.../*.parquet               answers, stored like those of completions, so none is paid for twice
    versions/ID/data/split=test/part-00000.parquet       a row for each article, student, setting and k: the answer, its scores
    versions/ID/metrics/metrics.parquet                  metrics with 95 % intervals, and their differences between students or recipes
    versions/ID/evaluation.md, evaluation.html           the metrics to read; the page only if matplotlib is installed

A failed request is a row with its error class. It counts as wrong, and is never dropped; the next run asks it again.
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
from raft_spark.config.templates import Marks
from raft_spark.endpoints import answer_text
from raft_spark.endpoints.base import Request, retried_classes
from raft_spark.errors import EndpointError, InputError, StoppedError
from raft_spark.inference import realtime, remedies, requests, unstored
from raft_spark.lake import dataframes, lease, parquet, schemas, session, tables
from raft_spark.lake.filesystem import Storage
from raft_spark.lake.tasks import map_in_arrow, worker_errors
from raft_spark.monitoring import progress, run_state
from raft_spark.recipe import citations, corpus, corpus_files, prompts, retrieval
from raft_spark.scoring import conditions, examples, judge, metrics, page, scores, summary

SCORING_VERSION = 7  # raise it when scoring changes, so that a new version of the table is made
DATA, METRICS, PAGE = f"data/split={conditions.SPLIT}", "metrics/metrics.parquet", "evaluation.html"
_SCHEMA = schemas.SCHEMAS[schemas.EVALUATION]


@dataclass(frozen=True)
class EvaluationTask:
    """What every Spark task that scores needs. `majority` is the decision of most articles, None if none has a decision."""

    at: Storage
    style: str
    marks: Marks
    majority: str | None
    row_group_rows: int
    is_judged: bool
    cites_passages: bool


def run(conf: config.Config) -> tables.Version:
    """Ask all students the requests without a stored answer, score the answers and report; return the current version.

    Raises ConfigError when `completions.max_spend` is set and nobody knows the price of a student or of the judge. Raises
    InputError when the test split is too small or a package is missing. Raises EndpointError when an endpoint
    refuses the job or stops answering, and StoppedError when a signal or a limit ended the run; in both cases all answers
    that arrived are stored.
    """
    conf.check_max_spend([*conf.evaluation.students, *([conf.evaluation.judge] if conf.evaluation.judge else [])])
    articles = tables.require(conf.lake, schemas.ARTICLES)
    identity = tables.identity(schemas.EVALUATION, _settings(conf), [articles.id])
    complete = _complete_version(conf, identity)
    if complete is not None:
        return complete
    _refuse_without_packages()
    with lease.hold(conf.lake, schemas.EVALUATION) as held:  # another run may have asked while this one waited
        return _complete_version(conf, identity) or _run(conf, held, articles, identity)


def _complete_version(conf: config.Config, identity: str) -> tables.Version | None:
    """Return the version with this identity if it leaves nothing to ask or to draw, else None."""
    existing = tables.find_existing(conf.lake, schemas.EVALUATION, identity)
    is_complete = existing and not _to_ask(existing.counts, conf) and (_has_page(existing) or not _can_draw())
    return existing if is_complete else None


def _run(conf: config.Config, held: lease.Lease, articles: tables.Version, identity: str) -> tables.Version:
    unstored.restore(tables.storage(conf.lake, schemas.EVALUATION))
    spark = session.start(conf, "evaluation: look up answers")
    draft = tables.open_draft(conf.lake, schemas.EVALUATION, identity)
    with worker_errors():
        row_groups = _of_test_split(tables.row_groups(conf.lake, articles))
        all_cases, last_hash = cases(spark, conf, articles, draft.id)
        run = _ask_students(held, conf, all_cases)
        answered = with_answers(spark, all_cases, conf)
        if conf.evaluation.judge:
            answered = _ask_judge(held, conf, answered, run)
        held.require()
        majority, is_judged = _majority(row_groups, last_hash), bool(conf.evaluation.judge)
        asked = conf.completions
        task = EvaluationTask(
            draft.storage,
            asked.style,
            asked.words.marks,
            majority,
            conf.lake.row_group_rows,
            is_judged,
            asked.cites_passages,
        )
        with progress.spark_tasks(spark, "evaluation: score answers"):
            files = dataframes.collect_files(build(answered, task))
    rows = metrics.read_rows(draft.storage, files)
    results = summary.EvaluationSummary(conf, draft.id, rows, metrics.compute_metrics(rows, conf))
    files += _write_reports(draft, results, row_groups)
    return tables.publish(draft, conf, files, {schemas.ARTICLES: articles}, _counts(rows))


def _settings(conf: config.Config) -> dict[str, Any]:
    """Return everything that the metrics depend on, except the articles."""
    judge_endpoint = conf.evaluation.judge
    return {
        **conf.evaluation.model_dump(),
        **conf.completions.model_dump(include={"style", "decision"}),
        "models": [conf.endpoints[name].model for name in conf.evaluation.students],
        **_sent_otherwise(conf),
        **requests.words_otherwise(conf.completions, "student"),
        "prompt": prompts.VERSIONS[conf.completions.style],
        "judge": [conf.endpoints[judge_endpoint].model, prompts.VERSIONS["judge"]] if judge_endpoint else [],
        "base": [conf.base.seed, conf.base.distractors],
        "scores": SCORING_VERSION,
    }


def _sent_otherwise(conf: config.Config) -> dict[str, Any]:
    """Return what is not sent by default to each endpoint that has such settings."""
    names = filter(None, (*conf.evaluation.students, conf.evaluation.judge))
    asked = {name: conditions.endpoint_settings(conf, name).completions for name in names}
    sent = {name: sent for name, completions in asked.items() if (sent := requests.sent_otherwise(completions))}
    return {"sent": sent} if sent else {}


def _refuse_without_packages() -> None:
    missing = [name for name in scores.PACKAGES if not find_spec(name)]
    if missing:
        msg = f"answers are scored with {' and '.join(missing)}: pip install 'raft-spark[evaluation]'"
        raise InputError(msg)


def _of_test_split(row_groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [group for group in row_groups if group["split"] == conditions.SPLIT]


def cases(spark: SparkSession, conf: config.Config, articles: tables.Version, name: str) -> tuple[DataFrame, int]:
    """Return all cases, in the schema conditions.CASES, lazy; and the hash of the last article that is selected.

    The corpus files with the passages of the test split, and the index to search them, are distributed to every machine
    under `name`.
    """
    row_groups = _of_test_split(tables.row_groups(conf.lake, articles))
    if not row_groups:
        raise InputError("there is no article in the test split: articles.test_share must be above 0")
    folder = corpus_files.make_folder(spark)
    parts = _of_test_split(tables.index_row_groups(conf.lake, articles))
    starts = corpus.build_index(row_groups, parts, articles.counts["numbers"], folder)
    corpus_files.write_texts(spark, row_groups, starts, folder)
    index = corpus.map_index(f"{folder}/{corpus.INDEX}")[conditions.SPLIT]
    conditions.check_split_size(index, conf.evaluation)
    if conditions.RETRIEVED in conf.evaluation.settings:
        retrieval.build(row_groups, [retrieval.BM25], folder)
    models = {student: conf.endpoints[student].model for student in conf.evaluation.students}
    last_hash = conditions.last_hash(index, conf.evaluation.rows)
    task = conditions.ConditionTask(conf, corpus_files.distribute(spark, folder, name), models, last_hash)
    tasks = dataframes.assign_tasks(spark, row_groups, spark.sparkContext.defaultParallelism)
    return conditions.build(tasks, task), last_hash


def _ask_students(held: lease.Lease, conf: config.Config, all_cases: DataFrame) -> run_state.Run:
    """Ask the students the missing requests, one student after the other; return the run. Its limits hold for all students.

    Raises EndpointError and StoppedError, as `run` does.
    """
    missing = missing_from_students(all_cases.sparkSession, conf, all_cases)
    counts = {row["student"]: row["count"] for row in missing.groupBy("student").count().collect()}
    now = ids.now()
    run = run_state.Run(ids.new_id(), "", "", now, now, total=0, stage=schemas.EVALUATION)
    for student in conf.evaluation.students:
        if student in counts:
            settings, of_student = (
                conditions.endpoint_settings(conf, student),
                missing.where(F.col("student") == student),
            )
            run = _ask(held, settings, of_student, counts[student], conditions.build_request, run)
    missing.unpersist()
    return run


def _ask_judge(held: lease.Lease, conf: config.Config, answered: DataFrame, run: run_state.Run) -> DataFrame:
    """Ask the judge the missing requests, and add its replies to each answered case in the column `judged`.

    Raises EndpointError and StoppedError, as `run` does.
    """
    spark, settings = answered.sparkSession, judge.endpoint_settings(conf)
    missing = missing_from_judge(spark, conf, answered)
    count = missing.count()
    if count:
        _ask(held, settings, missing, count, judge.build_request, run)
    missing.unpersist()
    replies = _look_up(spark, settings, judge.build(answered, conf))
    return answered.join(judge.collect_replies(replies), judge.CASE_KEYS, "left")


def missing_from_students(spark: SparkSession, conf: config.Config, all_cases: DataFrame) -> DataFrame:
    """Return the requests to the students that have no stored answer, each once; persisted."""
    asked = all_cases.drop("article_passages", "reference", "final_decision")
    return _missing(spark, _any_student_settings(conf), asked)


def missing_from_judge(spark: SparkSession, conf: config.Config, answered: DataFrame) -> DataFrame:
    """Return the requests to the judge about these answers that have no stored reply, each once; persisted."""
    return _missing(spark, judge.endpoint_settings(conf), judge.build(answered, conf))


def _any_student_settings(conf: config.Config) -> config.Config:
    """Return the settings to look up answers with, which are the same for all students."""
    return conditions.endpoint_settings(conf, conf.evaluation.students[0])


def _missing(spark: SparkSession, settings: config.Config, keyed: DataFrame) -> DataFrame:
    order = F.struct("pubid", "setting", "distractors")
    first = F.min_by(F.struct(*(name for name in keyed.columns if name != "key")), order).alias("first")
    distinct = keyed.groupBy("key").agg(first).select("key", "first.*")
    stored = dataframes.stored_answers(spark, settings.lake, schemas.EVALUATION)
    marked = requests.mark_answered(distinct, stored, settings.completions)
    missing = marked.where(requests.is_missing(settings.completions))
    return missing.select(*distinct.columns).persist(StorageLevel.DISK_ONLY)


def _look_up(spark: SparkSession, settings: config.Config, keyed: DataFrame) -> DataFrame:
    stored = dataframes.stored_answers(spark, settings.lake, schemas.EVALUATION)
    return requests.look_up(keyed, stored, settings.completions)


def _ask(
    held: lease.Lease,
    conf: config.Config,
    missing: DataFrame,
    count: int,
    build_request: Callable[..., Request],
    run: run_state.Run,
) -> run_state.Run:
    """Ask one student or the judge, whose endpoint `conf.completions` names; return the run with what it has added.

    Raises EndpointError and StoppedError, as `run` does.
    """
    name, model = conf.completions.endpoint, conf.teacher.model
    begun = replace(run, endpoint=name, model=model, total=run.total + count)
    ended = realtime.ask(held, missing, conf, begun, partial(build_request, conf=conf.completions, model=model))
    if ended.state == "failed":
        raise EndpointError(remedies.failure(conf, ended))
    if ended.state == "stopped":
        msg = f"{ended.reason}; {remedies.stored(ended)}"
        raise StoppedError(msg)
    return ended


def with_answers(spark: SparkSession, all_cases: DataFrame, conf: config.Config) -> DataFrame:
    """Add to each case its `answer`, null if the request failed, and the class of its `last_error`; lazy."""
    return _look_up(spark, _any_student_settings(conf), all_cases)


def build(answered: DataFrame, task: EvaluationTask) -> DataFrame:
    """Score the answered cases; return the files of evaluation, in the schema schemas.FILES; lazy."""
    sorted_rows = answered.repartition("pubid").sortWithinPartitions("pubid", "student", "setting", "distractors")
    return map_in_arrow(sorted_rows, partial(_write, task=task), schemas.FILES)


def _write(batches: Iterator[pa.RecordBatch], task: EvaluationTask) -> Iterator[pa.RecordBatch]:
    context = TaskContext.get()
    task_id = context.partitionId() if context else 0
    rows = (row for batch in batches for row in batch.to_pylist())
    with parquet.PartitionedWriter(task.at, _SCHEMA, task_id, task.row_group_rows) as writer:
        for _, of_article in groupby(rows, lambda row: row["pubid"]):
            writer.write(DATA, pa.Table.from_pylist(list(_score_article(list(of_article), task)), _SCHEMA))
    yield parquet.files_batch(writer.files)


def _score_article(rows: list[Mapping[str, Any]], task: EvaluationTask) -> Iterator[dict[str, Any]]:
    """Score all answers about one article, and the baseline answers that need no model."""
    for row in rows:
        scored = _score(row, row["answer"], task)
        if task.is_judged:
            scored |= judge.score(row["question"], scored["answer"], row["passages"], dict(row.get("judged") or ()))
        yield scored
    first = rows[0]
    baseline = {**first, "setting": metrics.BASELINE, "distractors": 0, "passages": [], "last_error": None}
    answers = scores.baseline_answers(
        first["question"], first["article_passages"], first["reference"] or "", task.majority
    )
    bare = replace(task, style="answer", cites_passages=False)
    for name, text in answers.items():
        yield _score({**baseline, "student": name}, {"completion": text, "finish_reason": "stop"}, bare)


def _score(row: Mapping[str, Any], answer: Mapping[str, Any] | None, task: EvaluationTask) -> dict[str, Any]:
    """Return the row of the table for one case and its answer."""
    completion = answer_text.clean(answer["completion"]).text if answer else None
    cited = citations.cited_numbers(completion or "", task.marks) if task.cites_passages else set()
    scored = citations.remove(completion, task.marks) if completion and task.cites_passages else completion
    is_oracle = [document["oracle"] for document in row["passages"]]
    distractors = [document["text"] for document in row["passages"] if not document["oracle"]]
    copied = ("pubid", "student", "setting", "distractors", "question", "reference", "final_decision")
    return {
        **{name: row[name] for name in copied},
        "shown": len(is_oracle),
        "position": is_oracle.index(True) if any(is_oracle) else None,
        "answer": completion,
        "error_class": None if answer else row["last_error"] or "unavailable",
        "citations": len(cited),
        "citations_of_oracle": sum(place in cited for place, oracle in enumerate(is_oracle, 1) if oracle),
        "cut": bool(answer and answer["finish_reason"] == "length"),
        **scores.score(scored, row["reference"] or "", row["article_passages"], distractors, task.style, task.marks),
    }


def _write_reports(
    draft: tables.Draft, results: summary.EvaluationSummary, row_groups: Sequence[Mapping[str, Any]]
) -> Iterator[parquet.DataFile]:
    """Write the metrics as Parquet and as Markdown; and as a page, unless matplotlib is missing, as on EMR."""
    yield parquet.write_file(draft.storage, METRICS, results.metrics)
    yield parquet.write_text(draft.storage, "evaluation.md", summary.markdown(results))
    if _can_draw():
        html = page.render(results, _passages(row_groups, examples.choose_articles(results)))
        yield parquet.write_text(draft.storage, PAGE, html)


def _can_draw() -> bool:
    return bool(find_spec("matplotlib") and find_spec("jinja2"))


def _has_page(version: tables.Version) -> bool:
    return any(file.path == PAGE for file in version.files)


def _majority(row_groups: Sequence[Mapping[str, Any]], last_hash: int) -> str | None:
    """Return the decision of most selected articles. Two columns of the test split pass through the driver."""
    counts: Counter[str] = Counter()
    for group in row_groups:
        table = parquet.read_row_group(group, ["pubid", "final_decision"])
        selected = table.filter(pa.array(conditions.is_selected(table["pubid"].to_numpy(), last_hash)))
        counts.update(decision for decision in selected["final_decision"].to_pylist() if decision)
    return max(counts, key=lambda decision: (counts[decision], decision), default=None)


def _passages(row_groups: Sequence[Mapping[str, Any]], pubids: list[int]) -> dict[int, list[str]]:
    """Return the passages of these articles, in this order."""
    if not pubids:
        return {}
    chosen = pa.array(pubids, pa.int64())
    row_tables = (parquet.read_row_group(group, ["pubid", "passages"]) for group in row_groups)
    rows = [row for table in row_tables for row in table.filter(pc.is_in(table["pubid"], chosen)).to_pylist()]
    by_pubid = {row["pubid"]: row["passages"] for row in rows}
    return {pubid: by_pubid[pubid] for pubid in pubids}


def _counts(rows: pa.Table) -> dict[str, Any]:
    """Return the counts of the version."""
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
    """Return how many failed answers of a version the next run asks for again."""
    failed = Counter(counts["failed"]) + Counter(counts["unjudged"])
    return sum(failed[name] for name in retried_classes(conf.completions))
