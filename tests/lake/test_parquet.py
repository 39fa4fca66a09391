"""Row groups are read ahead, few at a time, and come in the order asked for."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raft_spark.errors import DamageError
from raft_spark.lake import parquet, schemas

pytestmark = pytest.mark.row

ROWS_A_GROUP, GROUPS = 3, 40


@pytest.fixture
def groups(tmp_path: Path) -> list[dict[str, Any]]:
    """The row groups of a file whose pubids count from 0."""
    table = pa.table({"pubid": range(ROWS_A_GROUP * GROUPS), "question": ["why?"] * ROWS_A_GROUP * GROUPS})
    pq.write_table(table, tmp_path / "part.parquet", row_group_size=ROWS_A_GROUP)
    place = {"root": str(tmp_path), "endpoint": "", "region": "", "path": "part.parquet", "table": schemas.ARTICLES}
    return [{**place, "row_group": number} for number in range(GROUPS)]


def test_row_groups_come_in_order_though_later_ones_are_read_faster(
    groups: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
):
    read, started = parquet.read_row_group, []

    def slow(group: Mapping[str, Any], columns: list[str]) -> pa.Table:
        started.append(group["row_group"])
        time.sleep(0.002 * (group["row_group"] % 3 == 0))
        return read(group, columns)

    monkeypatch.setattr(parquet, "read_row_group", slow)
    found = []
    for group, rows in parquet.read_ahead(groups, ["pubid"]):
        found.append((group["row_group"], rows["pubid"].to_pylist()))
        assert len(started) <= len(found) + parquet.READERS
    assert found == [(number, [3 * number, 3 * number + 1, 3 * number + 2]) for number in range(GROUPS)]


def test_a_damaged_row_group_is_an_error_and_no_more_are_read(
    groups: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
):
    read, started = parquet.read_row_group, []

    def damaged(group: Mapping[str, Any], columns: list[str]) -> pa.Table:
        started.append(group["row_group"])
        if group["row_group"] == 1:
            msg = "part.parquet is damaged"
            raise DamageError(msg)
        return read(group, columns)

    monkeypatch.setattr(parquet, "read_row_group", damaged)
    with pytest.raises(DamageError, match=r"part\.parquet is damaged"):
        list(parquet.read_ahead(groups, ["pubid"]))
    assert len(started) <= parquet.READERS + 2
