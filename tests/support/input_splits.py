"""The input splits of a whole source, as the stage articles gets them file by file."""

from raft_spark import config
from raft_spark.sources import sources


def input_splits(conf: config.Config, state: str) -> list[sources.InputSplit]:
    """Return the input splits of all files of the source."""
    return [split for files in sources.arriving(conf, state) for file in files for split in file]
