"""The tests of a refresh, with lake.format = "iceberg": after each, the catalog holds what the lake holds."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import Settle
from raft_spark import config
from raft_spark.lake import iceberg
from support.iceberg_lake import holds, iceberg_config
from support.refresh_tests import *  # noqa: F403 - the test functions and the fixture `source`

pytestmark = pytest.mark.spark


@pytest.fixture
def conf(settled: Settle, source: Path, fake: config.Endpoint) -> Iterator[config.Config]:
    conf = iceberg_config(settled, source, fake)
    yield conf
    iceberg.sync(conf)
    assert holds(conf)
