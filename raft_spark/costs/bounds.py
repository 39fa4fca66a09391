"""missing requests to an endpoint -> upper bounds of its tokens and dollars. No request is sent."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from raft_spark import config
from raft_spark.costs import arithmetic
from raft_spark.endpoints.base import Request
from raft_spark.lake.tasks import map_in_arrow

CHARS_PER_TOKEN = 3  # fewer than in most languages, so that tokens are overestimated
CHARACTERS_SCHEMA = pa.schema([("characters", pa.int64())])


@dataclass(frozen=True, slots=True)
class CostBound:
    """Upper bounds of an endpoint's requests, tokens and dollars; `dollars` is None without a price of tokens."""

    endpoint: str
    model: str
    requests: int
    tokens_in: int
    tokens_out: int
    dollars: float | None


def bound(missing: DataFrame, conf: config.Config, build_request: Callable[..., Request]) -> CostBound:
    """Sum up the requests to one endpoint, which `conf` names as the teacher."""
    model = conf.teacher.model
    count = partial(_count_characters, build_request=partial(build_request, conf=conf.completions, model=model))
    sums = F.count("*"), F.coalesce(F.sum("characters"), F.lit(0))
    requests, characters = map_in_arrow(missing, count, CHARACTERS_SCHEMA).agg(*sums).first() or (0, 0)
    tokens_in, tokens_out = -(-characters // CHARS_PER_TOKEN), requests * conf.completions.max_new_tokens
    usage = arithmetic.Usage(arithmetic.Amount(tokens_in), arithmetic.Amount(tokens_out))
    dollars = arithmetic.bill(conf, "realtime", requests, usage).on_demand
    return CostBound(
        conf.completions.endpoint, model, requests, tokens_in, tokens_out, dollars.value if dollars else None
    )


def _count_characters(
    batches: Iterator[pa.RecordBatch], build_request: Callable[..., Request]
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        characters = [build_request(row).characters for row in batch.to_pylist()]
        yield pa.RecordBatch.from_arrays([pa.array(characters, pa.int64())], schema=CHARACTERS_SCHEMA)
