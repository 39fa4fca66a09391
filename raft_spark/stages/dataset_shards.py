"""rows of each part, with their answers -> the shards of the dataset: the second half of the stage dataset.

A task checks the answer of each row, fits the row to dataset.max_tokens, and writes it in every format, one shard after the
other. It holds one part of a shard at a time.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raft_spark import config
from raft_spark.errors import DamageError
from raft_spark.formats import shards, targets
from raft_spark.formats.formats import FORMATS, RowTexts, TrainingRow
from raft_spark.formats.placement import Placement
from raft_spark.inference.acceptance import Acceptance, judge_answer
from raft_spark.lake import blobs, parquet, schemas
from raft_spark.lake.filesystem import Storage

BATCH_ROWS = 1_000  # converted to Python at once


@dataclass(frozen=True)
class ShardsTask:
    """What the tasks that write need; `tokenizer` is its file's content."""

    conf: config.Dataset
    completions: config.Completions
    at: Storage
    placement: Placement
    tokenizer: str = ""

    @cached_property
    def token_counter(self) -> targets.TokenCounter:
        """The function that counts the tokens of a text."""
        return targets.token_counter(self.tokenizer)


@dataclass(slots=True)
class WrittenShard:
    """The files of a shard in all formats and its quarantine, and what its rows add up to, as GROUP/KEY."""

    files: list[parquet.DataFile] = field(default_factory=list)
    sums: Counter[str] = field(default_factory=Counter)


def write(parts: blobs.Parts, task: ShardsTask) -> Iterator[WrittenShard]:
    """Write the shards whose parts a task gets, in order."""
    for (split, number), of_shard in groupby(parts, lambda part: task.placement.shard_of(part[0])):
        rows = (row for _, sides in of_shard for row in _python_rows(sorted_rows(sides, task.placement)))
        yield _write_shard(split, number, (_finish(row, split, task) for row in rows), task)


def sorted_rows(sides: Mapping[int, pa.Table], placement: Placement) -> pa.Table:
    """Return the rows of a part in their order, the columns of all sides beside each other."""
    first, *others = (_sorted(rows, placement) for rows in sides.values())
    for other in others:
        if not (first["pubid"] == other["pubid"] and first["distracted"] == other["distracted"]):
            msg = "the rows of base and their answers are not the same rows; delete this version of base and run again"
            raise DamageError(msg)
        for name in other.column_names[2:]:
            first = first.append_column(name, other[name])
    return first


def _sorted(rows: pa.Table, placement: Placement) -> pa.Table:
    pubids, distracted = rows["pubid"].to_numpy(), rows["distracted"].to_numpy()
    return rows.take(pa.array(np.lexsort((distracted, pubids, placement.order(pubids)))))


def _python_rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    return (row for batch in table.to_batches(max_chunksize=BATCH_ROWS) for row in _rows(batch))


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

    split: str
    joined: Mapping[str, Any]
    acceptance: Acceptance
    training_row: TrainingRow | None

    def names(self) -> Iterator[str]:
        """Yield the counts that the row raises by one, as GROUP/KEY; a rejected row counts for its first reason."""
        yield "rows"
        if self.training_row is None:
            yield f"rejected/{self.acceptance.rejected[0]}"
            return
        yield f"kept/{self.split}"
        if self.training_row.distracted:
            yield f"distracted/{self.split}"
        if len(self.training_row.passages) < len(self.joined["passages"]):
            yield f"shortened/{self.split}"
        yield from (f"flagged/{reason}" for reason in self.acceptance.flagged)
        yield from (f"cleaned/{kind}" for kind in self.acceptance.answer.removed)

    def tokens(self) -> dict[str, int]:
        """Return the tokens of the row's answer, unless another row counts them; 0 is not counted by the server."""
        if not self.joined.get("is_first_use", True):
            return {}
        group = "batch_tokens" if self.joined.get("is_batch") else "tokens"
        counts = {name: self.joined[f"{name}_tokens"] for name in ("prompt", "completion")}
        return {f"{group}/{name}" if count else f"not_counted/{name}": count or 1 for name, count in counts.items()}


def _finish(joined: Mapping[str, Any], split: str, task: ShardsTask) -> FinishedRow:
    """Check the answer of a joined row, and fit the row to dataset.max_tokens."""
    accepted = judge_answer(joined, task.conf, task.completions)
    if accepted.rejected:
        return FinishedRow(split, joined, accepted, None)
    row = targets.training_row(joined, accepted.answer.text, task.conf, task.completions)
    place = joined.get("rejected_place")
    distractor = "" if place is None else row.passages[place]
    if not task.conf.max_tokens:
        return FinishedRow(split, joined, accepted, targets.renumber_citations(row, distractor))
    passages = targets.fit_length(
        row, joined["is_whole"], accepted.answer.text, task.token_counter, task.conf.max_tokens
    )
    if passages is None:
        return FinishedRow(split, joined, Acceptance(("longer than max_tokens",)), None)
    rejected = row.rejected_answer if distractor in passages else None  # that distractor may have been removed
    row = replace(row, passages=passages, rejected_answer=rejected)
    return FinishedRow(split, joined, accepted, targets.renumber_citations(row, distractor))


def _write_shard(split: str, number: int, rows: Iterator[FinishedRow], task: ShardsTask) -> WrittenShard:
    """Write one shard in every format, and its rejected rows to the quarantine."""
    written, rejected = WrittenShard(), list[Mapping[str, Any]]()
    writers = [(FORMATS[name], _writer(name, split, number, task)) for name in task.conf.formats]
    with ExitStack() as stack:
        for _, writer in writers:
            stack.enter_context(writer)
        for row in rows:
            written.sums.update(row.names())
            written.sums.update(row.tokens())
            if row.training_row is None:
                rejected.append(_rejected(row))
                continue
            texts = RowTexts(row.training_row)
            for form, writer in writers:
                line = form.line(texts)
                if line is not None:
                    writer.write(line)
    written.files = [file for _, writer in writers for file in writer.files]
    if rejected:
        name = f"quarantine/{split}-{number:05d}-of-{task.placement.shards[split]:05d}.parquet"
        written.files.append(parquet.write_file(task.at, name, pa.Table.from_pylist(rejected, schemas.QUARANTINE)))
    return written


def _rejected(row: FinishedRow) -> Mapping[str, Any]:
    reason = ", ".join(row.acceptance.rejected)
    return {"pubid": row.joined["pubid"], "record": row.joined["completion"], "reason": reason, "source": row.split}


def _writer(name: str, split: str, number: int, task: ShardsTask) -> shards.ShardWriter:
    form = FORMATS[name]
    path = f"{name}/{form.shard(split, number, task.placement.shards[split])}"
    return shards.ShardWriter(task.at, path, "jsonl" if form.is_jsonl else task.conf.file, form.schema)
