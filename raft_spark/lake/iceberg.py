"""Copy the current versions of articles, base and completions into an Iceberg catalog (lake.format = "iceberg").

    CATALOG.NAMESPACE.TABLE        articles and base partitioned by split, completions by day
    ... VERSION AS OF 'ID'         a tag for each version, as long as the lake has the version
    ROOT/iceberg.json              the state of the lake that the catalog was last brought to; when it is still the same,
                                   `sync` does not ask the catalog

Stages read and publish the lake's own files, several tables at once. `sync` updates the catalog after that, and writes only the
rows that changed. When a crash prevents an update, the next run makes up for it.

A version is merged into a branch of the Iceberg table that this run alone writes, gets its tag there, and then becomes `main`.
A tag on `main` itself could name rows that another run merged a moment before.
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
from pyspark.sql.types import ArrayType, DataType, StructType

from raft_spark.common import ids
from raft_spark.config import Config, Lake
from raft_spark.errors import CatalogError, DamageError, InputError
from raft_spark.lake import dataframes, refs, schemas, session, spark_catalog, tables
from raft_spark.lake.filesystem import Storage

PROPERTIES = {
    "format-version": "2",
    "write.parquet.compression-codec": "zstd",
    **{f"write.{verb}.mode": "merge-on-read" for verb in ("merge", "update", "delete")},
}
OWNER = "raft-spark.lake"
STATE_FILE = "iceberg.json"
MERGE_BRANCH = "aside-"  # prefix of the branches that versions are merged in
ATTEMPTS = 5
COMMIT_CONFLICT = re.compile(
    r"iceberg\.exceptions\.(CommitFailed|Validation|AlreadyExists)Exception|TABLE_OR_VIEW_ALREADY_EXISTS"
)

State = Mapping[str, Sequence[str]]  # the versions of each table, the current one first


def sync(conf: Config) -> None:
    """Update the catalog to the lake's current versions; do nothing for lake.format "parquet" and for a branch of the lake.

    Raises InputError when a table of the catalog belongs to another lake, and CatalogError when the catalog refuses the
    update. The lake is published in both cases.
    """
    if conf.lake.format != "iceberg" or conf.lake.branch:
        return
    at = Storage.of(conf.lake)
    while (state := _state(conf.lake)) != _last_state(at):
        at.delete(STATE_FILE)
        _update_tables(session.start(conf, "catalog: update"), conf.lake, state)
        at.write(STATE_FILE, json.dumps(state, indent=1).encode())


def _last_state(at: Storage) -> object:
    """Return the state that the catalog was last brought to; None when it is not known."""
    try:
        return at.read_json(STATE_FILE)
    except DamageError:
        return None


def _state(lake: Lake) -> State:
    current = refs.read(lake).tables
    return {name: [current[name], *tables.finished_ids(lake, name)] for name in schemas.KEYS if name in current}


def _update_tables(spark: SparkSession, lake: Lake, state: State, attempts: int = ATTEMPTS) -> None:
    """Update every table; start again when another writer's commit conflicts. Steps that are done are not repeated."""
    try:
        for name, (current, *_) in state.items():
            version = tables.find(lake, name, current)
            if version is not None:  # None: it has just expired, so the lake's state has changed and `sync` comes again
                _CatalogTable(spark, lake, name).update(version)
    except (PySparkException, Py4JJavaError) as error:
        if COMMIT_CONFLICT.search(str(error)) and attempts > 1:
            _update_tables(spark, lake, state, attempts - 1)
            return
        msg = (
            f"the lake is published, but its catalog {lake.catalog} could not be updated: {spark_catalog.reason(error)}; "
            "the next run of any stage updates it"
        )
        raise CatalogError(msg) from error


@dataclass(frozen=True, slots=True)
class _CatalogTable:
    """One table of the catalog."""

    spark: SparkSession
    lake: Lake
    table: str

    @property
    def name(self) -> str:
        return f"{self.lake.catalog}.{self.lake.namespace}.{self.table}"

    def update(self, version: tables.Version) -> None:
        """Make `version` the rows of `main` under its own tag, then drop what the lake no longer has.

        Each step looks at the table first and does nothing when an earlier attempt has done it.
        """
        rows = dataframes.read(self.spark, self.lake, version)
        self._ensure_table(rows)
        if version.id not in self._references():
            self._merge(version.id, rows)
        self._set_main(version.id)
        self._drop_expired()

    def _ensure_table(self, rows: DataFrame) -> None:
        """Create the table, or check that it belongs to this lake; add the columns that it lacks."""
        if self.spark.catalog.tableExists(self.name):
            self._check_owner()
        else:
            self._create(rows)
        for path, kind in added_fields(self.spark.table(self.name).schema, rows.schema):
            self._alter(f"ADD COLUMN {path} {kind.simpleString()}")

    def _set_main(self, version: str) -> None:
        """Point `main` to a version's snapshot, unless it holds these rows already, perhaps in files that were compacted."""
        refs = self._references()
        if refs[version] not in self._same_rows(refs["main"]):
            self._call("set_current_snapshot", f"ref => '{version}'")

    def _drop_expired(self) -> None:
        """Drop the tags of versions that the lake has deleted, old merge branches, and the files that only these need."""
        refs, kept = self._references(), tables.finished_ids(self.lake, self.table)
        expired = [f"TAG `{ref}`" for ref in refs if ids.ID.fullmatch(ref) and ref not in kept]
        expired += [
            f"BRANCH `{ref}`"
            for ref in refs
            if ref.startswith(MERGE_BRANCH) and _age_hours(ref) >= self.lake.sweep_after_hours
        ]
        for ref in expired:
            self._alter(f"DROP {ref}")
        if expired:
            self._call("expire_snapshots", f"older_than => TIMESTAMP '{ids.now()}', retain_last => 1")

    def _create(self, rows: DataFrame) -> None:
        writer = rows.limit(0).writeTo(self.name).using("iceberg").partitionedBy(F.col(schemas.KEYS[self.table][0]))
        for key, value in {**PROPERTIES, OWNER: _address(self.lake)}.items():
            writer = writer.tableProperty(key, value)
        writer.create()

    def _check_owner(self) -> None:
        properties = {row.key: row.value for row in self.spark.sql(f"SHOW TBLPROPERTIES {self.name}").collect()}
        if properties.get(OWNER) != _address(self.lake):
            owner = f"the lake {properties[OWNER]}" if OWNER in properties else "no lake of raft-spark"
            msg = f"table {self.name} belongs to {owner}, not to {_address(self.lake)}; choose another lake.namespace"
            raise InputError(msg)

    def _references(self) -> dict[str, int]:
        """Return the snapshot of each tag and branch by its name; a table without rows has none."""
        return {row.name: row.snapshot_id for row in self.spark.table(f"{self.name}.refs").collect()}

    def _same_rows(self, snapshot: int) -> Iterator[int]:
        """Yield a snapshot, then its ancestors as long as only compaction ("replace") lies between, which keeps the rows."""
        snapshots = {
            row.snapshot_id: row for row in self.spark.table(f"{self.name}.snapshots").drop("summary").collect()
        }
        while found := snapshots.get(snapshot):
            yield snapshot
            if found.operation != "replace":
                return
            snapshot = found.parent_id

    def _merge(self, version: str, rows: DataFrame) -> None:
        """Merge rows into a new branch, writing only those that differ from `main`, and tag the snapshot with the version."""
        branch = MERGE_BRANCH + ids.new_id()
        self._alter(f"CREATE BRANCH `{branch}`")
        self._merge_into(f"{self.name}.`branch_{branch}`", rows)
        self._alter(f"CREATE OR REPLACE TAG `{version}` AS OF VERSION {self._references()[branch]}")
        self._alter(f"DROP BRANCH `{branch}`")

    def _merge_into(self, target: str, rows: DataFrame) -> None:
        rows.createOrReplaceTempView("raft_spark_new")
        on = " AND ".join(f"old.{key} = new.{key}" for key in schemas.KEYS[self.table])
        differs = " OR ".join(f"NOT (old.{name} <=> new.{name})" for name in rows.columns)
        update = f"WHEN MATCHED AND ({differs}) THEN UPDATE SET *" if self.table != schemas.COMPLETIONS else ""
        self.spark.sql(
            f"MERGE INTO {target} old USING raft_spark_new new ON {on} {update} "
            "WHEN NOT MATCHED THEN INSERT * WHEN NOT MATCHED BY SOURCE THEN DELETE"
        )

    def _alter(self, clause: str) -> None:
        self.spark.sql(f"ALTER TABLE {self.name} {clause}")

    def _call(self, procedure: str, arguments: str) -> None:
        at = f"'{self.lake.namespace}.{self.table}'"
        self.spark.sql(f"CALL {self.lake.catalog}.system.{procedure}(table => {at}, {arguments})").collect()


def _age_hours(ref: str) -> float:
    began = dt.datetime.strptime(ref.removeprefix(MERGE_BRANCH).split("-")[0], "%Y%m%dT%H%M%S.%fZ").replace(
        tzinfo=dt.UTC
    )
    return (dt.datetime.now(dt.UTC) - began) / dt.timedelta(hours=1)


def _address(lake: Lake) -> str:
    return Storage.of(lake).uri()


def added_fields(existing: StructType, wanted: StructType, prefix: str = "") -> Iterator[tuple[str, DataType]]:
    """Yield path and type of each field that a table lacks, also in the structs of a list."""
    types = {field.name: field.dataType for field in existing}
    for field in wanted:
        has, needs, path = types.get(field.name), field.dataType, f"{prefix}{field.name}"
        if has is None:
            yield path, needs
        elif isinstance(has, ArrayType) and isinstance(needs, ArrayType):
            one, other = has.elementType, needs.elementType
            if isinstance(one, StructType) and isinstance(other, StructType):
                yield from added_fields(one, other, f"{path}.element.")
