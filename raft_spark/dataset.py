"""base + completions -> dataset: judge each answer, write train/validation/test in training formats, card and manifest.

    versions/ID/FORMAT/README.md                 the card; `datasets.load_dataset(folder)` reads the shards it names
    versions/ID/FORMAT/train-00000-of-00002.jsonl
    versions/ID/quarantine/*.parquet             rejected rows with their reason

Rows stand in the order of a hash of pubid, cut into shards by the same hash, so a shard's bytes depend on its rows only.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention
from pyspark.sql.pandas.types import from_arrow_schema

from raft_spark import card, config, grounding, parts, progress, requests, schemas, session, shards, tables
from raft_spark.errors import InputError
from raft_spark.files import Place
from raft_spark.formats import FORMATS, Row
from raft_spark.grounding import Found

WRITTEN = pa.schema([*schemas.FILES, ("sums", pa.string())])


@dataclass(frozen=True)
class Work:
    """What every task of a run gets; `shards` says how many files each split is cut into."""

    conf: config.Dataset
    asked: config.Completions
    at: Place
    shards: Mapping[str, int]


def run(conf: config.Config) -> tables.Version:
    """Publish a dataset of the current base and completions; return the version that is current then.

    Raises InputError when no training row is left.
    """
    base, answers = tables.needed(conf.lake, schemas.BASE), tables.needed(conf.lake, schemas.COMPLETIONS)
    prices = [conf.price.input_price, conf.price.output_price]
    settings = {**conf.dataset.model_dump(), **requests.settings(conf), "prices": prices}
    identity = tables.identity(schemas.DATASET, settings, [base.id, answers.id])
    made = tables.made(conf.lake, schemas.DATASET, identity)
    if made:
        return made
    spark = session.start(conf)
    new = tables.draft(conf.lake, schemas.DATASET, identity)
    cut = {split: -(-rows // conf.dataset.shard_rows) for split, rows in base.counts["rows"].items()}
    rows = joined(tables.read(spark, conf.lake, base), tables.read(spark, conf.lake, answers), conf)
    with session.translated(), progress.spark_tasks(spark, "dataset"):
        written = build(rows, Work(conf.dataset, conf.completions, new.place, cut), conf.base.seed).collect()
    counts = _counted(written, conf.price)
    files = [parts.as_file(row) for row in written if row.path]
    if not counts["kept"].get("train"):
        new.place.delete("")
        msg = f"no training row is left of {counts['rows']}; reasons: {counts['rejected']}"
        raise InputError(msg)
    inputs = {schemas.BASE: base, schemas.COMPLETIONS: answers}
    for name in conf.dataset.formats:
        own = [file for file in files if file.path.startswith(f"{name}/")]
        text = card.written(name, own, counts, conf)
        files.append(shards.write_text(new.place, f"{name}/README.md", text))
    return tables.publish(new, conf, files, inputs, counts)


def joined(base: DataFrame, answers: DataFrame, conf: config.Config) -> DataFrame:
    """Bring each base row its answer, by the request's key; without one, the class of its last failure; lazy."""
    found = requests.looked_up(requests.build(base, conf), answers, conf.completions)
    return base.join(found.select("pubid", "answer.*", "last_error"), "pubid")


def build(rows: DataFrame, work: Work, seed: int) -> DataFrame:
    """Write joined rows to their shards, in the schema WRITTEN; lazy."""
    order = F.xxhash64(F.lit(seed), "pubid")
    cut = F.create_map(*(F.lit(value) for pair in work.shards.items() for value in pair))
    placed = rows.withColumn("order", order).withColumn("shard", F.pmod("order", F.try_element_at(cut, "split")))
    total = max(1, sum(work.shards.values()))
    sorted_rows = placed.repartition(total, "split", "shard").sortWithinPartitions("split", "shard", "order", "pubid")
    return sorted_rows.mapInArrow(partial(_write, work=work), from_arrow_schema(WRITTEN))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a joined row is `rejected`, and what it is `flagged` for though it may stay."""

    rejected: tuple[str, ...] = ()
    flagged: tuple[str, ...] = ()


def verdict(row: Mapping[str, Any], work: Work) -> Verdict:
    """Judge a joined row by [dataset.gate]."""
    completion = row["completion"]
    if completion is None:
        return Verdict((f"no answer: {row['last_error'] or 'not asked'}",))
    if not completion.strip():
        return Verdict(("empty answer",))
    found = [Found("truncated", "truncated")] if row["finish_reason"] == "length" else []
    found += grounding.check(completion, row["oracle"], row["final_decision"], work.asked)
    becomes = {each.reason: getattr(work.conf.gate, each.check) for each in found}
    rejected, flagged = (tuple(reason for reason, what in becomes.items() if what == as_) for as_ in ("reject", "flag"))
    return Verdict(rejected, flagged)


def _write(batches: Iterator[pa.RecordBatch], work: Work) -> Iterator[pa.RecordBatch]:
    """Write the shards whose rows are in this partition: they come sorted, each shard whole."""
    rows = (row for batch in batches for row in batch.to_pylist())
    for (split, shard), own in groupby(rows, lambda row: (row["split"], row["shard"])):
        name = f"{split}-{shard:05d}-of-{work.shards[split]:05d}"
        yield _write_shard(name, split, own, work)


def _write_shard(name: str, split: str, rows: Iterator[Mapping[str, Any]], work: Work) -> pa.RecordBatch:
    """Write one shard in every format, its rejected rows to quarantine; yield its files and sums."""
    sums: Counter[str] = Counter()
    rejected: list[Mapping[str, Any]] = []
    writers = [
        shards.Shard(work.at, f"{form}/{name}", work.conf.file, FORMATS[form].schema) for form in work.conf.formats
    ]
    with ExitStack() as stack:
        for writer in writers:
            stack.enter_context(writer)
        for row in rows:
            judged = verdict(row, work)
            sums.update(_sums(row, split, judged))
            if judged.rejected:
                reason = ", ".join(judged.rejected)
                rejected.append({"pubid": row["pubid"], "reason": reason, "source": split, "record": row["completion"]})
                continue
            finished = _finished(row, work.asked)
            for writer, form in zip(writers, work.conf.formats, strict=True):
                writer.write(FORMATS[form].record(finished))
    files = [writer.file for writer in writers if writer.file]
    if rejected:
        table = pa.Table.from_pylist(rejected, schemas.QUARANTINE)
        files.append(parts.write_file(work.at, f"quarantine/{name}.parquet", table))
    described = parts.as_batch(files).to_pylist()
    return pa.RecordBatch.from_pylist(
        [{**file, "sums": json.dumps(sums) if index == 0 else "{}"} for index, file in enumerate(described)], WRITTEN
    )


def _finished(row: Mapping[str, Any], asked: config.Completions) -> Row:
    return Row(
        pubid=row["pubid"],
        question=row["question"],
        passages=[document["text"] for document in row["documents"]],
        oracle=row["oracle"],
        distracted=row["distracted"],
        original_answer=row["original_answer"],
        completion=row["completion"].strip(),
        asked=asked,
    )


def _sums(row: Mapping[str, Any], split: str, judged: Verdict) -> dict[str, int]:
    """Return what a row adds to the manifest's counts, by flat names; a rejected one counts for its first reason."""
    tokens = {name: row[name] or 0 for name in ("prompt_tokens", "completion_tokens")}
    if judged.rejected:
        return {"rows": 1, **tokens, f"rejected/{judged.rejected[0]}": 1}
    flagged = {f"flagged/{reason}": 1 for reason in judged.flagged}
    return {"rows": 1, **tokens, **flagged, f"kept/{split}": 1, f"distracted/{split}": int(row["distracted"])}


def _counted(written: list[Any], price: config.Price) -> dict[str, Any]:
    """Sum up: rows = kept + rejected, always. Dollars are those of the answers used, whenever they were paid."""
    sums: Counter[str] = Counter()
    for row in written:
        sums.update(json.loads(row.sums))
    groups: dict[str, dict[str, int]] = {"kept": {}, "rejected": {}, "flagged": {}, "distracted": {}}
    for name, count in sorted(sums.items()):
        group, slash, key = name.partition("/")
        if slash:
            groups[group][key] = count
    tokens = {"prompt": sums["prompt_tokens"], "completion": sums["completion_tokens"]}
    dollars = price.dollars(tokens["prompt"], tokens["completion"])
    return {"rows": sums["rows"], **groups, "tokens": tokens, "dollars": round(dollars, 4)}
