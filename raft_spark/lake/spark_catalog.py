"""lake.format = "iceberg" -> the settings by which Spark reaches the catalog, and whether it does."""

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
PACKAGES = {  # of the Iceberg that EMR has beside this Spark
    "4.1": "org.apache.iceberg:iceberg-spark-runtime-4.1_2.13:1.11.0",
    "3.5": "org.apache.iceberg:iceberg-spark-runtime-3.5_2.12:1.10.1",
}
JARS = ("spark.jars", "spark.jars.packages", "spark.driver.extraClassPath")


def settings(conf: Config, *, submitted: bool) -> dict[str, str]:
    """Return Spark's settings for the lake's catalog: none for Parquet.

    A lake on a disk has its tables in ROOT/iceberg where [spark] names no other catalog, and outside of spark-submit
    Iceberg is fetched where [spark] names no jar of it.
    """
    if conf.lake.format != "iceberg":
        return {}
    own, given = f"spark.sql.catalog.{conf.lake.catalog}", conf.spark
    extensions = [name for name in given.get("spark.sql.extensions", "").split(",") if name and name != EXTENSIONS]
    found = {"spark.sql.extensions": ",".join([*extensions, EXTENSIONS]), own: CATALOG}
    if Storage.of(conf.lake).is_local and not {f"{own}.type", f"{own}.catalog-impl"} & given.keys():
        found |= {f"{own}.type": "hadoop", f"{own}.warehouse": f"{Path(conf.lake.root).absolute()}/iceberg"}
    if not submitted and not any("iceberg" in given.get(key, "") for key in JARS):
        packages = [given["spark.jars.packages"]] if "spark.jars.packages" in given else []
        found["spark.jars.packages"] = ",".join([*packages, package()])
    return found


def package() -> str:
    """Return the Maven coordinates of the Iceberg for this Spark. Raises ConfigError where none is known."""
    line = ".".join(pyspark.__version__.split(".")[:2])
    if line not in PACKAGES:
        msg = f'no Iceberg is known for Spark {pyspark.__version__}; name one in [spark]: "spark.jars.packages"'
        raise ConfigError(msg)
    return PACKAGES[line]


def check(spark: SparkSession, conf: Config) -> None:
    """Make the namespace, before anything is written or paid. Raises ConfigError that says what is missing for it."""
    if conf.lake.format != "iceberg":
        return
    name = conf.lake.catalog
    if EXTENSIONS not in (spark.conf.get("spark.sql.extensions", "") or ""):
        msg = f"a Spark session runs already, without Iceberg; start it with spark.sql.extensions={EXTENSIONS}"
        raise ConfigError(msg)
    if not any(spark.conf.get(f"spark.sql.catalog.{name}.{key}", None) for key in ("type", "catalog-impl")):
        msg = (
            f'which catalog {name!r} is has to be said: "spark.sql.catalog.{name}.catalog-impl" in [spark], as conf/emr.toml '
            "shows; Iceberg's own in files is safe on a disk alone"
        )
        raise ConfigError(msg)
    try:
        spark.sql(f"CREATE NAMESPACE IF NOT EXISTS {name}.{conf.lake.namespace}")
    except (PySparkException, Py4JJavaError) as error:
        jars = 'the jar of Iceberg (on EMR "spark.jars" as conf/emr.toml has it, else "spark.jars.packages")'
        msg = f"catalog {name!r} does not answer: {reason(error)}; look at {jars} and at spark.sql.catalog.{name}.* in [spark]"
        raise ConfigError(msg) from error


def reason(error: Exception) -> str:
    """Return what a person must read of what Spark raised: its innermost cause, in one line."""
    lines = str(error).splitlines()
    causes = [line.split(": ", 1)[1] for line in lines if line.startswith((": ", "Caused by: "))]
    return causes[-1] if causes else lines[0]
