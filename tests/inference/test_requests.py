"""Which stored answers answer a request, and which failure is its last one, for all pairs of what a store may hold."""

import datetime as dt
import itertools
from typing import Any

import pytest
from pyspark.sql import DataFrame
from pyspark.sql.pandas.types import from_arrow_schema

from conftest import Settle
from raft_spark.inference import requests
from raft_spark.lake import schemas, session

pytestmark = pytest.mark.spark
# what is stored -> whether it answers a request of 100 tokens, and whether it still does without reuse_truncated
ANSWERS: dict[str, tuple[dict[str, Any], bool, bool]] = {
    "whole": ({"finish_reason": "stop", "completion_tokens": 40, "max_tokens": 100}, True, True),
    "whole, of a larger limit": ({"finish_reason": "stop", "completion_tokens": 100, "max_tokens": 200}, True, True),
    "too long": ({"finish_reason": "stop", "completion_tokens": 101, "max_tokens": 200}, False, False),
    "not counted": ({"finish_reason": None, "completion_tokens": None, "max_tokens": 100}, True, True),
    "not counted, of a larger limit": ({"finish_reason": "stop", "max_tokens": 200}, False, False),
    "cut": ({"finish_reason": "length", "completion_tokens": 100, "max_tokens": 100}, True, True),
    "cut earlier": ({"finish_reason": "length", "completion_tokens": 50, "max_tokens": 50}, True, False),
    "cut later": ({"finish_reason": "length", "completion_tokens": 200, "max_tokens": 200}, False, False),
    "cut without a limit": ({"finish_reason": "length", "completion_tokens": 200, "max_tokens": 0}, True, True),
    "timeout": ({"error_class": "timeout", "max_tokens": 100}, False, False),
    "filtered": ({"error_class": "filtered", "max_tokens": 100}, False, False),
    "nothing": ({}, False, False),
}
FAILURES = {"timeout": "timeout", "filtered": "filtered"}
PAIRS = list(itertools.product(ANSWERS, repeat=2))


def stored_row(pair: int, order: int, name: str) -> dict[str, Any]:
    """A row of the store, the later the larger `order`; with another limit the request has another key."""
    fields, is_answer = ANSWERS[name][0], name not in FAILURES
    key = f"{pair}" if fields["max_tokens"] == 100 else f"{pair}, limit {fields['max_tokens']}"
    at = dt.datetime(2026, 1, 1 + order, tzinfo=dt.UTC)
    common = {"key": key, "key_of_any_length": f"any {pair}", "created_at": at, "run_id": "run"}
    return {**common, **fields, "completion": "Yes." if is_answer else None}


@pytest.fixture
def found(settled: Settle) -> tuple[DataFrame, DataFrame]:
    """The wanted requests, one for each pair, and the store that has both rows of each."""
    spark = session.start(settled())
    rows = [
        stored_row(pair, order, name)
        for pair, names in enumerate(PAIRS)
        for order, name in enumerate(names)
        if name != "nothing"
    ]
    elsewhere = {**stored_row(0, 9, "filtered"), "key": "0, limit 50"}  # a failure of the same words with another limit
    schema = from_arrow_schema(schemas.SCHEMAS[schemas.COMPLETIONS])
    values = [tuple(row.get(name) for name in schema.names) for row in [*rows, elsewhere]]
    wanted = [(f"{pair}", f"any {pair}") for pair in range(len(PAIRS))]
    return spark.createDataFrame(wanted, "key string, key_of_any_length string"), spark.createDataFrame(values, schema)


@pytest.mark.parametrize("reuse", [True, False])
def test_a_request_is_answered_by_either_row_and_its_last_error_is_the_later_one(
    found: tuple[DataFrame, DataFrame], settled: Settle, *, reuse: bool
):
    conf = settled("completions.max_new_tokens=100", f"completions.reuse_truncated={str(reuse).lower()}").completions
    expected = {
        f"{pair}": (
            any(ANSWERS[name][1 if reuse else 2] for name in names),
            FAILURES.get(names[1]) or FAILURES.get(names[0]),
        )
        for pair, names in enumerate(PAIRS)
    }
    marked = requests.mark_answered(*found, conf).collect()
    assert {row.key: (row.is_answered, row.last_error) for row in marked} == expected
    looked_up = requests.look_up(*found, conf).collect()
    assert {row.key: (row.answer is not None, row.last_error) for row in looked_up} == expected
    assert len(marked) == len(looked_up) == len(PAIRS)
    missing = {row.key for row in requests.mark_answered(*found, conf).where(requests.is_missing(conf)).collect()}
    assert missing == {key for key, (is_answered, error) in expected.items() if not is_answered and error != "filtered"}
