"""Ended stage -> OpenLineage events: the versions of the tables it read, the version it wrote, and the number of rows.

OpenLineage's listener for Spark cannot report them: stages read and write Parquet inside their tasks, so Spark sees no
tables. Both events of a run, START and COMPLETE (or ABORT, FAIL), are sent when it ends. Tables have OpenLineage's
names: bucket and key, or path. The format: openlineage.io/spec/2-0-2/OpenLineage.json.
"""

import datetime as dt
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raft_spark import __version__
from raft_spark.config import Config
from raft_spark.errors import StoppedError
from raft_spark.lake import schemas
from raft_spark.lake.tables import Version

SPEC, HUB = "https://openlineage.io/spec", "https://huggingface.co"
PRODUCER = f"pkg:generic/raft-spark@{__version__}"
Event = dict[str, Any]


def events(
    conf: Config, stage: str, run_id: str, begin: float, ended: Version | BaseException, rows: Mapping[str, int]
) -> list[Event]:
    """Return the events START and COMPLETE, ABORT or FAIL of a stage's run, which began at `begin` (seconds since 1970)
    and ends now.

    `ended` is the published version or the exception; `rows` has the counts of the version.
    """
    run = {"runId": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{PRODUCER}/{run_id}"))}
    basis = {
        "producer": PRODUCER,
        "schemaURL": f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent",
        "job": {"namespace": conf.spark.get("spark.openlineage.namespace", "raft-spark"), "name": stage},
    }
    start = {"eventType": "START", "eventTime": _time(begin), "run": run, "inputs": [], "outputs": []}
    outcome = _completed(conf, ended, rows) if isinstance(ended, Version) else _failed(ended)
    facets = outcome.pop("facets", {})
    end = {"eventTime": _time(time.time()), "run": {**run, "facets": facets}, "inputs": [], "outputs": [], **outcome}
    return [{**basis, **start}, {**basis, **end}]


def _completed(conf: Config, version: Version, rows: Mapping[str, int]) -> Event:
    read = [_dataset(f"{conf.lake.root}/{table}", id_) for table, id_ in version.inputs.items()]
    if version.table == schemas.ARTICLES:
        source = conf.articles.source
        read = [_dataset(source, version.counts["source"].removeprefix(source)[1:])]
    written = _dataset(f"{conf.lake.root}/{version.table}", version.id)
    statistics = _facet("OutputStatisticsOutputDatasetFacet", "1-0-2", rowCount=rows["rows"])
    written["outputFacets"] = {"outputStatistics": statistics}
    return {"eventType": "COMPLETE", "inputs": read, "outputs": [written]}


def _failed(error: BaseException) -> Event:
    """Return the event of a run that published nothing: ABORT when it was stopped, else FAIL with the reason."""
    if isinstance(error, (StoppedError, KeyboardInterrupt)):
        return {"eventType": "ABORT"}
    reason = f"{type(error).__name__}: {error}"
    message = _facet("ErrorMessageRunFacet", "1-0-1", message=reason, programmingLanguage="PYTHON")
    return {"eventType": "FAIL", "facets": {"errorMessage": message}}


def _dataset(root: str, version: str) -> Event:
    """Return the dataset of a table or a source, named as OpenLineage specifies, with its version."""
    namespace, name = "file", str(Path(root).absolute())
    if "://" in root:
        scheme, _, path = root.partition("://")
        bucket, _, name = path.partition("/")
        namespace = f"{scheme}://{bucket}"
    elif root.startswith("hf:"):
        namespace, name = HUB, f"datasets/{root.removeprefix('hf:')}"
    elif root.startswith("sample:"):
        namespace, name = "raft-spark", root
    facet = _facet("DatasetVersionDatasetFacet", "1-0-1", datasetVersion=version)
    return {"namespace": namespace, "name": name, "facets": {"version": facet}}


def _facet(name: str, version: str, **fields: object) -> Event:
    return {"_producer": PRODUCER, "_schemaURL": f"{SPEC}/facets/{version}/{name}.json#/$defs/{name}", **fields}


def _time(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="milliseconds")
