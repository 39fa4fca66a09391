"""Pubids and text hashes are files beside the staged articles; read back, they are the records that are numbered."""

from pathlib import Path

import pytest

from raft_spark.lake import parquet
from raft_spark.lake.filesystem import Storage
from raft_spark.sources import text_hashes
from raft_spark.sources.records import Article

pytestmark = pytest.mark.row


def article(pubid: int, question: str, *passages: str) -> Article:
    return Article(pubid, question, list(passages), [], [], None, None, "")


# "Methods." is boilerplate, which has no hash
FOUND = [
    article(
        2**63 - 1, "Do statins lower the risk of a second stroke?", "Methods.", "Forty men were followed for two years."
    ),
    article(7, "Methods.", "Methods."),
    article(8, "Do STATINS lower the risk - of a second stroke", "Twelve of the women were lost to follow-up."),
]


def write(folder: Path, task: int) -> list[parquet.DataFile]:
    with parquet.PartitionedWriter(Storage(str(folder)), text_hashes.SCHEMA, task, row_group_rows=2) as writer:
        writer.write("hashes", text_hashes.table(FOUND))
    return writer.files


def test_what_was_written_is_read_file_by_file_and_again(tmp_path: Path):
    files = write(tmp_path, 0) + write(tmp_path, 1)
    records = text_hashes.records(Storage(str(tmp_path)), files)
    assert records.count == 6
    for _ in range(2):
        assert [part.tolist() for part in records.pubids()] == [[2**63 - 1, 7], [8]] * 2
        found = [(lengths.tolist(), hashes.tolist()) for lengths, hashes in records.hashes()]
        assert found[:2] == found[2:]
    (first, hashes), (second, others) = found[:2]
    assert (first, second) == ([2, 0], [2])
    assert hashes[0] == others[0]  # the same words
    assert len({*hashes, *others}) == 3


def test_a_task_that_runs_twice_writes_the_same_file(tmp_path: Path):
    assert write(tmp_path, 3) == write(tmp_path, 3)
    assert [path.name for path in (tmp_path / "hashes").iterdir()] == ["part-00003.parquet"]


def test_no_articles_are_no_rows():
    assert text_hashes.table([]).num_rows == 0
