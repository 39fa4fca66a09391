"""base + completions -> dataset: check each answer, and write train, validation and test in training formats, with cards.

    versions/ID/FORMAT/README.md                 the card; `datasets.load_dataset(folder)` reads the shards it names
    versions/ID/FORMAT/data/train-00000-of-00002.jsonl
    versions/ID/quarantine/*.parquet             rejected rows with their reason

A hash of the pubid decides on a row's shard and on its place in the shard, so the bytes of a shard depend only on its rows.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from raft_spark import config
from raft_spark.common import wording
from raft_spark.errors import InputError
from raft_spark.formats import card, targets
from raft_spark.formats.formats import FORMATS
from raft_spark.formats.placement import Placement
from raft_spark.inference import requests
from raft_spark.inference.batch import batch_price
from raft_spark.lake import blobs, dataframes, parquet, schemas, session, tables
from raft_spark.lake.filesystem import Storage
from raft_spark.lake.tasks import worker_errors
from raft_spark.monitoring import progress, run_state
from raft_spark.recipe import leakage, sampling
from raft_spark.stages import dataset_rows, dataset_shards

_BILL = ("tokens", "batch_tokens", "not_counted")  # groups of counts
TOKEN_PRICES = {"input_price", "output_price"}


def run(conf: config.Config) -> tables.Version:
    """Write a dataset from the current base and completions; return the current version.

    Raises InputError when no training row is left, or when more rows are rejected than dataset.max_rejected_share allows.
    """
    base, answers = tables.require(conf.lake, schemas.BASE), tables.require(conf.lake, schemas.COMPLETIONS)
    prices = [each.model_dump(include=TOKEN_PRICES) for each in (conf.price, batch_price(conf.price))]
    tokenizer = targets.read_tokenizer(conf.dataset, conf.lake)
    settings = {
        **conf.dataset.model_dump(exclude={"max_rejected_share"}),
        **requests.request_settings(conf),
        **requests.words_otherwise(conf.completions, "student"),
        "prices": prices,
        "tokens": tokenizer,
    }
    identity = tables.identity(schemas.DATASET, settings, [base.id, answers.id])
    existing = tables.find_existing(conf.lake, schemas.DATASET, identity)
    if existing:
        return existing
    spark = session.start(conf, schemas.DATASET)
    draft = tables.open_draft(conf.lake, schemas.DATASET, identity)
    placement = Placement(base.counts["rows"], conf.dataset.shard_rows, conf.base.seed)
    task = dataset_shards.ShardsTask(conf.dataset, conf.completions, draft.storage, placement, tokenizer)
    with worker_errors(), progress.spark_tasks(spark, "dataset: judge and write"):
        written = build(spark, conf, (base, answers), task)
        leaks = leakage.measure(spark, conf.lake, base).tells
        found = _found(dataframes.read(spark, conf.lake, base)) if sampling.methods(conf.base) else None
    counts = {**_counts(written, conf.price), "tells": leaks, "found": found}
    if not (conf.is_price_known or conf.dataset.answer == "original"):
        counts["dollars"] = None
    files = sorted((file for shard in written for file in shard.files), key=lambda file: file.path)
    if problem := _problem(counts, conf.dataset):
        draft.storage.delete("")
        raise InputError(problem)
    for name in conf.dataset.formats:
        files += list(_write_texts(name, files, counts, conf, draft.storage))
    return tables.publish(draft, conf, files, {schemas.BASE: base, schemas.COMPLETIONS: answers}, counts)


def build(
    spark: SparkSession,
    conf: config.Config,
    inputs: tuple[tables.Version, tables.Version],
    task: dataset_shards.ShardsTask,
) -> list[dataset_shards.WrittenShard]:
    """Check and write the rows of `inputs`, base and completions; return what was written for each shard."""
    base, answers = inputs
    count = max(task.placement.tasks, default=0) + 1
    values = dataframes.partition_values(spark, count)
    places = [values[number] for number in task.placement.tasks for _ in range(task.placement.parts)]
    rows_task = dataset_rows.RowsTask(conf, task.placement, places)
    rows = dataset_rows.texts(dataframes.row_group_tasks(spark, conf.lake, base), rows_task)
    answered = dataset_rows.answers(base, dataframes.read(spark, conf.lake, answers), rows_task)
    if answered is not None:
        rows = rows.union(answered)
    return blobs.collect_parts(rows, count, partial(dataset_shards.write, task=task))


def _found(rows: DataFrame) -> dict[str, Any]:
    """Return how many documents each method of base.distractors_from found, with their mean score, and how many were left out."""
    found = rows.select(F.explode("documents").alias("document")).select("document.*").where("method IS NOT NULL")
    thousandths = F.sum(F.round(F.col("score") * 1000).cast("long"))  # whole numbers have the same sum in any order
    sums = found.groupBy("method").agg(F.count("*").alias("documents"), thousandths.alias("score")).collect()
    methods = {
        row.method: {
            "documents": row.documents,
            "score": row.score and round(row.score / 1000 / row.documents, 3),
        }
        for row in sorted(sums)
    }
    return {"methods": methods, "second_oracles": rows.agg(F.sum("second_oracles")).collect()[0][0]}


def _problem(counts: Mapping[str, Any], conf: config.Dataset) -> str:
    """Return why the version must not be published, "" if it may."""
    rows, rejected, reasons = counts["rows"], sum(counts["rejected"].values()), wording.counts(counts["rejected"])
    if not counts["kept"].get("train"):
        return f"no training row is left of {rows}; reasons: {reasons}"
    if rejected <= conf.max_rejected_share * rows:
        return ""
    return (
        f"{rejected} of {rows} rows ({wording.share(rejected, rows)}) are rejected, more than dataset.max_rejected_share = "
        f"{conf.max_rejected_share:g}; nothing was published, and the answers are stored. Reasons: {reasons}. Set the checks of "
        "[dataset.gate] that may fail to flag, or raise the setting to go on without these rows"
    )


def _write_texts(
    name: str, files: Sequence[parquet.DataFile], counts: Mapping[str, Any], conf: config.Config, at: Storage
) -> Iterator[parquet.DataFile]:
    """Write the card of a format, and the files that its consumer needs besides the shards."""
    prefix = f"{name}/"
    of_format = [replace(file, path=file.path.removeprefix(prefix)) for file in files if file.path.startswith(prefix)]
    texts = {"README.md": card.render(name, of_format, counts, conf)}
    texts |= FORMATS[name].extra_files(file.path for file in of_format)
    for path, text in texts.items():
        yield parquet.write_text(at, f"{prefix}{path}", text)


def _counts(written: Sequence[dataset_shards.WrittenShard], price: config.Price) -> dict[str, Any]:
    """Return the counts of the version. Always rows = kept + rejected."""
    sums: Counter[str] = Counter()
    for shard in written:
        sums.update(shard.sums)
    groups: dict[str, dict[str, int]] = {
        name: {} for name in ("kept", "rejected", "flagged", "cleaned", "distracted", "shortened", *_BILL)
    }
    for name, count in sorted(sums.items()):
        group, slash, key = name.partition("/")
        if slash:
            groups[group][key] = count
    for name in ("distracted", "shortened"):
        groups[name] = {split: groups[name].get(split, 0) for split in groups["kept"]}
    bill = _bill({name: groups.pop(name) for name in _BILL}, price)
    return {"rows": sums["rows"], **groups, **bill}


def _bill(groups: Mapping[str, Mapping[str, int]], price: config.Price) -> dict[str, Any]:
    """Return the tokens and dollars of the answers that the dataset uses, whenever they were paid for; None is not known.

    `not_counted` has the numbers of answers whose tokens the server did not count; they are not in the sums.
    """
    names = ("prompt", "completion")
    on_demand, in_batch = (
        [group.get(name, 0) for name in names] for group in (groups["tokens"], groups["batch_tokens"])
    )
    unknown = {name: groups["not_counted"].get(name, 0) for name in names}
    sums = {name: sum(counts) for name, *counts in zip(names, on_demand, in_batch, strict=True)}
    dollars = price.dollars(*on_demand) + batch_price(price).dollars(*in_batch)
    return {
        "tokens": run_state.known_tokens(sums, unknown),
        "not_counted": unknown,
        "dollars": round(dollars, 6),
    }
