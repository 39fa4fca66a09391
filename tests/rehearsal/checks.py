"""Check a rehearsal: packages come from the archive, tables match their manifests, bytes equal those of a local run."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from walk_digest import dataset_files, rows_digest

from raft_spark import config
from raft_spark.lake import schemas, tables

PACKAGES = ("boto3", "numpy", "pandas", "pyarrow", "pydantic", "raft_spark")
TABLES = (schemas.ARTICLES, schemas.BASE, schemas.COMPLETIONS, schemas.DATASET)


def foreign_modules(report: Mapping[str, Any], archives: Iterable[str], spark_home: Path) -> list[str]:
    """Return the modules of an import report that come neither from the archives, the standard library nor Spark.

    The result also has each of PACKAGES that was not loaded from the archives.
    """
    own, standard = tuple(f"{report['folder']}/{name}/" for name in archives), f"{report['standard']}/"
    found: Mapping[str, str] = report["modules"]
    missing = [f"{name} from {found.get(name)}" for name in PACKAGES if not found.get(name, "").startswith(own)]
    return missing + [
        f"{name} from {file}"
        for name, file in found.items()
        if not file.startswith((*own, f"{spark_home}/"))
        and (not file.startswith(standard) or "-packages/" in file)
        and file != found["__main__"]  # the job itself, in a folder of spark-submit's; in an executor, Spark's daemon
        and name not in PACKAGES
    ]


def file_problems(lake: config.Lake) -> list[str]:
    """Compare every file of the current versions with its manifest; return what is missing, changed or unlisted."""
    return [problem for table in TABLES for problem in _version_problems(lake, tables.require(lake, table))]


def _version_problems(lake: config.Lake, version: tables.Version) -> Iterator[str]:
    table = tables.storage(lake, version.table)
    own = table.at("versions", version.id)
    at = table if version.table == schemas.COMPLETIONS else own
    for file in version.files:
        data = at.read(file.path)
        if data is None:
            yield f"{at.root}/{file.path} is missing"
        elif (len(data), hashlib.sha256(data).hexdigest()) != (file.bytes, file.sha256):
            yield f"{at.root}/{file.path} differs from its manifest"
    listed = {"manifest.json", *(file.path for file in version.files)}
    yield from (f"{own.root}/{file.path} is in no manifest" for file in own.list() if file.path not in listed)


def digests(conf: config.Config) -> dict[str, Any]:
    """Return what tests/integration/walk_digest.py prints for a lake."""
    return {"base": rows_digest(conf), "dataset": dataset_files(conf)}
