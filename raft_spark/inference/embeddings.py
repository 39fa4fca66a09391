"""articles -> the vectors of all questions and passages: ask an endpoint for those that are not stored.

    ROOT/embeddings/data/day=.../*.parquet    vectors, stored like the answers of completions, so that none is paid for twice

A text is embedded once for each model. A text that the endpoint refuses, for example because it is too long, has no vector;
a failure that may pass ends the run, so that base never depends on it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from raft_spark import config
from raft_spark.common import ids, wording
from raft_spark.config.sending import RequestSettings
from raft_spark.endpoints.base import BodyChanges, Request
from raft_spark.errors import EndpointError, StoppedError
from raft_spark.inference import realtime, remedies, requests, unstored
from raft_spark.lake import dataframes, lease, parquet, schemas, tables
from raft_spark.lake.tasks import map_in_arrow
from raft_spark.monitoring import run_state

COLUMNS = ["pubid", "number", "question", "passages"]  # of articles
_TEXTS = pa.schema([("key", pa.string()), ("pubid", pa.int64()), ("text", pa.string())])


def endpoint_settings(conf: config.Config) -> config.Config:
    """Return settings that ask the endpoint of embeddings in place of the teacher, in real time."""
    name = conf.base.retrieval.endpoint
    sent = {each: getattr(conf.endpoints[name], each) for each in RequestSettings.model_fields}
    update = {"endpoint": name, "mode": "realtime", "max_new_tokens": 0, **sent}
    return conf.model_copy(update={"completions": conf.completions.model_copy(update=update)})


def request_settings(conf: config.Config) -> list[Any]:
    """Return what the vectors depend on: the model, and what its requests have in addition; nothing if none is needed."""
    if not conf.base.embedder:
        return []
    embedder = conf.endpoints[conf.base.embedder]
    return [embedder.model, embedder.parameters]


def build_request(row: Mapping[str, Any], conf: config.Completions, model: str) -> Request:
    """Return the request to embed a row's text."""
    return Request(row["text"], model, {}, BodyChanges(conf.parameters), is_embedding=True)


def ask(spark: SparkSession, conf: config.Config, articles: tables.Version) -> None:
    """Ask for the vectors that the articles need and the store lacks.

    Raises EndpointError when the endpoint refuses the job or stops answering, or when more texts failed than
    `completions.max_failed_share` allows, and StoppedError when a signal, a limit or another run ended the run. In each case
    all vectors that arrived are stored.
    """
    with lease.hold(conf.lake, schemas.EMBEDDINGS) as held:
        unstored.restore(tables.storage(conf.lake, schemas.EMBEDDINGS))
        texts = looked_up(spark, conf, articles).persist(StorageLevel.DISK_ONLY)
        missing, known = texts.agg(F.count("text"), F.count_if("is_answered")).collect()[0]
        if missing:
            _ask(held, texts.where("text IS NOT NULL"), endpoint_settings(conf), (missing, known))
        texts.unpersist()
        held.require()


def looked_up(spark: SparkSession, conf: config.Config, articles: tables.Version) -> DataFrame:
    """Return a row for each distinct text of the articles; lazy.

    Its columns are key, pubid, the text, null unless it is to be asked for, and whether it `is_answered`. A text whose failure
    is not retried is neither.
    """
    settings = endpoint_settings(conf)
    tasks = dataframes.row_group_tasks(spark, conf.lake, articles)
    texts = map_in_arrow(tasks, partial(_texts, conf=settings), _TEXTS)
    distinct = texts.groupBy("key").agg(F.min("pubid").alias("pubid"), F.first("text").alias("text"))
    stored = dataframes.stored_answers(spark, conf.lake, schemas.EMBEDDINGS)
    keyed = distinct.withColumn("key_of_any_length", F.col("key"))  # no request has a limit
    marked = requests.mark_answered(keyed, stored, settings.completions)
    missing = F.when(requests.is_missing(settings.completions), F.col("text")).alias("text")
    return marked.select("key", "pubid", missing, "is_answered")


def _texts(batches: Iterator[pa.RecordBatch], conf: config.Config) -> Iterator[pa.RecordBatch]:
    for _, groups in parquet.by_task(batches):
        for group in groups:
            rows = parquet.read_row_group(group, COLUMNS)
            passages = rows["passages"].combine_chunks()
            texts = [*rows["question"].to_pylist(), *passages.flatten().to_pylist()]
            pubids = pa.concat_arrays(
                [rows["pubid"].combine_chunks(), rows["pubid"].combine_chunks().take(pc.list_parent_indices(passages))]
            )
            yield pa.record_batch([keys(texts, conf), pubids, texts], schema=_TEXTS)


def keys(texts: Sequence[str], conf: config.Config) -> list[str]:
    """Return the keys of the requests to embed these texts, by `endpoint_settings`."""
    return [build_request({"text": text}, conf.completions, conf.teacher.model).key for text in texts]


def _ask(held: lease.Lease, texts: DataFrame, conf: config.Config, counts: tuple[int, int]) -> None:
    """Ask for the vectors of these texts; `counts` says how many they are, and how many others have one."""
    now, model = ids.now(), conf.teacher.model
    run = run_state.Run(
        ids.new_id(),
        conf.completions.endpoint,
        model,
        now,
        now,
        total=counts[0],
        known=counts[1],
        stage=schemas.EMBEDDINGS,
    )
    run = realtime.ask(held, texts, conf, run, partial(build_request, conf=conf.completions, model=model))
    failed = Counter(run.failed)
    if run.state == "failed":
        raise EndpointError(remedies.failure(conf, run))
    if run.state == "stopped":
        msg = f"{run.reason}; {remedies.stored(run)}"
        raise StoppedError(msg)
    if failed.total() > conf.completions.max_failed_share * sum(counts):
        msg = (
            f"{failed.total()} of {sum(counts)} texts have no embedding ({wording.counts(failed)}), more than "
            f"completions.max_failed_share = {conf.completions.max_failed_share}; {remedies.stored(run)}"
        )
        raise EndpointError(msg)
