"""A refresh of a lake of Parquet tables: only what is new is made and paid for, readers get all of it at once or nothing."""

from pathlib import Path

import pytest

from conftest import Settle
from raft_spark import config
from support.refresh_tests import *  # noqa: F403 - the test functions and the fixture `source`

pytestmark = pytest.mark.spark


@pytest.fixture
def conf(settled: Settle, source: Path, fake: config.Endpoint) -> config.Config:
    return settled(
        f"articles.source={source}",
        "completions.endpoint=mine",
        'endpoints.mine.kind="openai"',
        f'endpoints.mine.url="{fake.url}"',
        'endpoints.mine.model="fake"',
    )
