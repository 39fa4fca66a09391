"""What is added to a table of the catalog that an earlier release created."""

import pytest
from pyspark.sql.types import ArrayType, IntegerType, LongType, StringType, StructField, StructType

from raft_spark.lake import iceberg

pytestmark = pytest.mark.row


def test_fields_that_a_release_adds_are_added_also_inside_of_a_list():
    document = StructType([StructField("pubid", LongType())])
    more = StructType([*document, StructField("method", StringType())])
    before = StructType([StructField("documents", ArrayType(document)), StructField("names", ArrayType(StringType()))])
    after = StructType(
        [
            StructField("documents", ArrayType(more)),
            StructField("names", ArrayType(StringType())),
            StructField("second_oracles", IntegerType()),
        ]
    )
    added = list(iceberg.added_fields(before, after))
    assert added == [("documents.element.method", StringType()), ("second_oracles", IntegerType())]
    assert list(iceberg.added_fields(after, after)) == []
