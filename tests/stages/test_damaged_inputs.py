"""A stage that reads a damaged file ends with a sentence that names it, whoever reads: a task of ours or Spark itself."""

from pathlib import Path

import pytest

from conftest import Settle
from raft_spark import config
from raft_spark.errors import DamageError
from raft_spark.lake import schemas, session, tables
from raft_spark.lake.dataframes import read
from raft_spark.lake.tasks import worker_errors
from raft_spark.stages import articles, base, registry, runner

pytestmark = pytest.mark.spark


def blank(path: Path, begin: int, end: int) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:begin] + bytes(end - begin) + data[end:])


def largest(conf: config.Config, table: str) -> Path:
    version = tables.require(conf.lake, table)
    file = max(version.data(), key=lambda file: file.bytes)
    return Path(tables.files_folder(conf.lake, version).path(file.path))


def test_a_damaged_file_is_named_by_the_stage_that_reads_it(settled: Settle, fake: config.Endpoint):
    conf = settled(f"endpoints.fake.url={fake.url}")
    articles.run(conf)
    base.run(conf)
    for table, stage, other in (("articles", "base", "base.seed=9"), ("base", "completions", "base.seed=0")):
        path = largest(conf, table)
        blank(path, 4, path.stat().st_size // 2)
        with pytest.raises(DamageError, match=f"{path} is damaged"):
            runner.run(registry.find(stage), settled(f"endpoints.fake.url={fake.url}", other))
    version = tables.require(conf.lake, schemas.BASE)
    with pytest.raises(DamageError, match=f"{path} is damaged"), worker_errors():
        read(session.start(conf), conf.lake, version).collect()
