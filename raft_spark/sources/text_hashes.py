"""articles -> files of their pubids and text hashes, beside the staged articles; read back part by part for `splits.assign`."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from raft_spark.common.hashing import Int64Array, UInt64Array
from raft_spark.lake import parquet, schemas
from raft_spark.lake.filesystem import Storage
from raft_spark.sources import splits
from raft_spark.sources.records import Article, leak_digests

SCHEMA = pa.schema([("pubid", pa.int64()), ("hashes", pa.list_(pa.uint64()))])
ROW_GROUP_ROWS = 16_384  # the driver holds parquet.READERS row groups at once, less than 1 MB each


def table(articles: Sequence[Article]) -> pa.Table:
    """Return the pubid of each article and the leak hashes of its texts, without those of boilerplate."""
    digests = iter(leak_digests([text for each in articles for text in (each.question, *each.passages)]))
    found = [b"".join(islice(digests, 1 + len(each.passages))) for each in articles]
    offsets = np.cumsum([0, *(len(each) // 8 for each in found)], dtype=np.int32)
    hashes = pa.ListArray.from_arrays(offsets, np.frombuffer(b"".join(found), ">u8").astype(np.uint64))
    return pa.table([pa.array([each.pubid for each in articles], pa.int64()), hashes], schema=SCHEMA)


def records(at: Storage, files: Sequence[parquet.DataFile]) -> splits.Records:
    """Return the records of these files, which are read whenever they are asked for."""
    groups = [{**group, "table": schemas.ARTICLES} for group in parquet.row_groups(at, files)]
    return splits.Records(sum(file.rows for file in files), partial(_pubids, groups), partial(_hashes, groups))


def _pubids(groups: Sequence[Mapping[str, Any]]) -> Iterator[Int64Array]:
    for _, rows in parquet.read_ahead(groups, ["pubid"]):
        yield rows["pubid"].to_numpy()


def _hashes(groups: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Int64Array, UInt64Array]]:
    for _, rows in parquet.read_ahead(groups, ["hashes"]):
        lists = rows["hashes"].combine_chunks()
        yield lists.value_lengths().to_numpy(), lists.flatten().to_numpy()
