"""The sections about a student: what it learns from, where it stands to be asked, and what it is asked.

They are part of the settings as those in `sections` are; conf/default.toml says what each key is for.
"""

from raft_spark.values import Section


class Training(Section):
    """How a student is trained: `raft-spark model train`."""


class Hosting(Section):
    """Where a trained student stands: `raft-spark model host`."""


class Evaluation(Section):
    """What students are asked, and how their answers are judged."""
