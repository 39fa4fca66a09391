"""articles, stored vectors -> the files in which base looks for the passages that are nearest to a question.

The driver reads the store file by file. In memory it has 8 bytes for each question and passage, and a few files.
"""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raft_spark import config
from raft_spark.common import arrays, wording
from raft_spark.common.hashing import Int64Array, UInt64Array
from raft_spark.endpoints.base import MAY_PASS
from raft_spark.errors import EndpointError, InputError
from raft_spark.inference import embeddings
from raft_spark.lake import parquet, schemas, tables
from raft_spark.recipe import vector_index

NOT_ASKED = "not asked"
_NEVER = {"error_class": NOT_ASKED, "error": "the store has no answer"}
_FLOAT = np.dtype("<f4")
_COLUMNS = ["number", "question", "passages"]
_STORED = ["key", "completion", "error_class", "error", "created_at"]


@dataclass(frozen=True, slots=True)
class _Texts:
    """The texts of a row group of articles by their keys: a question for each number, and the passages of each in turn."""

    split: str
    number: Int64Array
    passages: Int64Array
    question_keys: UInt64Array
    passage_keys: UInt64Array


def build(
    conf: config.Config, row_groups: Sequence[Mapping[str, Any]], sizes: Sequence[int], folder: Path
) -> dict[str, int]:
    """Write the files of vector_index to `folder`; return how many distinct texts have no vector, by error class.

    `row_groups` are those of articles, and `sizes` are the next free numbers of the splits. Raises EndpointError when a text has
    no vector for a reason that may pass, and InputError when vectors have different lengths.
    """
    settings = embeddings.endpoint_settings(conf)
    texts = [_texts(group["split"], rows, settings) for group, rows in parquet.read_ahead(row_groups, _COLUMNS)]
    all_keys = [keys for each in texts for keys in (each.question_keys, each.passage_keys)]
    keys = arrays.distinct(np.concatenate([np.empty(0, np.uint64), *all_keys]))
    is_known, failed = _write_vectors(settings, keys, folder / vector_index.VECTORS)

    def position(of: UInt64Array) -> Int64Array:
        at = np.searchsorted(keys, of)
        return np.where(is_known[at], at, vector_index.NONE)

    for split, size in zip(schemas.SPLITS, sizes, strict=True):
        questions, passages = np.full(size, vector_index.NONE, np.int32), [np.empty(0, vector_index.PASSAGE)]
        for each in (each for each in texts if each.split == split):
            questions[each.number] = position(each.question_keys)
            row, passage = arrays.numbered(each.passages)
            found = np.empty(len(row), vector_index.PASSAGE)
            found["number"], found["passage"], found["vector"] = each.number[row], passage, position(each.passage_keys)
            passages.append(found[found["vector"] != vector_index.NONE])
        for name, rows in zip(vector_index.file_names(split), (np.concatenate(passages), questions), strict=True):
            np.save(folder / name, rows)
    return failed


def _texts(split: str, rows: pa.Table, conf: config.Config) -> _Texts:
    lists = rows["passages"].combine_chunks()
    question_keys, passage_keys = (
        _as_numbers(pa.array(embeddings.keys(texts.to_pylist(), conf), pa.string()))
        for texts in (rows["question"], lists.flatten())
    )
    counts = pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int64)
    return _Texts(split, rows["number"].to_numpy(), counts, question_keys, passage_keys)


def _as_numbers(keys: pa.Array) -> UInt64Array:
    """Return the first 64 bits of keys: of 10^9 texts, two have the same with a chance of 3 %."""
    return np.array([int(key[:16], 16) for key in keys.to_pylist()], np.uint64)


def _write_vectors(conf: config.Config, keys: UInt64Array, path: Path) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Write the vector of each key; return which keys have one, and how many have none, by error class."""
    store = tables.storage(conf.lake, schemas.EMBEDDINGS)
    files = [
        {**store.location(), "path": file, "table": schemas.COMPLETIONS, "row_group": 0}
        for file in tables.answer_files(conf.lake, schemas.EMBEDDINGS)
    ]
    is_known, vectors = np.zeros(len(keys), bool), None
    failures: dict[int, Mapping[str, Any]] = {}
    for _, rows in parquet.read_ahead(files, _STORED):
        stored = _as_numbers(rows["key"])
        at, is_wanted = arrays.find(stored, keys)
        is_wanted &= ~is_known[at]
        is_answered = pc.is_valid(rows["completion"]).to_numpy()
        if (chosen := is_wanted & is_answered).any():
            found = _decoded(rows["completion"].filter(pa.array(chosen)), conf)
            if vectors is None:
                vectors = np.lib.format.open_memmap(path, "w+", np.int16, (len(keys), found.shape[1]))
            _require_same_length({vectors.shape[1], found.shape[1]}, conf)
            vectors[at[chosen]], is_known[at[chosen]] = vector_index.rounded(found), True
        failed = is_wanted & ~is_answered
        for key, row in zip(at[failed].tolist(), rows.filter(pa.array(failed)).to_pylist(), strict=True):
            failures[key] = max(failures.get(key, row), row, key=lambda each: each["created_at"])
    if vectors is None:
        np.save(path, np.zeros((len(keys), 1), np.int16))
    return is_known, _failed([failures.get(key, _NEVER) for key in np.flatnonzero(~is_known).tolist()])


def _decoded(texts: pa.ChunkedArray, conf: config.Config) -> NDArray[np.float32]:
    """Return the vectors in the texts of answers, shape (texts, numbers)."""
    encoded = [base64.b64decode(text) for text in texts.to_pylist()]
    _require_same_length({len(data) // _FLOAT.itemsize for data in encoded}, conf)
    return np.frombuffer(b"".join(encoded), _FLOAT).reshape(len(encoded), -1)


def _require_same_length(lengths: set[int], conf: config.Config) -> None:
    if len(lengths) > 1:
        msg = (
            f"the vectors of model {conf.teacher.model!r} in {conf.lake.root}/{schemas.EMBEDDINGS} have {min(lengths)} and "
            f"{max(lengths)} numbers, so they are of different models; give endpoints.{conf.completions.endpoint} a model of its own "
            "name, or delete that folder"
        )
        raise InputError(msg)


def _failed(failures: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Count the texts without a vector by error class. Raises EndpointError when one may pass."""
    may_pass = [row for row in failures if row["error_class"] in MAY_PASS | {NOT_ASKED}]
    if may_pass:
        counts = Counter(str(row["error_class"]) for row in may_pass)
        msg = (
            f"{counts.total()} texts have no embedding yet ({wording.counts(counts)}); a rerun asks for these only. "
            f"One reason: {may_pass[0]['error']}"
        )
        raise EndpointError(msg)
    return dict(Counter(row["error_class"] for row in failures))
