"""Old versions: which expire, which never do, and how one becomes current again."""

from pathlib import Path

import pytest

from raft_spark import config
from raft_spark.errors import InputError
from raft_spark.lake import refs, schemas, tables
from raft_spark.stages import retention

pytestmark = pytest.mark.row

ARTICLES, BASE, COMPLETIONS, DATASET = schemas.ARTICLES, schemas.BASE, schemas.COMPLETIONS, schemas.DATASET


@pytest.fixture
def conf(tmp_path: Path) -> config.Config:
    return config.load(assignments=[f"lake.root={tmp_path}", "lake.keep_versions=1", "lake.keep_days=0"])


def published(conf: config.Config, table: str, *inputs: tables.Version) -> tables.Version:
    new = tables.open_draft(conf.lake, table, "0" * 16)
    return tables.publish(new, conf, [], {version.table: version for version in inputs}, {})


def walked(conf: config.Config) -> dict[str, tables.Version]:
    """Publish a version of every table, each made from the ones before."""
    articles = published(conf, ARTICLES)
    base = published(conf, BASE, articles)
    answers = published(conf, COMPLETIONS, base)
    dataset = published(conf, DATASET, base, answers)
    return {version.table: version for version in (articles, base, answers, dataset)}


def ids(conf: config.Config, table: str) -> list[str]:
    return [version.id for version in tables.history(conf.lake, table)]


def test_what_neither_number_nor_days_keep_expires_and_the_current_stays(conf: config.Config):
    old, new = walked(conf), walked(conf)
    assert set(retention.expire(conf.lake)) == {version.id for version in old.values()}
    for table, version in new.items():
        assert ids(conf, table) == [version.id]
        assert tables.current(conf.lake, table) == version
    assert retention.expire(conf.lake) == []


@pytest.mark.parametrize("setting", ["lake.keep_versions=2", "lake.keep_days=1"])
def test_the_newest_and_the_young_are_kept(conf: config.Config, setting: str):
    walked(conf)
    walked(conf)
    keeps = config.load(
        assignments=[f"lake.root={conf.lake.root}", "lake.keep_versions=1", "lake.keep_days=0", setting]
    )
    assert retention.expire(keeps.lake) == []


def test_a_pinned_dataset_keeps_all_that_it_was_made_from_until_it_is_let_go(conf: config.Config):
    old = walked(conf)
    walked(conf)
    retention.pin(conf.lake, old[DATASET].id)
    assert retention.expire(conf.lake) == []
    retention.pin(conf.lake, old[DATASET].id, off=True)
    assert set(retention.expire(conf.lake)) == {version.id for version in old.values()}


def test_the_source_of_the_current_version_stays_though_newer_ones_are_there(conf: config.Config):
    first = published(conf, ARTICLES)
    base = published(conf, BASE, first)
    newer = published(conf, ARTICLES)
    assert retention.expire(conf.lake) == []
    published(conf, BASE, newer)
    assert set(retention.expire(conf.lake)) == {first.id, base.id}


def test_what_a_branch_points_to_stays(conf: config.Config):
    first = published(conf, ARTICLES)
    branch = conf.model_copy(update={"lake": conf.lake.model_copy(update={"branch": "trial"})})
    trial = published(branch, BASE, first)
    for _ in range(2):
        published(conf, ARTICLES)
        published(conf, BASE)
    retention.expire(conf.lake)
    assert first.id in ids(conf, ARTICLES)
    assert trial.id in ids(conf, BASE)


def test_rolling_back_a_dataset_brings_back_what_it_was_made_from_but_no_answers(conf: config.Config):
    old, new = walked(conf), walked(conf)
    told = retention.roll_back(conf.lake, old[DATASET].id)
    assert told == {table: old[table].id for table in (ARTICLES, BASE, DATASET)}
    now = refs.read(conf.lake)
    assert now.tables == {**told, COMPLETIONS: new[COMPLETIONS].id}
    assert now.left == (new[DATASET].id,)
    retention.roll_back(conf.lake, new[DATASET].id)
    assert refs.read(conf.lake).tables == {table: version.id for table, version in new.items()}
    assert refs.read(conf.lake).left == (old[DATASET].id,)


def test_rolling_back_to_the_current_version_changes_nothing(conf: config.Config):
    new = walked(conf)
    before = refs.read(conf.lake)
    retention.roll_back(conf.lake, new[DATASET].id)
    assert refs.read(conf.lake) == before


@pytest.mark.parametrize("change", [retention.roll_back, retention.pin])
def test_an_unknown_version_is_an_error_that_says_where_to_look(conf: config.Config, change: object):
    walked(conf)
    with pytest.raises(InputError, match=r"has no version 'nothing'; `raft-spark history TABLE` lists them"):
        change(conf.lake, "nothing")
