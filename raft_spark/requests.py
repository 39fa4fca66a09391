"""base -> one request an article, named by its key: shared by the stages that ask and that look the answers up."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql.pandas.types import from_arrow_schema

from raft_spark import config, prompts

REQUESTS = pa.schema([("key", pa.string()), ("pubid", pa.int64()), ("question", pa.string()), ("oracle", pa.string())])


def settings(conf: config.Config) -> dict[str, Any]:
    """Return the settings that decide what is asked, and of which model."""
    words = {"style", "template", "temperature", "top_p", "max_new_tokens"}
    return {**conf.completions.model_dump(include=words), "model": conf.teacher.model, "prompt": prompts.VERSION}


def build(base: DataFrame, conf: config.Config) -> DataFrame:
    """Return a row an article of base with its request's key, in the schema REQUESTS; lazy."""
    columns = base.select("pubid", "question", "oracle")
    return columns.mapInArrow(
        partial(_keyed, conf=conf.completions, model=conf.teacher.model), from_arrow_schema(REQUESTS)
    )


def _keyed(batches: Iterator[pa.RecordBatch], conf: config.Completions, model: str) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        rows = zip(batch["question"].to_pylist(), batch["oracle"].to_pylist(), strict=True)
        keys = [prompts.request(question, oracle, model, conf).key for question, oracle in rows]
        columns = [pa.array(keys, pa.string()), batch["pubid"], batch["question"], batch["oracle"]]
        yield pa.RecordBatch.from_arrays(columns, schema=REQUESTS)
