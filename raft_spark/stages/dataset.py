"""base + completions -> dataset: check each answer, and write train, validation and test in training formats, with cards.

    versions/ID/FORMAT/README.md                 the card; `datasets.load_dataset(folder)` reads the shards it names
    versions/ID/FORMAT/data/train-00000-of-00002.jsonl
    versions/ID/quarantine/*.parquet             rejected rows with their reason

A hash of the pubid decides on a row's shard and on its place in the shard, so the bytes of a shard depend only on its rows.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from raft_spark import config
from raft_spark.common import wording
from raft_spark.endpoints import answer_text
from raft_spark.errors import InputError
from raft_spark.formats import card, shards, targets
from raft_spark.formats.formats import FORMATS, Format, TrainingRow
from raft_spark.inference import acceptance, requests
from raft_spark.inference.acceptance import Acceptance, judge_answer
from raft_spark.inference.batch import batch_price
from raft_spark.lake import dataframes, parquet, schemas, session, tables
from raft_spark.lake.filesystem import Storage
from raft_spark.lake.tasks import map_in_arrow, worker_errors
from raft_spark.monitoring import progress, run_state
from raft_spark.recipe import leakage

_BILL = ("tokens", "batch_tokens", "not_counted")  # groups of counts
TOKEN_PRICES = {"input_price", "output_price"}
WRITTEN = pa.schema([*schemas.FILES, ("sums", pa.string())])


@dataclass(frozen=True)
class DatasetTask:
    """What every Spark task of a run needs: `shards` is the number of files of each split, `tokenizer` its file's content."""

    conf: config.Dataset
    completions: config.Completions
    at: Storage
    shards: Mapping[str, int]
    tokenizer: str = ""


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
    shard_counts = {split: -(-rows // conf.dataset.shard_rows) for split, rows in base.counts["rows"].items()}
    base_rows = dataframes.read(spark, conf.lake, base)
    joined = join_answers(base_rows, dataframes.read(spark, conf.lake, answers), conf)
    task = DatasetTask(conf.dataset, conf.completions, draft.storage, shard_counts, tokenizer)
    with worker_errors(), progress.spark_tasks(spark, "dataset: judge and write"):
        written = build(joined, task, conf.base.seed).collect()
        leaks = leakage.measure(base_rows)
    counts = {**_counts(written, conf.price), "tells": leaks}
    if not (conf.is_price_known or conf.dataset.answer == "original"):
        counts["dollars"] = None
    files = [parquet.file_from_row(row) for row in written if row.path]
    if problem := _problem(counts, conf.dataset):
        draft.storage.delete("")
        raise InputError(problem)
    for name in conf.dataset.formats:
        files += list(_write_texts(name, files, counts, conf, draft.storage))
    return tables.publish(draft, conf, files, {schemas.BASE: base, schemas.COMPLETIONS: answers}, counts)


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


def join_answers(base: DataFrame, answers: DataFrame, conf: config.Config) -> DataFrame:
    """Add to each base row its answer, or the class of its last error if it has none; lazy.

    `is_first_use` is true for one row of those that share a stored answer, which is paid for once.
    The format `preference` also needs the column `rejected_answer`: the answer to the question of the article that gave the
    first distractor.
    """
    is_original = conf.dataset.answer == "original"
    chosen = _original_answers(base, conf) if is_original else acceptance.best_answers(base, answers, conf)
    is_one_of_pair = ~F.col("distracted") if conf.base.variants == "both" else F.expr("true")
    rows = base.join(_mark_first_use(chosen), "pubid").withColumn(
        "is_first_use", F.col("is_first_use") & is_one_of_pair
    )
    if "preference" not in conf.dataset.formats:
        return rows
    complete = F.when(~F.col("finish_reason").eqNullSafe("length"), F.col("completion"))
    others = chosen.select(F.col("pubid").alias("distractor"), complete.alias("rejected_answer"))
    first = F.expr("try_element_at(filter(documents, d -> NOT d.oracle), 1).pubid")
    return rows.withColumn("distractor", first).join(others, "distractor", "left").drop("distractor")


def _mark_first_use(chosen: DataFrame) -> DataFrame:
    """Add `is_first_use`, true for the article with the smallest pubid of those that share a stored answer; lazy."""
    of_answer = Window.partitionBy(F.coalesce("answer_key", F.col("pubid").cast("string"))).orderBy("pubid")
    is_first = (F.row_number().over(of_answer) == 1) & F.col("answer_key").isNotNull()
    return chosen.withColumn("is_first_use", is_first)


def _original_answers(base: DataFrame, conf: config.Config) -> DataFrame:
    """Return the articles' own answers in the columns of stored answers. With completions.decision the decision comes first."""
    no_tokens = (F.lit(0).alias(name) for name in ("prompt_tokens", "completion_tokens"))
    answer = F.col("original_answer")
    if conf.completions.decision:
        answer = F.when(answer.isNotNull(), F.concat_ws(". ", F.initcap("final_decision"), answer))
    return requests.one_row_per_article(base, conf).select(
        "pubid",
        answer.alias("completion"),
        F.lit("stop").alias("finish_reason"),
        *no_tokens,
        F.lit(None).cast("string").alias("answer_key"),
        F.expr("false").alias("is_batch"),
        F.lit("the article has none").alias("last_error"),
    )


def build(joined: DataFrame, task: DatasetTask, seed: int) -> DataFrame:
    """Write joined rows to their shards; return the files and their counts, in the schema WRITTEN; lazy."""
    order = F.xxhash64(F.lit(seed), "pubid")
    shard_counts = F.create_map(*(F.lit(value) for pair in task.shards.items() for value in pair))
    shard = F.pmod("order", F.try_element_at(shard_counts, "split"))
    sharded = joined.withColumn("order", order).withColumn("shard", shard)
    total = max(1, sum(task.shards.values()))
    sorted_rows = sharded.repartition(total, "split", "shard").sortWithinPartitions(
        "split", "shard", "order", "pubid", "distracted"
    )
    return map_in_arrow(sorted_rows, partial(_write, task=task), WRITTEN)


def _write(batches: Iterator[pa.RecordBatch], task: DatasetTask) -> Iterator[pa.RecordBatch]:
    """Write the shards of this partition. Its rows are sorted, and all rows of a shard are in one partition."""
    rows = (row for batch in batches for row in batch.to_pylist())
    count_tokens = targets.token_counter(task.tokenizer)
    for (split, shard), of_shard in groupby(rows, lambda row: (row["split"], row["shard"])):
        yield _write_shard(split, shard, (_finish(row, count_tokens, task) for row in of_shard), task)


@dataclass(frozen=True, slots=True)
class FinishedRow:
    """A joined row, whether it is accepted, and the training row that formats write, None if it is rejected."""

    joined: Mapping[str, Any]
    acceptance: Acceptance
    training_row: TrainingRow | None

    def sums(self) -> dict[str, int]:
        """Return what the row adds to the counts, as GROUP/KEY; a rejected row counts for its first reason."""
        tokens = self._tokens()
        if self.training_row is None:
            return {"rows": 1, **tokens, f"rejected/{self.acceptance.rejected[0]}": 1}
        flagged = {f"flagged/{reason}": 1 for reason in self.acceptance.flagged}
        split, shorter = self.joined["split"], len(self.training_row.passages) < len(self.joined["documents"])
        of_split = {
            f"kept/{split}": 1,
            f"distracted/{split}": int(self.training_row.distracted),
            f"shortened/{split}": int(shorter),
        }
        cleaned = {f"cleaned/{kind}": 1 for kind in answer_text.clean(self.joined["completion"]).removed}
        return {"rows": 1, **tokens, **flagged, **cleaned, **of_split}

    def _tokens(self) -> dict[str, int]:
        """Return the tokens of the row's answer, unless another row counts them; 0 is not counted by the server."""
        if not self.joined.get("is_first_use", True):
            return {}
        group = "batch_tokens" if self.joined.get("is_batch") else "tokens"
        counts = {name: self.joined[f"{name}_tokens"] for name in ("prompt", "completion")}
        return {f"{group}/{name}" if count else f"not_counted/{name}": count or 1 for name, count in counts.items()}


def _finish(joined: Mapping[str, Any], count_tokens: targets.TokenCounter, task: DatasetTask) -> FinishedRow:
    """Check the answer of a joined row, and fit the row to dataset.max_tokens."""
    accepted = judge_answer(joined, task.conf, task.completions)
    if accepted.rejected:
        return FinishedRow(joined, accepted, None)
    row = targets.training_row(joined, task.conf, task.completions)
    if not task.conf.max_tokens:
        return FinishedRow(joined, accepted, row)
    oracle = [document["oracle"] for document in joined["documents"]]
    completion = answer_text.clean(joined["completion"]).text
    passages = targets.fit_length(row, oracle, completion, count_tokens, task.conf.max_tokens)
    if passages is None:
        return FinishedRow(joined, Acceptance(("longer than max_tokens",)), None)
    first = next((document["text"] for document in joined["documents"] if not document["oracle"]), None)
    rejected = row.rejected_answer if first in passages else None  # that distractor may have been removed
    return FinishedRow(joined, accepted, replace(row, passages=passages, rejected_answer=rejected))


def _write_shard(split: str, number: int, rows: Iterator[FinishedRow], task: DatasetTask) -> pa.RecordBatch:
    """Write one shard in every format, and its rejected rows to the quarantine; return its files and counts."""
    sums: Counter[str] = Counter()
    rejected: list[Mapping[str, Any]] = []
    writers = [_shard(FORMATS[name], name, split, number, task) for name in task.conf.formats]
    with ExitStack() as stack:
        for writer in writers:
            stack.enter_context(writer)
        for row in rows:
            sums.update(row.sums())
            if row.training_row is None:
                reason = ", ".join(row.acceptance.rejected)
                record = {"pubid": row.joined["pubid"], "record": row.joined["completion"]}
                rejected.append({**record, "reason": reason, "source": split})
                continue
            for writer, form in zip(writers, task.conf.formats, strict=True):
                formatted = FORMATS[form].record(row.training_row)
                if formatted is not None:
                    writer.write(formatted)
    files = [file for writer in writers for file in writer.files]
    if rejected:
        table = pa.Table.from_pylist(rejected, schemas.QUARANTINE)
        name = f"quarantine/{split}-{number:05d}-of-{task.shards[split]:05d}.parquet"
        files.append(parquet.write_file(task.at, name, table))
    described = parquet.files_batch(files).to_pylist() or [dict.fromkeys(schemas.FILES.names)]
    return pa.RecordBatch.from_pylist(
        [{**file, "sums": json.dumps(sums) if index == 0 else "{}"} for index, file in enumerate(described)], WRITTEN
    )


def _shard(form: Format, name: str, split: str, number: int, task: DatasetTask) -> shards.ShardWriter:
    path = f"{name}/{form.shard(split, number, task.shards[split])}"
    return shards.ShardWriter(task.at, path, "jsonl" if form.is_jsonl else task.conf.file, form.schema)


def _counts(written: list[Any], price: config.Price) -> dict[str, Any]:
    """Return the counts of the version. Always rows = kept + rejected."""
    sums: Counter[str] = Counter()
    for row in written:
        sums.update(json.loads(row.sums))
    groups: dict[str, dict[str, int]] = {
        name: {} for name in ("kept", "rejected", "flagged", "cleaned", "distracted", "shortened", *_BILL)
    }
    for name, count in sorted(sums.items()):
        group, slash, key = name.partition("/")
        if slash:
            groups[group][key] = count
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
