"""base + completions -> dataset: check each answer, and write train, validation and test in training formats, with cards.

    versions/ID/FORMAT/README.md                 the card; `datasets.load_dataset(folder)` reads the shards it names
    versions/ID/FORMAT/data/train-00000-of-00002.jsonl
    versions/ID/quarantine/*.parquet             rejected rows with their reason

A hash of the pubid decides on a row's shard and on its place in the shard, so the bytes of a shard depend only on its rows.
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from raft_spark import config
from raft_spark.common import wording
from raft_spark.errors import InputError
from raft_spark.formats import card, shards, targets
from raft_spark.formats.formats import FORMATS, Format, RowTexts, TrainingRow
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
MAX_UNEVEN = 1.3  # rows of the largest task, by the mean of all
WRITTEN = pa.schema([*schemas.FILES, ("sums", pa.string())])


@dataclass(frozen=True)
class DatasetTask:
    """What every Spark task of a run needs: `rows` are the numbers of rows by split, `tokenizer` is its file's content."""

    conf: config.Dataset
    completions: config.Completions
    at: Storage
    rows: Mapping[str, int]
    tokenizer: str = ""

    @property
    def shards(self) -> dict[str, int]:
        """The number of files of each split."""
        return {split: -(-rows // self.conf.shard_rows) for split, rows in self.rows.items()}

    @cached_property
    def tasks(self) -> list[int]:
        """The number of the Spark task that writes each shard, in the order of the splits."""
        return assign_shards(self.rows, self.shards)

    @property
    def task_count(self) -> int:
        """The number of Spark tasks that write."""
        return max(self.tasks, default=0) + 1


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
    base_rows = dataframes.read(spark, conf.lake, base)
    task = DatasetTask(conf.dataset, conf.completions, draft.storage, base.counts["rows"], tokenizer)
    with worker_errors(), progress.spark_tasks(spark, "dataset: judge and write"):
        joined = join_answers(base_rows, dataframes.read(spark, conf.lake, answers), conf, task)
        written = build(joined, task).collect()
        leaks = leakage.measure(base_rows)
    counts = {**_counts(written, conf.price), "tells": leaks}
    if not (conf.is_price_known or conf.dataset.answer == "original"):
        counts["dollars"] = None
    files = sorted((parquet.file_from_row(row) for row in written if row.path), key=lambda file: file.path)
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


def place(base: DataFrame, task: DatasetTask, seed: int) -> DataFrame:
    """Add to each base row its `shard`, its `order` there, and the `place` by which Spark finds the task of the shard; lazy."""
    values = dataframes.partition_values(base.sparkSession, task.task_count)
    first = dict(zip(task.shards, itertools.accumulate(task.shards.values(), initial=0), strict=False))
    shard = F.pmod("order", _by_split(task.shards))
    places = F.array(*(F.lit(values[number]) for number in task.tasks))
    place = places[(_by_split(first) + F.col("shard")).cast("int")]
    return (
        base.withColumn("order", F.xxhash64(F.lit(seed), "pubid")).withColumn("shard", shard).withColumn("place", place)
    )


def _by_split(numbers: Mapping[str, int]) -> Column:
    return F.try_element_at(F.create_map(*(F.lit(value) for pair in numbers.items() for value in pair)), "split")


def assign_shards(rows: Mapping[str, int], shards: Mapping[str, int]) -> list[int]:
    """Return the number of the task that writes each shard, in the order of the splits.

    Small shards share a task: as many tasks as leave none with more than MAX_UNEVEN times the mean of the rows.
    """
    sizes = [rows[split] / count for split, count in shards.items() for _ in range(count)]
    order = sorted(range(len(sizes)), key=lambda number: -sizes[number])
    for tasks in range(len(sizes), 0, -1):
        loads, assigned = [0.0] * tasks, [0] * len(sizes)
        for number in order:
            assigned[number] = min(range(tasks), key=loads.__getitem__)
            loads[assigned[number]] += sizes[number]
        if max(loads) * tasks <= MAX_UNEVEN * sum(loads):
            return assigned
    return []


def join_answers(base: DataFrame, answers: DataFrame, conf: config.Config, task: DatasetTask) -> DataFrame:
    """Return the placed rows of base, each with its answer, or the class of its last error, in the partition of its shard; lazy.

    `is_first_use` is true for one row of those that share a stored answer, which is paid for once.
    The format `preference` also needs the column `rejected_answer`: the answer to the question of the article that gave the
    first distractor. Answers are joined to rows without passages, so that Spark shuffles the passages once.
    """
    first = F.expr("try_element_at(filter(documents, d -> NOT d.oracle), 1).pubid").alias("distractor")
    rows, texts = base.select("split", "pubid", "distracted", first), _texts(base, conf)
    if conf.dataset.answer == "original":
        texts = texts.withColumns(_original_answer(conf))
        chosen = requests.one_row_per_article(texts, conf)
        rows = rows.withColumn("is_first_use", F.expr("false"))
    else:
        chosen = _mark_first_use(acceptance.best_answers(base, answers, conf))
        is_one_of_pair = ~F.col("distracted") if conf.base.variants == "both" else F.expr("true")
        rows = rows.join(chosen, "pubid").withColumn("is_first_use", F.col("is_first_use") & is_one_of_pair)
    if "preference" in conf.dataset.formats:
        complete = F.when(~F.col("finish_reason").eqNullSafe("length"), F.col("completion"))
        others = chosen.select(F.col("pubid").alias("distractor"), complete.alias("rejected_answer"))
        rows = rows.join(others, "distractor", "left")
    placed, answered = (
        place(each, task, conf.base.seed).repartition(task.task_count, "place") for each in (texts, rows)
    )
    return placed.join(answered.drop("split", "shard", "order", "distractor"), ["place", "pubid", "distracted"])


def _texts(base: DataFrame, conf: config.Config) -> DataFrame:
    """Replace the documents by their texts as `passages`, and leave out what no check and no format reads; lazy.

    `oracle` is "" if nothing reads it. `is_oracle` says which passages are of the oracle, for dataset.max_tokens.
    """
    is_shortened = bool(conf.dataset.max_tokens)
    columns = {"passages": "documents.text"} | ({"is_oracle": "documents.oracle"} if is_shortened else {})
    rows = base.withColumns({name: F.col(path) for name, path in columns.items()}).drop("documents")
    is_checked = is_shortened or conf.completions.style == "cot"
    is_written = any("oracle" in FORMATS[name].schema.names for name in conf.dataset.formats)
    return rows if is_checked or is_written else rows.withColumn("oracle", F.lit(""))


def _mark_first_use(chosen: DataFrame) -> DataFrame:
    """Add `is_first_use`, true for the article with the smallest pubid of those that share a stored answer; lazy."""
    of_answer = Window.partitionBy(F.coalesce("answer_key", F.col("pubid").cast("string"))).orderBy("pubid")
    is_first = (F.row_number().over(of_answer) == 1) & F.col("answer_key").isNotNull()
    return chosen.withColumn("is_first_use", is_first)


def _original_answer(conf: config.Config) -> dict[str, Column]:
    """Return the article's own answer as the columns of a stored answer. With completions.decision the decision comes first."""
    answer = F.col("original_answer")
    if conf.completions.decision:
        answer = F.when(answer.isNotNull(), F.concat_ws(". ", F.initcap("final_decision"), answer))
    return {
        "completion": answer,
        "finish_reason": F.lit("stop"),
        "prompt_tokens": F.lit(0),
        "completion_tokens": F.lit(0),
        "is_batch": F.expr("false"),
        "last_error": F.lit("the article has none"),
    }


def build(joined: DataFrame, task: DatasetTask) -> DataFrame:
    """Write joined rows, which are in the partitions of their shards; return the files and their counts, in WRITTEN; lazy."""
    sorted_rows = joined.sortWithinPartitions("split", "shard", "order", "pubid", "distracted").drop("order", "place")
    return map_in_arrow(sorted_rows, partial(_write, task=task), WRITTEN)


def _write(batches: Iterator[pa.RecordBatch], task: DatasetTask) -> Iterator[pa.RecordBatch]:
    """Write the shards of this partition. Its rows are sorted, and all rows of a shard are in one partition."""
    rows = (row for batch in batches for row in _rows(batch))
    count_tokens = targets.token_counter(task.tokenizer)
    for (split, shard), of_shard in groupby(rows, lambda row: (row["split"], row["shard"])):
        yield _write_shard(split, shard, (_finish(row, count_tokens, task) for row in of_shard), task)


def _rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """Return the rows of a batch. A column of lists is converted at once, since `to_pylist` would convert list by list."""
    columns = []
    for column in batch.columns:
        if pa.types.is_list(column.type):
            values, ends = column.flatten().to_pylist(), np.cumsum(pc.list_value_length(column).to_numpy())
            columns.append([values[begin:end] for begin, end in itertools.pairwise([0, *ends.tolist()])])
        else:
            columns.append(column.to_pylist())
    return (dict(zip(batch.schema.names, row, strict=True)) for row in zip(*columns, strict=True))


@dataclass(frozen=True, slots=True)
class FinishedRow:
    """A joined row, whether it is accepted, and the training row that formats write, None if it is rejected."""

    joined: Mapping[str, Any]
    acceptance: Acceptance
    training_row: TrainingRow | None

    def names(self) -> Iterator[str]:
        """Yield the counts that the row raises by one, as GROUP/KEY; a rejected row counts for its first reason."""
        yield "rows"
        if self.training_row is None:
            yield f"rejected/{self.acceptance.rejected[0]}"
            return
        split = self.joined["split"]
        yield f"kept/{split}"
        if self.training_row.distracted:
            yield f"distracted/{split}"
        if len(self.training_row.passages) < len(self.joined["passages"]):
            yield f"shortened/{split}"
        yield from (f"flagged/{reason}" for reason in self.acceptance.flagged)
        yield from (f"cleaned/{kind}" for kind in self.acceptance.answer.removed)

    def tokens(self) -> dict[str, int]:
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
    oracle = joined["is_oracle"]
    passages = targets.fit_length(row, oracle, accepted.answer.text, count_tokens, task.conf.max_tokens)
    if passages is None:
        return FinishedRow(joined, Acceptance(("longer than max_tokens",)), None)
    first = next((text for text, is_oracle in zip(row.passages, oracle, strict=True) if not is_oracle), None)
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
            for name in row.names():
                sums[name] += 1
            sums.update(row.tokens())
            if row.training_row is None:
                reason = ", ".join(row.acceptance.rejected)
                record = {"pubid": row.joined["pubid"], "record": row.joined["completion"]}
                rejected.append({**record, "reason": reason, "source": split})
                continue
            texts = RowTexts(row.training_row)
            for writer, form in zip(writers, task.conf.formats, strict=True):
                line = FORMATS[form].line(texts)
                if line is not None:
                    writer.write(line)
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
