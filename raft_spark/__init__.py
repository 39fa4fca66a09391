"""Make a RAFT fine-tuning dataset from PubMedQA with Spark, and evaluate students that were trained on it.

    articles     PubMedQA -> cleaned, deduplicated, numbered articles with a split         raft_spark/stages/articles.py
    base         articles -> rows with oracle and distractor passages, shuffled            raft_spark/stages/base.py
    completions  base -> the teacher model's answers, from the oracle alone                raft_spark/stages/completions.py
    dataset      base + completions -> train, validation and test in training formats      raft_spark/stages/dataset.py
    evaluation   articles -> the answers of students, with and without the oracle, scored  raft_spark/stages/evaluation.py

Each stage reads tables and writes the table of its name (raft_spark/lake/tables.py). The recipe is RAFT (Zhang et al. 2024,
arXiv 2403.10131). Training and hosting of students are not stages (raft_spark/students).

The functions here are the Python API. Each does what the command of the same name does, and returns the result.

A function that needs Spark uses the active session. If there is none, it starts one, which later calls use too. No function
stops a session: call `SparkSession.getActiveSession().stop()`, or let the process end. An active session keeps its settings,
except those that `raft_spark.lake.session.DEFAULTS` or the section `[spark]` sets and that Spark can change at run time.
"""

import os
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Literal, overload

from raft_spark.common import extras
from raft_spark.errors import (
    CatalogError,
    ConfigError,
    DamageError,
    EndpointError,
    GateError,
    InputError,
    RaftError,
    RunError,
    StoppedError,
)

if TYPE_CHECKING:
    from raft_spark.config import Config
    from raft_spark.costs.arithmetic import Estimate
    from raft_spark.costs.bounds import CostBound
    from raft_spark.inference.previews import Preview
    from raft_spark.stages.pipeline import EvaluationResult, RunResult, StageResult
    from raft_spark.stages.reader import Table
    from raft_spark.stages.refresh import RefreshRecord

__version__ = "0.1.0"
__all__ = [
    "CatalogError",
    "Config",
    "ConfigError",
    "DamageError",
    "EndpointError",
    "EvaluationResult",
    "GateError",
    "InputError",
    "Preview",
    "RaftError",
    "RunError",
    "RunResult",
    "StageResult",
    "StoppedError",
    "Table",
    "estimate",
    "evaluate",
    "load_config",
    "open_table",
    "preview",
    "refresh",
    "rollback",
    "run",
    "run_stage",
]
_TYPES = {
    "Config": "config",
    "EvaluationResult": "stages.pipeline",
    "Preview": "inference.previews",
    "RunResult": "stages.pipeline",
    "StageResult": "stages.pipeline",
    "Table": "stages.reader",
}

# Each function imports what it needs: `import raft_spark` stays fast, and a job can check its packages first.


def __getattr__(name: str) -> object:
    """Import a type when it is asked for. Raises AttributeError for any other name."""
    if name not in _TYPES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_TYPES[name]}"), name)


def load_config(*files: str | os.PathLike[str], overrides: Mapping[str, object] | None = None) -> "Config":
    """Load the settings: the defaults, then each file, then the overrides. The last one wins.

    Args:
        *files: TOML files. A name such as `local.toml` can also be one of the files that come with the package.
        overrides: Values by setting, for example `{"base.distractors": 4}`. A part of a setting's name that has dots
            itself needs quotes, as in TOML: `'spark."spark.driver.memory"'`.

    Returns:
        The settings, checked and frozen.

    Raises:
        ConfigError: A file is missing, or a setting is unknown or has a value that is not allowed.

    Examples:
        >>> import raft_spark as rs
        >>> conf = rs.load_config("local.toml", overrides={"articles.source": "sample:200"})
        >>> conf.articles.source
        'sample:200'
    """
    with extras.required():
        from raft_spark import config

        return config.load(map(str, files), overrides=overrides)


def run(conf: "Config") -> "RunResult":
    """Run all stages from articles to dataset. A stage whose table is up to date does nothing.

    Args:
        conf: The settings.

    Returns:
        The version of each stage's table, its counts and its seconds.

    Raises:
        ConfigError: Java is missing, or the lake's catalog does not answer.
        InputError: The source is missing or has another schema.
        EndpointError: The teacher refuses the requests, or too many of them failed. All answers are stored.
        StoppedError: A signal, `completions.max_spend` or `completions.max_minutes` stopped the run. All answers are
            stored, and another run continues from them.

    Examples:
        This example uses the articles' own answers, so that no teacher is asked.

        >>> import raft_spark as rs
        >>> conf = rs.load_config(overrides={"articles.source": "sample:200", "dataset.answer": "original"})
        >>> result = rs.run(conf)
        >>> list(result.stages)
        ['articles', 'base', 'completions', 'dataset']
        >>> result.stages["dataset"].counts["rows"]
        200
    """
    with extras.required():
        from raft_spark.stages import pipeline

        return pipeline.run(conf)


def run_stage(name: str, conf: "Config") -> "StageResult":
    """Run one stage. It reads the current tables of the stages before it.

    Args:
        name: `articles`, `base`, `completions`, `dataset` or `evaluation`.
        conf: The settings.

    Returns:
        The version of the stage's table, its counts and its seconds.

    Raises:
        ConfigError: There is no such stage, or as for `run`.
        InputError: A table that the stage reads is missing, or as for `run`.
        EndpointError: As for `run`.
        StoppedError: As for `run`.

    Examples:
        >>> import raft_spark as rs
        >>> conf = rs.load_config(overrides={"articles.source": "sample:200"})
        >>> rs.run_stage("articles", conf).counts["articles"]
        200
        >>> rs.run_stage("articles", conf).is_new
        False
    """
    with extras.required():
        from raft_spark.stages import pipeline

        return pipeline.run_stage(name, conf)


def open_table(conf: "Config", name: str, version: str = "") -> "Table":
    """Open a table to read its rows or to get the path of its files.

    Args:
        conf: The settings. Only the section `[lake]` is used.
        name: `articles`, `base`, `completions`, `dataset` or `evaluation`.
        version: The id of an older version. "" opens the current one.

    Returns:
        The table, with `path`, `version`, `counts`, `to_pandas()`, `to_arrow()` and `to_spark(spark)`.

    Raises:
        InputError: There is no such table or no such version.

    Examples:
        >>> import raft_spark as rs
        >>> conf = rs.load_config(overrides={"articles.source": "sample:200"})
        >>> articles = rs.run_stage("articles", conf)
        >>> table = rs.open_table(conf, "articles")
        >>> table.version == articles.version
        True
        >>> table.to_arrow().num_rows
        200
    """
    with extras.required():
        from raft_spark.stages import reader

        return reader.open_table(conf.lake, name, version)


@overload
def estimate(conf: "Config", ask: int = 5, *, evaluation: Literal[False] = False) -> "Estimate": ...
@overload
def estimate(conf: "Config", ask: int = 5, *, evaluation: Literal[True]) -> "list[CostBound]": ...
def estimate(conf: "Config", ask: int = 5, *, evaluation: bool = False) -> "Estimate | list[CostBound]":
    """Estimate the cost of the completions, or an upper bound for the cost of the evaluation.

    The estimate is based on stored answers. If there are too few, it sends some requests to the teacher and stores the
    answers, so that none is paid for twice. The tables `articles` and `base` must exist.

    Args:
        conf: The settings.
        ask: The number of requests to send if no answer is stored. 0 sends none.
        evaluation: Return the upper bounds of the evaluation instead. This sends no request.

    Returns:
        Requests, tokens, seconds and dollars of the completions. With `evaluation`, a list with the requests, tokens and
        dollars of each student, and those of the judge at the end.

    Raises:
        InputError: There is no base table yet or, with `evaluation`, no articles table.
        EndpointError: The teacher answered none of the requests.

    Examples:
        The fake endpoint makes up its answers and costs nothing.

        >>> import raft_spark as rs
        >>> conf = rs.load_config(overrides={"articles.source": "sample:200", "completions.endpoint": "fake"})
        >>> _ = rs.run_stage("articles", conf), rs.run_stage("base", conf)
        >>> estimate = rs.estimate(conf, ask=3)
        >>> estimate.requests, estimate.to_ask, estimate.asked_now
        (200, 197, 3)
        >>> print(f"${estimate.bill.total.value:.2f}")
        $0.00
    """
    with extras.required():
        from raft_spark.costs import estimate, estimate_evaluation

        return estimate_evaluation.run(conf) if evaluation else estimate.run(conf, ask)


def preview(conf: "Config", pubid: int | None = None) -> "Preview":
    """Ask the teacher one question of the base table, without storing the answer.

    Args:
        conf: The settings.
        pubid: The article of the question. None takes the first article of the train split.

    Returns:
        The prompt, the completion, the seconds, the tokens, and the call as it was sent.

    Raises:
        InputError: There is no base table yet, or it has no such article.
        EndpointError: The teacher gives no answer.

    Examples:
        >>> import raft_spark as rs
        >>> conf = rs.load_config(overrides={"articles.source": "sample:200", "completions.endpoint": "fake"})
        >>> _ = rs.run_stage("articles", conf), rs.run_stage("base", conf)
        >>> shown = rs.preview(conf)
        >>> [message["role"] for message in shown.prompt]
        ['system', 'user']
        >>> shown.finish_reason
        'stop'
    """
    with extras.required():
        from raft_spark.inference import previews

        return previews.ask(conf, pubid)


def evaluate(conf: "Config") -> "EvaluationResult":
    """Ask students the questions of the test split, with and without the oracle, and score their answers.

    Args:
        conf: The settings. `evaluation.students` names the endpoints of the students.

    Returns:
        The version of the table `evaluation`, its counts and seconds, and the metrics of each student.

    Raises:
        InputError: There is no articles table yet, the test split is too small, or a package is missing.
        EndpointError: A student or the judge refuses the requests. All answers are stored.
        StoppedError: As for `run`.

    Examples:
        >>> import raft_spark as rs
        >>> settings = {"evaluation.students": ["fake"], "evaluation.rows": 3, "evaluation.distractors": [1]}
        >>> conf = rs.load_config(overrides={"articles.source": "sample:200", **settings})
        >>> _ = rs.run_stage("articles", conf)
        >>> metrics = rs.evaluate(conf).metrics
        >>> [each["value"] for each in metrics if (each["setting"], each["figure"]) == ("with", "failed")]
        [0.0]
    """
    with extras.required():
        from raft_spark.stages import pipeline

        return pipeline.evaluate(conf)


def refresh(conf: "Config") -> "RefreshRecord":
    """Bring all tables up to date with the source and the settings. Readers see all the new versions at once, or none.

    Args:
        conf: The settings. The section `[refresh]` limits how much may change.

    Returns:
        The outcome, the versions before and after, the numbers of changed rows, and the results of the gates.

    Raises:
        GateError: A gate refused the new versions. The tables stay as they were.
        InputError: Another run published these tables in the meantime, or as for `run`.
        EndpointError: As for `run`.
        StoppedError: As for `run`.

    Examples:
        >>> import raft_spark as rs
        >>> settings = {"lake.root": "build/refreshed", "dataset.answer": "original"}
        >>> conf = rs.load_config(overrides={"articles.source": "sample:200", **settings})
        >>> rs.refresh(conf).outcome
        'published'
        >>> rs.refresh(conf).outcome
        'nothing new'
    """
    with extras.required():
        from raft_spark.stages import refresh

        return refresh.run(conf)


def rollback(conf: "Config", version: str) -> dict[str, str]:
    """Make an older version current again, with the versions it was made from.

    Args:
        conf: The settings. Only the section `[lake]` is used, and `[spark]` if the lake has a catalog.
        version: The id of a version of any table, for example `result.stages["dataset"].version` of an earlier run.

    Returns:
        The ids of the versions that are current now, by table. Completions are not among them: they are never rolled back.

    Raises:
        InputError: There is no such version.
        CatalogError: The tables are rolled back, but the lake's catalog is not; the next run brings it up to date.

    Examples:
        >>> import raft_spark as rs
        >>> first = rs.run_stage("articles", rs.load_config(overrides={"articles.source": "sample:200"}))
        >>> conf = rs.load_config(overrides={"articles.source": "sample:210"})
        >>> second = rs.run_stage("articles", conf)
        >>> rs.rollback(conf, first.version) == {"articles": first.version}
        True
    """
    with extras.required():
        from raft_spark.stages import pipeline

        return pipeline.rollback(conf, version)
