"""A driver that is too small for the articles is named before a stage begins, with what to set."""

import logging

import pytest

from raft_spark import config
from raft_spark.lake import driver_memory, session

GB = 10**9


@pytest.mark.row
@pytest.mark.parametrize(
    ("articles", "total", "heap"),
    [(36_000_000, 16 * GB, 13 * GB), (36_000_000, 3 * GB, 0), (211_269, 1 * GB, 4 * GB), (0, 0, 0)],
)
def test_enough_memory_is_no_problem(articles: int, total: int, heap: int):
    assert driver_memory.shortage(articles, total, heap) == ""


@pytest.mark.row
def test_too_little_is_named_with_what_to_set():
    assert driver_memory.shortage(36_000_000, 16 * GB, 14 * GB) == (
        "the driver may run out of memory: 36,000,000 articles take up to 2.2 GB of its Python process, and Spark's heap may "
        "take 14.0 of 16.0 GB; lower spark.driver.memory, or on EMR Serverless raise emr.driver_memory_gb"
    )
    assert driver_memory.shortage(36_000_000, 4 * GB, 4 * GB)
    assert driver_memory.shortage(5_000_000, 2 * GB, 4 * GB)


@pytest.mark.row
def test_this_machine_has_some_memory():
    assert 100_000_000 < driver_memory.machine_bytes() < 10**14


@pytest.mark.spark
def test_a_stage_warns_of_more_articles_than_fit(caplog: pytest.LogCaptureFixture):
    conf = config.load()
    spark = session.start(conf)
    with caplog.at_level(logging.WARNING):
        driver_memory.warn_if_small(spark, conf, 200_000)
        assert not caplog.records
        driver_memory.warn_if_small(spark, conf, 10**13)
    assert "10,000,000,000,000 articles take up to 600000.0 GB" in caplog.text
