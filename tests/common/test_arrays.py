"""Distinct values are those of a set, and each is counted."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft_spark.common import arrays

pytestmark = pytest.mark.row


@given(st.lists(st.integers(-3, 3) | st.integers(-(2**63), 2**63 - 1)))
def test_values_are_distinct_ascending_and_counted(values: list[int]):
    found, counts = arrays.counted(np.array(values, np.int64))
    assert dict(zip(found.tolist(), counts.tolist(), strict=True)) == Counter(values)
    assert found.tolist() == sorted(set(values)) == arrays.distinct(np.array(values, np.int64)).tolist()
