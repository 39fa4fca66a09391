"""The lake's tables in an Iceberg catalog (lake.format = "iceberg"), for every engine that reads one: they follow the lake.

    CATALOG.NAMESPACE.TABLE        articles and base by split, completions by day; no more rows are written than change
    ... VERSION AS OF 'ID'         a tag for each version, as long as the lake has it
    ROOT/iceberg.json              how the lake was when the catalog was last brought there: a hint that spares a look

Stages read and publish the lake's own files, several tables at once; the catalog is a copy, brought up to date after that. What it
misses by a crash it gets by the next run. A version is merged in a branch of one run's own and gets its tag there, then `main` is put to
it: a tag on `main` would name what another run has merged a moment ago.
"""

import datetime as dt
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from raft_spark.common import ids
from raft_spark.config import Config, Lake
from raft_spark.errors import CatalogError, InputError
from raft_spark.lake import dataframes, refs, schemas, session, spark_catalog, tables
from raft_spark.lake.filesystem import Storage

PROPERTIES = {
    "format-version": "2",
    "write.parquet.compression-codec": "zstd",
    **{f"write.{verb}.mode": "merge-on-read" for verb in ("merge", "update", "delete")},
}
OWNER = "raft-spark.lake"
STATE_FILE = "iceberg.json"
MERGE_BRANCH = "aside-"  # how branches begin in which a version is merged
ATTEMPTS = 5
COMMIT_CONFLICT = re.compile(
    r"iceberg\.exceptions\.(CommitFailed|Validation|AlreadyExists)Exception|TABLE_OR_VIEW_ALREADY_EXISTS"
)

State = Mapping[str, Sequence[str]]  # the versions of each table, the current one first


def sync(conf: Config) -> None:
    """Bring the catalog to where the lake stands; a branch is no matter of the catalog.

    Raises InputError where a table there is not this lake's, CatalogError where the catalog takes nothing; the lake is published
    all the same.
    """
    if conf.lake.format != "iceberg" or conf.lake.branch:
        return
    at = Storage.of(conf.lake)
    while (state := _state(conf.lake)) != json.loads(at.read(STATE_FILE) or b"null"):
        at.delete(STATE_FILE)
        _bring(session.start(conf, "catalog: follow the lake"), conf.lake, state)
        at.write(STATE_FILE, json.dumps(state, indent=1).encode())


def _state(lake: Lake) -> State:
    current = refs.read(lake).tables
    return {name: [current[name], *tables.finished_ids(lake, name)] for name in schemas.KEYS if name in current}


def _bring(spark: SparkSession, lake: Lake, state: State, attempts: int = ATTEMPTS) -> None:
    """Bring every table there, again where another was faster: what is done is seen and not done again."""
    try:
        for name, (current, *_) in state.items():
            version = tables.find(lake, name, current)
            if version is not None:  # else it expired just now, and the lake stands elsewhere
                _Table(spark, lake, name).bring(version)
    except (PySparkException, Py4JJavaError) as error:
        if COMMIT_CONFLICT.search(str(error)) and attempts > 1:
            _bring(spark, lake, state, attempts - 1)
            return
        msg = f"the lake is published, and its catalog {lake.catalog} is not: {spark_catalog.reason(error)}; the next run goes on there"
        raise CatalogError(msg) from error


@dataclass(frozen=True, slots=True)
class _Table:
    """One table of the catalog."""

    spark: SparkSession
    lake: Lake
    table: str

    @property
    def name(self) -> str:
        return f"{self.lake.catalog}.{self.lake.namespace}.{self.table}"

    def bring(self, version: tables.Version) -> None:
        """Make a version the current one, under a tag, and drop the tags of versions that are gone."""
        rows = dataframes.read(self.spark, self.lake, version)
        if self.spark.catalog.tableExists(self.name):
            self._refuse_a_strangers()
        else:
            self._create(rows)
        self._widen(rows)
        if version.id not in self._references():
            self._merge(version.id, rows)
        refs = self._references()
        if refs[version.id] not in self._same(refs["main"]):
            self._call("set_current_snapshot", f"ref => '{version.id}'")
        kept = tables.finished_ids(self.lake, self.table)
        gone = [f"TAG `{ref}`" for ref in refs if ids.ID.fullmatch(ref) and ref not in kept]
        left = (ref for ref in refs if ref.startswith(MERGE_BRANCH) and _age_hours(ref) >= self.lake.sweep_after_hours)
        self._forget([*gone, *(f"BRANCH `{ref}`" for ref in left)])

    def _create(self, rows: DataFrame) -> None:
        writer = rows.limit(0).writeTo(self.name).using("iceberg").partitionedBy(F.col(schemas.KEYS[self.table][0]))
        for key, value in {**PROPERTIES, OWNER: _address(self.lake)}.items():
            writer = writer.tableProperty(key, value)
        writer.create()

    def _refuse_a_strangers(self) -> None:
        properties = {row.key: row.value for row in self.spark.sql(f"SHOW TBLPROPERTIES {self.name}").collect()}
        if properties.get(OWNER) != _address(self.lake):
            whose = properties.get(OWNER, "no lake of raft-spark")
            msg = f"table {self.name} is that of {whose}, and this is {_address(self.lake)}; choose another lake.namespace"
            raise InputError(msg)

    def _references(self) -> dict[str, int]:
        """Return the snapshot of each tag and branch; a table without rows has none."""
        return {row.name: row.snapshot_id for row in self.spark.table(f"{self.name}.refs").collect()}

    def _same(self, snapshot: int) -> Iterator[int]:
        """Yield a snapshot and those before it that hold the same rows, in other files."""
        known = {row.snapshot_id: row for row in self.spark.table(f"{self.name}.snapshots").drop("summary").collect()}
        while found := known.get(snapshot):
            yield snapshot
            if found.operation != "replace":
                return
            snapshot = found.parent_id

    def _widen(self, rows: DataFrame) -> None:
        """Add the columns that came after the table was made."""
        there = self.spark.table(self.name).schema.names
        for column in rows.schema:
            if column.name not in there:
                self._alter(f"ADD COLUMN {column.name} {column.dataType.simpleString()}")

    def _merge(self, version: str, rows: DataFrame) -> None:
        """Make a snapshot with these rows beside `main`, writing only those that are not there as they are, and name it."""
        aside = MERGE_BRANCH + ids.new_id()
        self._alter(f"CREATE BRANCH `{aside}`")
        self._merge_into(f"{self.name}.`branch_{aside}`", rows)
        self._alter(f"CREATE OR REPLACE TAG `{version}` AS OF VERSION {self._references()[aside]}")
        self._alter(f"DROP BRANCH `{aside}`")

    def _merge_into(self, target: str, rows: DataFrame) -> None:
        rows.createOrReplaceTempView("raft_spark_new")
        on = " AND ".join(f"old.{key} = new.{key}" for key in schemas.KEYS[self.table])
        differs = " OR ".join(f"NOT (old.{name} <=> new.{name})" for name in rows.columns)
        update = f"WHEN MATCHED AND ({differs}) THEN UPDATE SET *" if self.table != schemas.COMPLETIONS else ""
        self.spark.sql(
            f"MERGE INTO {target} old USING raft_spark_new new ON {on} {update} "
            "WHEN NOT MATCHED THEN INSERT * WHEN NOT MATCHED BY SOURCE THEN DELETE"
        )

    def _forget(self, refs: Sequence[str]) -> None:
        """Drop tags and branches, and the files that no other version needs."""
        for ref in refs:
            self._alter(f"DROP {ref}")
        if refs:
            self._call("expire_snapshots", f"older_than => TIMESTAMP '{ids.now()}', retain_last => 1")

    def _alter(self, how: str) -> None:
        self.spark.sql(f"ALTER TABLE {self.name} {how}")

    def _call(self, procedure: str, how: str) -> None:
        at = f"'{self.lake.namespace}.{self.table}'"
        self.spark.sql(f"CALL {self.lake.catalog}.system.{procedure}(table => {at}, {how})").collect()


def _age_hours(ref: str) -> float:
    began = dt.datetime.strptime(ref.removeprefix(MERGE_BRANCH).split("-")[0], "%Y%m%dT%H%M%S.%fZ").replace(
        tzinfo=dt.UTC
    )
    return (dt.datetime.now(dt.UTC) - began) / dt.timedelta(hours=1)


def _address(lake: Lake) -> str:
    return Storage.of(lake).uri()
