"""What gives a missing oracle away without reading is found, and only that."""

from typing import Any

import numpy as np
import pytest

from conftest import Settle
from raft_spark import config
from raft_spark.lake import dataframes, session
from raft_spark.recipe import leakage
from raft_spark.stages import articles, base


@pytest.mark.row
@pytest.mark.parametrize(
    ("scores", "positive", "expected"),
    [
        ([1, 2, 3, 4], [0, 0, 1, 1], 1.0),
        ([4, 3, 2, 1], [0, 0, 1, 1], 0.0),
        ([1, 1, 1, 1], [0, 0, 1, 1], 0.5),
        ([1, 2, 2, 3], [0, 0, 1, 1], 0.875),
        ([1, 2], [1, 1], 0.5),
    ],
)
def test_the_area_is_the_share_of_pairs_in_order(scores: list[float], positive: list[int], expected: float):
    assert leakage.auc(np.array(scores, float), np.array(positive, bool)) == expected


@pytest.mark.row
def test_the_area_of_a_histogram_is_that_of_its_rows():
    chance = np.random.default_rng(3)
    scores, positive, rows = chance.integers(0, 9, 40), chance.random(40) < 0.4, chance.integers(0, 5, 40)
    each = leakage.auc(np.repeat(scores, rows), np.repeat(positive, rows))
    assert leakage.auc(scores, positive, rows) == each != 0.5


@pytest.mark.row
def test_no_rows_tell_nothing():
    assert leakage.auc(np.array([]), np.array([], bool)) == 0.5


@pytest.mark.row
def test_a_classifier_learns_what_no_length_tells_alone_and_nothing_from_noise():
    chance = np.random.default_rng(0)
    values = chance.normal(size=(2, 20_000))
    inside = np.abs(values[0]) < 0.6  # neither short nor long tells
    assert abs(leakage.auc(values[0], inside) - 0.5) < 0.02
    assert leakage._learned(values, inside) > 0.95
    assert abs(leakage._learned(values, chance.random(20_000) < 0.3) - 0.5) < 0.03


@pytest.mark.spark
def test_rows_of_one_length_tell_little_and_the_notebooks_tell_all(settled: Settle):
    fair, notebook = told(settled()), told(settled("base.equal_length=false"))
    assert fair["rows"] == notebook["rows"] == 300
    assert abs(fair["area"]["passages"] - 0.5) < 0.15
    assert notebook["area"]["passages"] < 0.01
    assert notebook["area"]["lengths"] > 0.98
    assert 0.4 < fair["oracle_place"] < 0.6
    assert fair["in_two_splits"] == 0


def told(conf: config.Config) -> dict[str, Any]:
    articles.run(conf)
    version = base.run(conf)
    rows = dataframes.read(session.start(conf), conf.lake, version)
    return leakage.measure(rows)


@pytest.mark.spark
def test_a_text_of_another_split_is_counted(settled: Settle):
    conf = settled()
    articles.run(conf)
    rows = dataframes.read(session.start(conf), conf.lake, base.run(conf))
    assert leakage._in_two_splits(rows) == 0
    leaked = rows.where("split = 'train'").limit(1)
    shown = len(leaked.first().documents)
    assert leakage._in_two_splits(rows.unionByName(leaked.replace("train", "test", "split"))) == shown
