"""Configure Spark's Iceberg catalog for lake.format = "iceberg", and check that the catalog answers."""

from pathlib import Path

import pyspark
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from raft_spark.config import Config
from raft_spark.errors import ConfigError
from raft_spark.lake.filesystem import Storage

EXTENSIONS = "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions"
CATALOG = "org.apache.iceberg.spark.SparkCatalog"
PACKAGES = {  # by Spark version: the Iceberg version that EMR has with this Spark
    "4.1": "org.apache.iceberg:iceberg-spark-runtime-4.1_2.13:1.11.0",
    "3.5": "org.apache.iceberg:iceberg-spark-runtime-3.5_2.12:1.10.1",
}
JARS = ("spark.jars", "spark.jars.packages", "spark.driver.extraClassPath")


def settings(conf: Config, *, submitted: bool) -> dict[str, str]:
    """Return Spark's settings for the lake's catalog; none for lake.format "parquet".

    Two settings are filled in when [spark] lacks them: for a lake on a disk, a catalog of files in ROOT/iceberg; outside of
    spark-submit, the Maven package of Iceberg, which Spark then downloads.
    """
    if conf.lake.format != "iceberg":
        return {}
    prefix, given = f"spark.sql.catalog.{conf.lake.catalog}", conf.spark
    extensions = [name for name in given.get("spark.sql.extensions", "").split(",") if name and name != EXTENSIONS]
    found = {"spark.sql.extensions": ",".join([*extensions, EXTENSIONS]), prefix: CATALOG}
    if Storage.of(conf.lake).is_local and not {f"{prefix}.type", f"{prefix}.catalog-impl"} & given.keys():
        found |= {f"{prefix}.type": "hadoop", f"{prefix}.warehouse": f"{Path(conf.lake.root).absolute()}/iceberg"}
    if not submitted and not any("iceberg" in given.get(key, "") for key in JARS):
        packages = [given["spark.jars.packages"]] if "spark.jars.packages" in given else []
        found["spark.jars.packages"] = ",".join([*packages, package()])
    return found


def package() -> str:
    """Return the Maven coordinates of Iceberg for this version of Spark. Raises ConfigError when none are known."""
    line = ".".join(pyspark.__version__.split(".")[:2])
    if line not in PACKAGES:
        msg = (
            f"no Iceberg package is known for Spark {pyspark.__version__} (known: {', '.join(PACKAGES)}); "
            'name one with "spark.jars.packages" in [spark]'
        )
        raise ConfigError(msg)
    return PACKAGES[line]


def check(spark: SparkSession, conf: Config) -> None:
    """Create the namespace lake.namespace, so that a wrong catalog ends the run before anything is written or paid.

    Raises ConfigError that says what is missing.
    """
    if conf.lake.format != "iceberg":
        return
    name = conf.lake.catalog
    if EXTENSIONS not in (spark.conf.get("spark.sql.extensions", "") or ""):
        msg = (
            f'lake.format is "iceberg", but the Spark session that is already running has no Iceberg; '
            f"start it with spark.sql.extensions={EXTENSIONS}"
        )
        raise ConfigError(msg)
    if not any(spark.conf.get(f"spark.sql.catalog.{name}.{key}", None) for key in ("type", "catalog-impl")):
        msg = (
            f'[spark] does not define catalog {name!r} (lake.catalog); set "spark.sql.catalog.{name}.catalog-impl" there, as in '
            "conf/emr.toml. A catalog of files is the default for a lake on a disk only, because on S3 its commits can be lost"
        )
        raise ConfigError(msg)
    try:
        spark.sql(f"CREATE NAMESPACE IF NOT EXISTS {name}.{conf.lake.namespace}")
    except (PySparkException, Py4JJavaError) as error:
        jars = 'the jar of Iceberg (on EMR "spark.jars" as in conf/emr.toml, elsewhere "spark.jars.packages")'
        msg = (
            f"catalog {name!r} does not answer: {reason(error)}; check {jars} and spark.sql.catalog.{name}.* in [spark]"
        )
        raise ConfigError(msg) from error


def reason(error: Exception) -> str:
    """Return the innermost cause of an error that Spark raised, in one line."""
    lines = str(error).splitlines()
    causes = [line.split(": ", 1)[1] for line in lines if line.startswith((": ", "Caused by: "))]
    return causes[-1] if causes else lines[0]
