"""All that a refresh promises, once more with lake.format = "iceberg": and the catalog holds what the lake holds after each."""

from collections.abc import Iterator

import pytest
from test_iceberg import conf as _in_a_folder  # noqa: F401 - a fixture
from test_iceberg import holds
from test_refresh import *  # noqa: F403 - its tests

from raft_spark import config
from raft_spark.lake import iceberg


@pytest.fixture
def conf(_in_a_folder: config.Config) -> Iterator[config.Config]:  # noqa: F811 - the fixture
    yield _in_a_folder
    iceberg.sync(_in_a_folder)
    assert holds(_in_a_folder)
