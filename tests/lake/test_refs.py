"""Which version readers get: moved at once for several tables, by one writer of two, in branches of their own."""

import dataclasses
import time
from pathlib import Path

import pytest

from raft_spark import config
from raft_spark.errors import InputError
from raft_spark.lake import refs

pytestmark = pytest.mark.row


@pytest.fixture(params=["disk", "s3"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> config.Lake:
    if request.param == "disk":
        return config.load(assignments=[f"lake.root={tmp_path}"]).lake
    address = request.getfixturevalue("s3")
    return config.load(assignments=[f"lake.root=s3://lake/{tmp_path.name}", f"lake.s3_endpoint={address}"]).lake


def branch(lake: config.Lake, name: str) -> config.Lake:
    return lake.model_copy(update={"branch": name})


def test_a_new_lake_points_to_nothing(lake: config.Lake):
    assert refs.read(lake) == refs.Refs()


def test_several_tables_move_at_once_and_the_others_stay(lake: config.Lake):
    assert refs.compare_and_swap(lake, {"articles": "a1", "completions": "c1"}, {})
    assert refs.compare_and_swap(lake, {"articles": "a2", "base": "b2"}, {"articles": "a1"})
    assert refs.read(lake).tables == {"articles": "a2", "base": "b2", "completions": "c1"}


def test_if_one_of_the_tables_has_moved_since_none_of_them_moves(lake: config.Lake):
    refs.compare_and_swap(lake, {"articles": "a1", "base": "b1"}, {})
    assert not refs.compare_and_swap(lake, {"articles": "a2", "base": "b2"}, {"articles": "a1", "base": "b0"})
    assert not refs.compare_and_swap(lake, {"base": "b2"}, {})
    assert refs.read(lake).tables == {"articles": "a1", "base": "b1"}


def test_another_table_that_moved_meanwhile_is_no_conflict(lake: config.Lake):
    refs.compare_and_swap(lake, {"articles": "a1"}, {})
    seen: list[refs.Refs] = []

    def slowly(now: refs.Refs) -> refs.Refs:
        seen.append(now)
        if len(seen) == 1:
            refs.compare_and_swap(lake, {"completions": "c1"}, {})
        return dataclasses.replace(now, tables={**now.tables, "base": "b1"})

    assert refs.update(lake, slowly)
    assert len(seen) == 2
    assert refs.read(lake).tables == {"articles": "a1", "base": "b1", "completions": "c1"}


def test_a_branch_begins_where_the_lake_stands_and_is_seen_by_nobody_else(lake: config.Lake):
    refs.compare_and_swap(lake, {"articles": "a1", "base": "b1"}, {})
    trial = branch(lake, "trial")
    assert refs.read(trial).tables == {"articles": "a1", "base": "b1"}
    assert refs.compare_and_swap(trial, {"base": "b2"}, {"base": "b1"})
    assert refs.read(trial).tables == {"articles": "a1", "base": "b2"}
    assert refs.read(lake).tables == {"articles": "a1", "base": "b1"}
    assert {name: found.tables["base"] for name, found in refs.branches(lake).items()} == {"trial": "b2"}
    refs.drop(trial)
    assert refs.branches(lake) == {}


def test_the_branch_of_a_living_refresh_is_renewed_and_never_swept(lake: config.Lake):
    impatient = lake.model_copy(update={"sweep_after_hours": 2 / 3600})
    living, dead = branch(impatient, "refresh-1"), branch(impatient, "refresh-2")
    before = refs.Refs({"base": "b1"})
    refs.create(living, before)
    refs.create(dead, before)
    with refs.renewed(living):
        time.sleep(2.5)
        refs.sweep(impatient)
        assert set(refs.branches(lake)) == {"refresh-1"}
        assert refs.read(living) == before
        refs.drop(living)
        time.sleep(1)
    assert refs.branches(lake) == {}, "a renewal brings no branch back"


def test_the_branch_of_a_refresh_that_is_gone_is_not_taken_for_the_lake(lake: config.Lake):
    refs.compare_and_swap(lake, {"base": "b0"}, {})
    swept = branch(lake, "refresh-1")
    refs.create(swept, refs.read(lake))
    with pytest.raises(InputError, match="has a branch 'refresh-1' already"):
        refs.create(swept, refs.Refs())
    refs.drop(swept)
    for use in (refs.read, lambda at: refs.compare_and_swap(at, {"base": "b1"}, {"base": "b0"})):
        with pytest.raises(InputError, match=r"branch refresh-1 of .* is gone: .*run the refresh again"):
            use(swept)
    assert refs.branches(lake) == {}


def test_branches_of_refreshes_that_died_long_ago_are_swept_and_no_others(lake: config.Lake):
    for name in ("refresh-1", "trial"):
        refs.create(branch(lake, name), refs.Refs({"base": "b1"}))
    refs.sweep(lake)
    assert set(refs.branches(lake)) == {"refresh-1", "trial"}
    refs.sweep(lake.model_copy(update={"sweep_after_hours": 0.0}))
    assert set(refs.branches(lake)) == {"trial"}
