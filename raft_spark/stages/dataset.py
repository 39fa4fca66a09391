"""base + completions -> dataset: judge each answer, write train/validation/test in training formats, card and manifest.

    versions/ID/FORMAT/README.md                 the card; `datasets.load_dataset(folder)` reads the shards it names
    versions/ID/FORMAT/data/train-00000-of-00002.jsonl
    versions/ID/quarantine/*.parquet             rejected rows with their reason

Rows stand in the order of a hash of pubid, cut into shards by the same hash, so a shard's bytes depend on its rows only.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from raft_spark import config
from raft_spark.common import wording
from raft_spark.errors import InputError
from raft_spark.formats import card, shards, targets
from raft_spark.formats.formats import FORMATS, Format, TrainingRow
from raft_spark.inference import acceptance, requests
from raft_spark.inference.acceptance import Acceptance, judge_answer
from raft_spark.lake import dataframes, parquet, schemas, session, tables
from raft_spark.lake.filesystem import Storage
from raft_spark.lake.tasks import map_in_arrow, worker_errors
from raft_spark.monitoring import progress
from raft_spark.recipe import leakage

WRITTEN = pa.schema([*schemas.FILES, ("sums", pa.string())])


@dataclass(frozen=True)
class DatasetTask:
    """What every task of a run gets; `shards` says how many files each split is cut into, `tokenizer` is its file's content."""

    conf: config.Dataset
    asked: config.Completions
    at: Storage
    shards: Mapping[str, int]
    tokenizer: str = ""


def run(conf: config.Config) -> tables.Version:
    """Publish a dataset of the current base and completions; return the version that is current then.

    Raises InputError when no training row is left.
    """
    base, answers = tables.require(conf.lake, schemas.BASE), tables.require(conf.lake, schemas.COMPLETIONS)
    prices = [conf.price.input_price, conf.price.output_price]
    tokenizer = targets.read_tokenizer(conf.dataset, conf.lake)
    settings = {**conf.dataset.model_dump(), **requests.request_settings(conf), "prices": prices, "tokens": tokenizer}
    identity = tables.identity(schemas.DATASET, settings, [base.id, answers.id])
    made = tables.find_existing(conf.lake, schemas.DATASET, identity)
    if made:
        return made
    spark = session.start(conf, schemas.DATASET)
    new = tables.open_draft(conf.lake, schemas.DATASET, identity)
    cut = {split: -(-rows // conf.dataset.shard_rows) for split, rows in base.counts["rows"].items()}
    shown = dataframes.read(spark, conf.lake, base)
    rows = joined(shown, dataframes.read(spark, conf.lake, answers), conf)
    work = DatasetTask(conf.dataset, conf.completions, new.storage, cut, tokenizer)
    with worker_errors(), progress.spark_tasks(spark, "dataset: judge and write"):
        written = build(rows, work, conf.base.seed).collect()
        told = leakage.measure(shown)
    counts = {**_counted(written, conf.price), "tells": told}
    files = [parquet.file_from_row(row) for row in written if row.path]
    if not counts["kept"].get("train"):
        new.storage.delete("")
        msg = f"no training row is left of {counts['rows']}; reasons: {wording.counts(counts['rejected'])}"
        raise InputError(msg)
    inputs = {schemas.BASE: base, schemas.COMPLETIONS: answers}
    for name in conf.dataset.formats:
        own = [
            replace(file, path=file.path.removeprefix(f"{name}/")) for file in files if file.path.startswith(f"{name}/")
        ]
        extra = FORMATS[name].extra_files(file.path for file in own)
        for path, text in {"README.md": card.render(name, own, counts, conf), **extra}.items():
            files.append(parquet.write_text(new.storage, f"{name}/{path}", text))
    return tables.publish(new, conf, files, inputs, counts)


def joined(base: DataFrame, answers: DataFrame, conf: config.Config) -> DataFrame:
    """Bring each base row its answer, by the request's key; without one, the class of its last failure; and where a format
    wants it, in `rejected_answer`, the answer to the question of the first distractor's article; lazy.
    """
    found = _original(base, conf) if conf.dataset.answer == "original" else acceptance.best_answers(base, answers, conf)
    rows = base.join(found, "pubid")
    if "preference" not in conf.dataset.formats:
        return rows
    whole = F.when(~F.col("finish_reason").eqNullSafe("length"), F.col("completion"))
    others = found.select(F.col("pubid").alias("of"), whole.alias("rejected_answer"))
    first = F.expr("try_element_at(filter(documents, d -> NOT d.oracle), 1).pubid")
    return rows.withColumn("of", first).join(others, "of", "left").drop("of")


def _original(base: DataFrame, conf: config.Config) -> DataFrame:
    """Take the articles' own answers, as if they had been asked for; the decision stands first where one is asked for."""
    nothing = (F.lit(0).alias(name) for name in ("prompt_tokens", "completion_tokens"))
    own = F.col("original_answer")
    if conf.completions.decision:
        own = F.when(own.isNotNull(), F.concat_ws(". ", F.initcap("final_decision"), own))
    return requests.one_row_per_article(base, conf).select(
        "pubid",
        own.alias("completion"),
        F.lit("stop").alias("finish_reason"),
        *nothing,
        F.lit("the article has none").alias("last_error"),
    )


def build(rows: DataFrame, work: DatasetTask, seed: int) -> DataFrame:
    """Write joined rows to their shards, in the schema WRITTEN; lazy."""
    order = F.xxhash64(F.lit(seed), "pubid")
    cut = F.create_map(*(F.lit(value) for pair in work.shards.items() for value in pair))
    placed = rows.withColumn("order", order).withColumn("shard", F.pmod("order", F.try_element_at(cut, "split")))
    total = max(1, sum(work.shards.values()))
    sorted_rows = placed.repartition(total, "split", "shard").sortWithinPartitions(
        "split", "shard", "order", "pubid", "distracted"
    )
    return map_in_arrow(sorted_rows, partial(_write, work=work), WRITTEN)


def _write(batches: Iterator[pa.RecordBatch], work: DatasetTask) -> Iterator[pa.RecordBatch]:
    """Write the shards whose rows are in this partition: they come sorted, each shard whole."""
    rows = (row for batch in batches for row in batch.to_pylist())
    count = targets.token_counter(work.tokenizer)
    for (split, shard), own in groupby(rows, lambda row: (row["split"], row["shard"])):
        yield _write_shard(split, shard, (_finished(row, count, work) for row in own), work)


@dataclass(frozen=True, slots=True)
class FinishedRow:
    """A joined row with its verdict and what formats write of it, None where it is rejected."""

    joined: Mapping[str, Any]
    verdict: Acceptance
    row: TrainingRow | None

    def sums(self) -> dict[str, int]:
        """Return what it adds to the manifest's counts, by flat names; a rejected one counts for its first reason."""
        tokens = {name: self.joined[name] or 0 for name in ("prompt_tokens", "completion_tokens")}
        if self.row is None:
            return {"rows": 1, **tokens, f"rejected/{self.verdict.rejected[0]}": 1}
        flagged = {f"flagged/{reason}": 1 for reason in self.verdict.flagged}
        split, shorter = self.joined["split"], len(self.row.passages) < len(self.joined["documents"])
        of_split = {
            f"kept/{split}": 1,
            f"distracted/{split}": int(self.row.distracted),
            f"shortened/{split}": int(shorter),
        }
        return {"rows": 1, **tokens, **flagged, **of_split}


def _finished(joined: Mapping[str, Any], count: targets.TokenCounter, work: DatasetTask) -> FinishedRow:
    judged = judge_answer(joined, work.conf, work.asked)
    if judged.rejected:
        return FinishedRow(joined, judged, None)
    row = targets.training_row(joined, work.conf, work.asked)
    if not work.conf.max_tokens:
        return FinishedRow(joined, judged, row)
    oracle = [document["oracle"] for document in joined["documents"]]
    passages = targets.fit_length(row, oracle, joined["completion"], count, work.conf.max_tokens)
    if passages is None:
        return FinishedRow(joined, Acceptance(("longer than max_tokens",)), None)
    first = next((document["text"] for document in joined["documents"] if not document["oracle"]), None)
    rejected = row.rejected_answer if first in passages else None  # that distractor may have been removed
    return FinishedRow(joined, judged, replace(row, passages=passages, rejected_answer=rejected))


def _write_shard(split: str, number: int, rows: Iterator[FinishedRow], work: DatasetTask) -> pa.RecordBatch:
    """Write one shard in every format, its rejected rows to quarantine; yield its files and sums."""
    sums: Counter[str] = Counter()
    rejected: list[Mapping[str, Any]] = []
    writers = [_shard(FORMATS[name], name, split, number, work) for name in work.conf.formats]
    with ExitStack() as stack:
        for writer in writers:
            stack.enter_context(writer)
        for found in rows:
            sums.update(found.sums())
            if found.row is None:
                of = {name: found.joined[source] for name, source in (("pubid", "pubid"), ("record", "completion"))}
                rejected.append({**of, "reason": ", ".join(found.verdict.rejected), "source": split})
                continue
            for writer, form in zip(writers, work.conf.formats, strict=True):
                record = FORMATS[form].record(found.row)
                if record is not None:
                    writer.write(record)
    files = [file for writer in writers for file in writer.files]
    if rejected:
        table = pa.Table.from_pylist(rejected, schemas.QUARANTINE)
        name = f"quarantine/{split}-{number:05d}-of-{work.shards[split]:05d}.parquet"
        files.append(parquet.write_file(work.at, name, table))
    described = parquet.files_batch(files).to_pylist() or [dict.fromkeys(schemas.FILES.names)]
    return pa.RecordBatch.from_pylist(
        [{**file, "sums": json.dumps(sums) if index == 0 else "{}"} for index, file in enumerate(described)], WRITTEN
    )


def _shard(form: Format, name: str, split: str, number: int, work: DatasetTask) -> shards.ShardWriter:
    path = f"{name}/{form.shard(split, number, work.shards[split])}"
    return shards.ShardWriter(work.at, path, "jsonl" if form.is_jsonl else work.conf.file, form.schema)


def _counted(written: list[Any], price: config.Price) -> dict[str, Any]:
    """Sum up: rows = kept + rejected, always. Dollars are those of the answers used, whenever they were paid."""
    sums: Counter[str] = Counter()
    for row in written:
        sums.update(json.loads(row.sums))
    groups: dict[str, dict[str, int]] = {
        name: {} for name in ("kept", "rejected", "flagged", "distracted", "shortened")
    }
    for name, count in sorted(sums.items()):
        group, slash, key = name.partition("/")
        if slash:
            groups[group][key] = count
    tokens = {"prompt": sums["prompt_tokens"], "completion": sums["completion_tokens"]}
    dollars = price.dollars(tokens["prompt"], tokens["completion"])
    return {"rows": sums["rows"], **groups, "tokens": tokens, "dollars": round(dollars, 4)}
