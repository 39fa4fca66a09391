"""List the stages, in the order of the data. Commands, refresh, retention, lineage, views and the checks for EMR read this list.

To add a stage: write its module, its schema in `schemas`, its section of settings and its job file, and append it here.
Importing this module imports neither Spark nor pyarrow: a stage's module is imported when the stage runs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from raft_spark.common import wording

if TYPE_CHECKING:
    import pyarrow as pa

    from raft_spark.config import Config
    from raft_spark.lake.tables import Version

Counts = Mapping[str, Any]
Use = Literal["source", "embedder", "teacher", "students", "tokenizer"]
REFRESH = "refresh"  # the job that runs the whole PIPELINE


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage, which writes the table of the same name.

    `run` brings the table up to date with the settings and returns its current version. `help` is one sentence for the
    command line. `describe` puts the counts of a version into a few words. `rows` gives them as numbers: the rows written
    and, if the stage checks rows, the rows rejected. `uses` names what the stage needs besides tables. The commands `run`
    and `refresh` run the stages that are `in_pipeline`.
    """

    name: str
    run: "Callable[[Config], Version]"
    help: str
    describe: Callable[[Counts], str]
    rows: Callable[[Counts], dict[str, int]]
    uses: frozenset[Use] = frozenset()
    in_pipeline: bool = True

    @property
    def schema(self) -> "pa.Schema | None":
        """Return the table's columns; None for the dataset, whose formats have their own."""
        from raft_spark.lake.schemas import SCHEMAS

        return SCHEMAS.get(self.name)


def _run_articles(conf: "Config") -> "Version":
    from raft_spark.stages import articles

    return articles.run(conf)


def _run_base(conf: "Config") -> "Version":
    from raft_spark.stages import base

    return base.run(conf)


def _run_completions(conf: "Config") -> "Version":
    from raft_spark.stages import completions

    return completions.run(conf)


def _run_dataset(conf: "Config") -> "Version":
    from raft_spark.stages import dataset

    return dataset.run(conf)


def _run_evaluation(conf: "Config") -> "Version":
    from raft_spark.stages import evaluation

    return evaluation.run(conf)


def _describe_articles(counts: Counts) -> str:
    reasons = dict(counts["reasons"])
    if counts["beyond_limit"]:
        reasons["beyond articles.limit"] = counts["beyond_limit"]
    line = f"{counts['articles']} articles of {counts['read']} records{wording.left_out(reasons, counts['read'])}"
    held_out = counts.get("holdout", {"pubids": 0})
    if held_out["pubids"]:
        line += f"; {held_out['found']} of {held_out['pubids']} held-out pubids are in the source"
    if counts.get("ignored_files"):
        line += f"; not read: files of other endings ({counts['ignored_files']})"
    return line


def _describe_base(counts: Counts) -> str:
    not_embedded = counts.get("not_embedded")
    without = f"; texts without embedding: {wording.counts(not_embedded)}" if not_embedded else ""
    return f"{sum(counts['rows'].values())} rows, {sum(counts['distracted'].values())} without oracle{without}"


def _describe_completions(counts: Counts) -> str:
    failed = wording.left_out(counts.get("failed_by_class", {}), counts.get("asked", 0))
    return f"{counts['answered']} answers, {counts['known']} known before{failed}"


def _describe_dataset(counts: Counts) -> str:
    splits = ", ".join(f"{rows} {split}" for split, rows in counts["kept"].items())
    return f"{sum(counts['kept'].values())} rows: {splits}{wording.left_out(counts['rejected'], counts['rows'])}"


def _describe_evaluation(counts: Counts) -> str:
    failed = sum(counts["failed"].values())
    return f"{counts['answers']} answers about {counts['articles']} articles, {failed} failed"


ARTICLES = Stage(
    "articles",
    _run_articles,
    "Read the source: check, deduplicate, split and number its articles.",
    _describe_articles,
    lambda counts: {"rows": counts["articles"], "rejected": counts["quarantined"] + counts["duplicates"]},
    uses=frozenset({"source"}),
)
BASE = Stage(
    "base",
    _run_base,
    "Draw distractors, keep or leave out the oracle passages, shuffle.",
    _describe_base,
    lambda counts: {"rows": sum(counts["rows"].values())},
    uses=frozenset({"embedder"}),
)
COMPLETIONS = Stage(
    "completions",
    _run_completions,
    "Ask the teacher model each question once, with the oracle passages only.",
    _describe_completions,
    lambda counts: {"rows": counts["answered"]},
    uses=frozenset({"teacher"}),
)
DATASET = Stage(
    "dataset",
    _run_dataset,
    "Check the answers, write train, validation and test splits.",
    _describe_dataset,
    lambda counts: {"rows": sum(counts["kept"].values()), "rejected": sum(counts["rejected"].values())},
    uses=frozenset({"tokenizer"}),
)
EVALUATION = Stage(
    "evaluation",
    _run_evaluation,
    "Ask students the questions of the test split, and score their answers.",
    _describe_evaluation,
    lambda counts: {"rows": counts["rows"]},
    uses=frozenset({"students"}),
    in_pipeline=False,
)

STAGES = (ARTICLES, BASE, COMPLETIONS, DATASET, EVALUATION)
PIPELINE = tuple(stage for stage in STAGES if stage.in_pipeline)
NAMES = tuple(stage.name for stage in STAGES)
JOBS = (*NAMES, REFRESH)


def find(name: str) -> Stage:
    """Return the stage of this name. The table of the stage has the same name."""
    return next(stage for stage in STAGES if stage.name == name)


def stages_of_job(job: str) -> tuple[Stage, ...]:
    """Return the stages that a job runs: the whole PIPELINE for `refresh`, else the stage of the job's name."""
    return PIPELINE if job == REFRESH else (find(job),)
