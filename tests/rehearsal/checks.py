"""What must hold after a rehearsal: packages come from the archive, tables are whole, bytes are those of a local run."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from walk_digest import dataset_files, rows_digest

from raft_spark import config
from raft_spark.lake import schemas, tables

PACKAGES = ("boto3", "numpy", "pandas", "pyarrow", "pydantic", "raft_spark")
TABLES = (schemas.ARTICLES, schemas.BASE, schemas.COMPLETIONS, schemas.DATASET)


def strangers(told: Mapping[str, Any], archives: Iterable[str], spark_home: Path) -> list[str]:
    """Return what one process has loaded, by a soundcheck's word, from elsewhere than the archives in its folder, the
    standard library and Spark; and the packages that it has not loaded from the archives.
    """
    own, standard = tuple(f"{told['folder']}/{name}/" for name in archives), f"{told['standard']}/"
    found: Mapping[str, str] = told["modules"]
    missing = [f"{name} from {found.get(name)}" for name in PACKAGES if not found.get(name, "").startswith(own)]
    return missing + [
        f"{name} from {file}"
        for name, file in found.items()
        if not file.startswith((*own, f"{spark_home}/"))
        and (not file.startswith(standard) or "-packages/" in file)
        and file != found["__main__"]  # the job itself, in a folder of spark-submit's; in an executor, Spark's daemon
        and name not in PACKAGES
    ]


def faults(lake: config.Lake) -> list[str]:
    """Compare every file of the current versions with its manifest; return what is missing, changed or not listed."""
    return [fault for table in TABLES for fault in _faults(lake, tables.require(lake, table))]


def _faults(lake: config.Lake, version: tables.Version) -> Iterator[str]:
    table = tables.storage(lake, version.table)
    own = table.at("versions", version.id)
    at = table if version.table == schemas.COMPLETIONS else own
    for file in version.files:
        data = at.read(file.path)
        if data is None:
            yield f"{at.root}/{file.path} is missing"
        elif (len(data), hashlib.sha256(data).hexdigest()) != (file.bytes, file.sha256):
            yield f"{at.root}/{file.path} is not what the manifest says"
    listed = {"manifest.json", *(file.path for file in version.files)}
    yield from (f"{own.root}/{file.path} is in no manifest" for file in own.list() if file.path not in listed)


def digests(conf: config.Config) -> dict[str, Any]:
    """Return what tests/walk_digest.py prints of a lake."""
    return {"base": rows_digest(conf), "dataset": dataset_files(conf)}
