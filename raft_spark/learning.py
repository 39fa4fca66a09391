"""The sections about a student: what it learns from, where it stands to be asked, and what it is asked.

They are part of the settings as those in `sections` are; conf/default.toml says what each key is for.
"""

from typing import Annotated

from pydantic import Field

from raft_spark.values import Section, Settings, Students, Sweep


class Training(Section):
    """How a student is trained: `raft-spark model train`."""


class Hosting(Section):
    """Where a trained student stands: `raft-spark model host`."""


class Evaluation(Section):
    """What students are asked, and how their answers are judged: `raft-spark evaluation`."""

    students: Students
    rows: Annotated[int, Field(ge=0)]
    settings: Settings
    distractors: Sweep
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
    max_new_tokens: Annotated[int, Field(ge=1, le=100_000)]
    resamples: Annotated[int, Field(ge=100, le=100_000)]
    examples: Annotated[int, Field(ge=0, le=100)]
