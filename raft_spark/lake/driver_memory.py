"""Warn, before a stage begins, when the driver's memory is too small for what it holds of each article.

The driver's Python shares a machine, or on EMR Serverless a worker, with Spark's heap. It has what the heap leaves.
"""

import logging
import os
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from raft_spark.config import Config

LOG = logging.getLogger(__name__)
BYTES_PER_ARTICLE = (
    60  # numbering takes 25 to 34 at 2 to 10 million (tests/benchmarks/numbering.py), the index of base 40
)
ALWAYS_THERE = 250_000_000  # bytes; a driver that has not even these is too small for Python itself
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_ON_EMR = "spark.emr-serverless.driver.disk"  # a property of every run that `raft-spark emr submit` starts


def warn_if_small(spark: SparkSession, conf: Config, articles: int) -> None:
    """Log what is missing and what to set, if this many articles may not fit into the driver's memory."""
    java: Any = spark._jvm  # noqa: SLF001 - only Java knows how large its heap can get
    heap = int(java.java.lang.Runtime.getRuntime().maxMemory())
    is_on_emr = bool(spark.sparkContext.getConf().get(_ON_EMR, ""))
    total = min(machine_bytes(), conf.emr.driver_memory_gb * 2**30 if is_on_emr else machine_bytes())
    if problem := shortage(articles, total, heap):
        LOG.warning("%s", problem)


def shortage(articles: int, total: int, heap: int) -> str:
    """Return why `total` bytes with a heap of `heap` bytes are too few, and what would be right; "" if they are enough."""
    need = articles * BYTES_PER_ARTICLE
    if need <= max(total - heap, ALWAYS_THERE):
        return ""
    return (
        f"the driver may run out of memory: {articles:,} articles take up to {need / 1e9:.1f} GB of its Python process, and "
        f"Spark's heap may take {heap / 1e9:.1f} of {total / 1e9:.1f} GB; lower spark.driver.memory, or on EMR Serverless raise "
        "emr.driver_memory_gb"
    )


def machine_bytes() -> int:
    """Return the memory of this machine, or of its container if that has less."""
    limits = (Path(path).read_text(encoding="utf-8").strip() for path in _LIMITS if Path(path).is_file())
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *(int(limit) for limit in limits if limit.isdecimal())])
