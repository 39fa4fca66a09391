"""Run the stages once with the given settings and print what came out: python walk_digest.py [CONF.toml ...] [--set ...]

The last line is JSON: a digest of the sorted base rows and the digests of the dataset's files, without their folder.
"""

import hashlib
import json
import sys
from typing import Any

from raft_spark import config
from raft_spark.lake import parquet, schemas, session, tables
from raft_spark.stages import articles, base, completions, dataset


def rows_digest(conf: config.Config) -> str:
    """Hash the base rows, sorted."""
    version = tables.require(conf.lake, schemas.BASE)
    rows = [
        json.dumps([piece["split"], row], sort_keys=True)
        for piece in tables.row_groups(conf.lake, version)
        for row in parquet.read_row_group(piece).to_pylist()
    ]
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()


def dataset_files(conf: config.Config) -> dict[str, str]:
    """Return the digest of each file of the dataset but the card, which names the run."""
    version = tables.require(conf.lake, schemas.DATASET)
    return {file.path: file.sha256 for file in version.files if not file.path.endswith("README.md")}


def walk(conf: config.Config) -> dict[str, Any]:
    """Run the stages once; return the digests of what came out."""
    for stage in (articles, base, completions, dataset):
        stage.run(conf)
    return {"base": rows_digest(conf), "dataset": dataset_files(conf)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(walk(config.from_argv(sys.argv[1:]))) + "\n")
    session.stop()
