"""Test functions of a refresh, for every format of the lake: only new work is done and paid for, and a closed gate
stops it.

A module that imports them defines the fixture `conf`, a lake whose articles come from the fixture `source`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import article, write_articles
from raft_spark import config
from raft_spark.errors import GateError, InputError
from raft_spark.lake import dataframes, refs, schemas, session, tables
from raft_spark.stages import gates, refresh, retention

ROWS = 200


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "source"


def write(source: Path, pubids: range, more: dict[int, str] | None = None) -> None:
    """Write a source with one article per pubid; `more` has other texts for some of them."""
    records = [
        article(pubid, [f"Passage {pubid} says what {(more or {}).get(pubid, 'it said')}.", f"Another of {pubid}."])
        for pubid in pubids
    ]
    write_articles(source / "rows.parquet", records)


def stored_keys(conf: config.Config) -> int:
    return dataframes.stored_answers(session.start(conf), conf.lake).count()


def records(conf: config.Config) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(Path(conf.lake.root, "refreshes").glob("*.json"))]


def test_a_source_that_grows_changes_and_shrinks_is_followed_and_only_new_requests_are_paid_for(
    conf: config.Config, source: Path
):
    write(source, range(ROWS))
    first = refresh.run(conf)
    assert first.outcome == "published"
    assert stored_keys(conf) == ROWS
    numbers = numbered(conf)

    assert refresh.run(conf).outcome == "nothing new"
    assert len(records(conf)) == 1

    write(source, range(3, ROWS + 2), {7: "it did not say"})
    second = refresh.run(conf)
    assert second.changes[schemas.ARTICLES] == gates.Changes(new=2, changed=1, withdrawn=3, same=ROWS - 4)
    assert second.changes[schemas.BASE].new == 2
    assert stored_keys(conf) == ROWS + 3
    now = numbered(conf)
    assert {pubid: now[pubid] for pubid in range(3, ROWS)} == {pubid: numbers[pubid] for pubid in range(3, ROWS)}
    assert all(gate.passed for gate in second.gates)
    assert second.after[schemas.DATASET] == tables.require(conf.lake, schemas.DATASET).id
    assert [told["outcome"] for told in records(conf)] == ["published", "published"]
    assert records(conf)[1]["before"] == {**first.after}
    assert refs.branches(conf.lake) == {}


def numbered(conf: config.Config) -> dict[int, tuple[str, int]]:
    rows = dataframes.read(session.start(conf), conf.lake, tables.require(conf.lake, schemas.ARTICLES))
    return {row.pubid: (row.split, row.number) for row in rows.select("pubid", "split", "number").collect()}


def test_a_closed_gate_leaves_the_lake_pays_for_nothing_and_says_why(conf: config.Config, source: Path):
    write(source, range(ROWS))
    before = refresh.run(conf).after
    write(source, range(20, ROWS + 20))
    with pytest.raises(
        GateError, match=r"share of articles withdrawn is 0\.1, it must be in 0\.\.0\.05; .*the lake stays as it was"
    ):
        refresh.run(conf)
    assert refs.read(conf.lake).tables == before
    assert stored_keys(conf) == ROWS
    assert records(conf)[-1]["outcome"] == "refused"
    allowed = conf.model_copy(
        update={"refresh": conf.refresh.model_copy(update={"max_withdrawn_share": 0.2, "max_changed_share": 1.0})}
    )
    assert refresh.run(allowed).outcome == "published"


def test_a_rolled_back_version_is_not_published_again_until_something_is_new(conf: config.Config, source: Path):
    write(source, range(ROWS))
    first = refresh.run(conf).after
    write(source, range(ROWS + 2))
    second = refresh.run(conf).after
    retention.roll_back(conf.lake, first[schemas.DATASET])
    again = refresh.run(conf)
    assert again.outcome == "nothing new"
    assert second[schemas.DATASET] in again.reason
    assert refs.read(conf.lake).tables[schemas.BASE] == first[schemas.BASE]
    write(source, range(ROWS + 3))
    assert refresh.run(conf).outcome == "published"


def test_of_two_refreshes_at_once_one_is_published_and_the_other_says_so(
    conf: config.Config, source: Path, monkeypatch: pytest.MonkeyPatch
):
    write(source, range(ROWS))
    refresh.run(conf)
    write(source, range(ROWS + 2))
    done: list[refresh.RefreshRecord] = []

    def other_first(*arguments: Any) -> Iterator[Any]:
        monkeypatch.undo()
        done.append(refresh.run(conf))
        return found(*arguments)

    found = gates.check_dataset
    monkeypatch.setattr(gates, "check_dataset", other_first)
    with pytest.raises(InputError, match="another run published"):
        refresh.run(conf)
    assert refs.read(conf.lake).tables == done[0].after
    assert sorted(told["outcome"] for told in records(conf)) == ["failed", "published", "published"]
    assert stored_keys(conf) == ROWS + 2
    assert refresh.run(conf).outcome == "nothing new"
