"""Prove that all executors see a local file of the driver, before a stage writes anything.

On a cluster each machine has its own disk. A lake in a local folder works only if the machines share that folder, as on NFS.
"""

import platform
import uuid
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from pyspark.sql import SparkSession

from raft_spark.config import Lake
from raft_spark.errors import InputError
from raft_spark.lake.filesystem import Storage


def check_lake(spark: SparkSession, lake: Lake) -> None:
    """Raise InputError when the lake is a local folder that an executor does not see."""
    storage, name = Storage.of(lake), f".seen-by-{uuid.uuid4().hex}"
    if not storage.is_local or is_one_machine(spark):
        return
    storage.write(name, name.encode())
    try:
        check_files(spark, "lake.root", [storage.path(name)])
    finally:
        storage.delete(name)


def check_files(spark: SparkSession, setting: str, paths: Iterable[str]) -> None:
    """Raise InputError when an executor does not see these files of the driver, or sees others there.

    `setting` names the setting that the files belong to.
    """
    sizes = [(path, Path(path).stat().st_size) for path in sorted(paths)]
    if not sizes or is_one_machine(spark):
        return
    tasks = 2 * spark.sparkContext.defaultParallelism  # so that each executor that runs gets some
    unseen = spark.sparkContext.parallelize(range(tasks), tasks).mapPartitions(partial(_unseen, sizes=sizes)).collect()
    if unseen:
        host, path = min(unseen)
        msg = (
            f"{setting} is a folder of the driver's machine {platform.node()}, but the executor on {host} does not see "
            f"{path} as it is there; nothing was written. Use a folder that all machines share, or s3://bucket/prefix"
        )
        raise InputError(msg)


def _unseen(_: Iterator[int], sizes: Sequence[tuple[str, int]]) -> Iterator[tuple[str, str]]:
    """Yield this machine's name and the first file that it does not see."""
    missing = (path for path, size in sizes if not Path(path).is_file() or Path(path).stat().st_size != size)
    yield from ((platform.node(), path) for path in list(missing)[:1])


def is_one_machine(spark: SparkSession) -> bool:
    """Return whether the tasks run in the driver's own process: the master is local, local[2] or local[*]."""
    return str(spark.sparkContext.master).partition("[")[0] == "local"
