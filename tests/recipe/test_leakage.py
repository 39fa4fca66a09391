"""Lengths that predict a missing oracle are found, and nothing else is."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from conftest import Make, Settle
from raft_spark import config
from raft_spark.lake import dataframes, parquet, session, tables
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
def test_no_rows_are_a_guess():
    assert leakage.auc(np.array([]), np.array([], bool)) == 0.5


@pytest.mark.row
def test_a_classifier_finds_what_no_single_length_predicts_and_nothing_in_noise():
    chance = np.random.default_rng(0)
    values = chance.normal(size=(2, 20_000))
    inside = np.abs(values[0]) < 0.6  # neither short nor long predicts it
    assert abs(leakage.auc(values[0], inside) - 0.5) < 0.02
    assert leakage._classifier_auc(values, inside) > 0.95
    assert abs(leakage._classifier_auc(values, chance.random(20_000) < 0.3) - 0.5) < 0.03


@pytest.mark.spark
def test_rows_of_equal_length_leak_little_and_the_notebooks_leak_all(settled: Settle):
    fair, notebook = measured(settled()), measured(settled("base.absent=nothing"))
    assert fair["rows"] == notebook["rows"] == 300
    assert abs(fair["area"]["passages"] - 0.5) < 0.15
    assert notebook["area"]["passages"] < 0.01
    assert notebook["area"]["lengths"] > 0.98
    assert 0.4 < fair["oracle_place"] < 0.6
    assert fair["in_two_splits"] == 0


def measured(conf: config.Config) -> dict[str, Any]:
    articles.run(conf)
    return leakage.measure(session.start(conf), conf.lake, base.run(conf)).tells


@pytest.mark.row
def test_features_are_those_of_a_row_read_by_hand():
    first = [(0, "four", False), (2, "sixsix", True), (0, "\u00e4\u00e4", True)]
    second = [(1, "x", False)]
    rows = [[dict(zip(("passage", "text", "oracle"), each, strict=True)) for each in row] for row in (first, second)]
    found = leakage.features(pa.array(rows, DOCUMENTS))
    assert {name: column.tolist() for name, column in found.items() if name != "position"} == {
        "passages": [3, 1],
        "characters": [12, 1],
        "shortest": [2, 1],
        "longest": [6, 1],
        "first": [4, 1],
        "last": [2, 1],
        "openings": [2, 0],
        "kinds": [2, 1],
        "deepest": [2, 1],
        "shared": [0, 0],
        "common": [0, 0],
    }
    assert found["position"][0] == 0.75  # at 1 and 2 of 0..2
    assert np.isnan(found["position"][1])
    assert leakage.features(pa.array([], DOCUMENTS))["kinds"].tolist() == []


@pytest.mark.row
def test_words_that_several_passages_share_are_counted_once_each():
    texts = pa.array(["The drug, the drug", "the DRUG, works", "Drug, works well", "one two", "two", "two three"])
    found = leakage._shared_words(texts, np.array([0, 0, 0, 1, 1, 1]), 2)
    assert found["shared"].tolist() == [
        3 / 5,
        1 / 3,
    ]  # the "drug," works of: the "drug," drug works well; two of one two three
    assert found["common"].tolist() == [1 / 5, 1 / 3]


@pytest.mark.row
def test_the_interval_of_an_area_is_that_of_hanley_and_mcneil():
    positive = np.arange(109) < 51  # their table I: area 0.893, standard error 0.032
    low, high = leakage.interval(0.893, positive)
    assert (high - low) / 2 / 1.96 == pytest.approx(0.032, abs=0.0015)
    assert leakage.interval(0.7, np.ones(5, bool)) == (0.0, 1.0)


@pytest.mark.spark
def test_stand_ins_leave_nothing_to_tell_and_single_passages_do(settled: Settle):
    found = {}
    for absent in ("stand_in", "singles"):
        conf = settled("articles.source=sample:3000", f"base.absent={absent}")
        found[absent] = measured(conf)["area"][leakage.ALL]
    assert abs(found["stand_in"] - 0.5) < 0.06
    assert found["singles"] > 0.7


@pytest.mark.row
def test_the_sample_is_the_rows_with_the_lowest_hashes():
    rows = pa.table(
        {"pubid": range(1_000), "distracted": [False] * 1_000, "documents": pa.array([ONE] * 1_000, DOCUMENTS)}
    )
    some, all_ = (leakage._sample(rows, share).sort_by("order") for share in (0.3, 1.1))
    assert len(all_) == 1_000
    assert 250 < len(some) < 350
    assert some["order"].to_pylist() == all_["order"][: len(some)].to_pylist()
    assert some["passages"].to_pylist() == [1.0] * len(some)


DOCUMENTS = pa.list_(pa.struct([("passage", pa.int32()), ("text", pa.string()), ("oracle", pa.bool_())]))
ONE = [{"passage": 0, "text": "one", "oracle": True}]


@pytest.mark.spark
def test_a_text_of_another_split_is_counted(settled: Settle, make: Make):
    conf = settled()
    make(conf, articles, base)
    version = base.run(conf)
    groups = tables.row_groups(conf.lake, version)
    spark = session.start(conf)
    assert leakage._in_two_splits(dataframes.assign_tasks(spark, groups, 2)) == 0
    moved = {**next(group for group in groups if group["split"] == "test"), "split": "validation"}
    documents = parquet.read_row_group(moved, ["documents"])["documents"].combine_chunks().flatten()
    shown = {(each["pubid"], each["passage"]) for each in documents.to_pylist()}
    for tasks in (1, 3):
        assert leakage._in_two_splits(dataframes.assign_tasks(spark, [*groups, moved], tasks)) == len(shown)
