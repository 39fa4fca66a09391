"""Read the settings of a run with `load`; this package exports the type of each section."""

from raft_spark.config.loader import folder, from_argv, load
from raft_spark.config.models import (
    LOCAL_KINDS,
    Articles,
    Base,
    Batch,
    Completions,
    Config,
    Dataset,
    DatasetGate,
    Emr,
    Endpoint,
    Lake,
    Log,
    Price,
    Refresh,
    Retrieval,
)
from raft_spark.config.student import Evaluation, Hosting, Training, TrainingJob

__all__ = [
    "LOCAL_KINDS",
    "Articles",
    "Base",
    "Batch",
    "Completions",
    "Config",
    "Dataset",
    "DatasetGate",
    "Emr",
    "Endpoint",
    "Evaluation",
    "Hosting",
    "Lake",
    "Log",
    "Price",
    "Refresh",
    "Retrieval",
    "Training",
    "TrainingJob",
    "folder",
    "from_argv",
    "load",
]
