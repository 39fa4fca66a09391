"""input split -> what became of each of its records, in the order of the source.

Parquet and the built-in articles are checked by columns, and only a record that may be wrong goes to `check_record`, which
has the rules. The other sources have records only.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raft_spark.config import Articles
from raft_spark.sources import input_schema, sources
from raft_spark.sources.records import DECISIONS, MAX_PUBID, Article, Rejected, check_record, fingerprint


def check_split(input_split: sources.InputSplit, conf: Articles) -> Iterator[tuple[str, Any, Article | Rejected]]:
    """Yield (where, record, article or rejection). The record is None for an article that columns were enough for.

    Raises InputError when the file cannot be read.
    """
    if input_split["kind"] in sources.COLUMNAR:
        for wheres, batch in sources.read_batches(input_split):
            checked = check_batch(batch, conf)
            yield from ((where, record, found) for where, (record, found) in zip(wheres, checked, strict=True))
    else:
        yield from ((where, record, check_record(record, conf)) for where, record in sources.read_split(input_split))


def check_batch(batch: pa.RecordBatch, conf: Articles) -> Iterator[tuple[Any, Article | Rejected]]:
    """Yield (record, article or rejection) for each row, as `check_record` judges the row in Python's types."""
    for row, article in enumerate(_plain_articles(batch, conf)):
        if article:
            yield None, article
        else:
            record = batch.slice(row, 1).to_pylist()[0]
            yield record, check_record(record, conf)


class _Column(NamedTuple):
    """The values of each row, texts stripped and "" for null; and the rows of which something may be wrong."""

    values: list[Any]
    odd: set[int]


def _plain_articles(batch: pa.RecordBatch, conf: Articles) -> list[Article | None]:
    """Return the article of each row, None where something may be wrong."""
    arrays = {name: batch[name] for name in batch.schema.names if not _is_nan(batch[name])}
    if input_schema.problem(input_schema.parquet_columns(pa.table(arrays).schema)):
        return [None] * len(batch)
    missing = pa.nulls(len(batch))
    pubids = _read_pubids(arrays["pubid"])
    question, long_answer, decision = (
        _read_texts(arrays.get(name, missing), conf) for name in ("question", "long_answer", "final_decision")
    )
    lists = [_read_lists(_field(arrays["context"], name), conf) for name in ("contexts", "labels", "meshes")]
    columns = (pubids, question, *lists, long_answer, decision)
    odd = set().union(*(column.odd for column in columns))
    rows = zip(*(column.values for column in columns), strict=True)
    return [None if number in odd else _plain_article(row, conf) for number, row in enumerate(rows)]


def _is_nan(column: pa.Array) -> bool:
    """Say whether no row has a value: pandas writes a text column that is missing as NaN."""
    return pa.types.is_floating(column.type) and pc.all(column.is_null(nan_is_null=True)).as_py() is not False


def _field(context: pa.Array, name: str) -> pa.Array:
    """Return the lists of texts of a field of `context`, nulls where it is missing."""
    if pa.types.is_null(context.type) or context.type.get_field_index(name) < 0:
        return pa.nulls(len(context))
    return pc.struct_field(context, name)


def _plain_article(row: Sequence[Any], conf: Articles) -> Article | None:
    pubid, question, passages, labels, meshes, long_answer, decision = row
    decision = decision.lower() or None
    is_whole = question and passages and all(passages)
    if not is_whole or len(passages) > conf.max_passages or decision not in (*DECISIONS, None):
        return None
    content = (question, passages, labels, meshes, long_answer or None, decision)
    return Article(pubid, *content, fingerprint(content))


def _read_pubids(column: pa.Array) -> _Column:
    values = column.to_pylist()
    odd = {row for row, value in enumerate(values) if value is None or not 0 <= value <= MAX_PUBID}
    return _Column([0 if value is None else int(value) for value in values], odd)  # an integer may be a Decimal


def _read_texts(column: pa.Array, conf: Articles) -> _Column:
    if pa.types.is_null(column.type):
        return _Column([""] * len(column), set())
    texts = column.cast(pa.large_binary())
    texts = texts.fill_null(b"") if texts.null_count else texts  # it copies
    if (pc.max(pc.binary_length(texts)).as_py() or 0) <= conf.max_text_chars:
        with suppress(pa.ArrowInvalid):  # a text is not UTF-8
            return _Column([text.strip() for text in texts.cast(pa.large_string()).to_pylist()], set())
    decoded = [_decode(text, conf) for text in texts.to_pylist()]
    return _Column([text or "" for text in decoded], {row for row, text in enumerate(decoded) if text is None})


def _decode(text: bytes, conf: Articles) -> str | None:
    """Return the stripped text; None if it is not UTF-8 or too long."""
    with suppress(UnicodeDecodeError):
        decoded = text.decode()
        return decoded.strip() if len(decoded) <= conf.max_text_chars else None
    return None


def _read_lists(column: pa.Array, conf: Articles) -> _Column:
    if pa.types.is_null(column.type):
        return _Column([[] for _ in range(len(column))], set())
    texts, odd = _read_texts(column.flatten(), conf)
    ends = np.cumsum(column.value_lengths().fill_null(0).to_numpy())
    cuts = pairwise([0, *ends.tolist()])
    return _Column([texts[start:end] for start, end in cuts], set(np.searchsorted(ends, list(odd), "right").tolist()))
