"""Records checked by columns become exactly what each becomes alone, whatever a Parquet file holds."""

import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft_spark import config
from raft_spark.sources import checks, sources
from raft_spark.sources.records import Rejected, check_record

pytestmark = pytest.mark.row

CONF = config.load().articles.model_copy(update={"max_passages": 3, "max_text_chars": 100})


def check(table: pa.Table, conf: config.Articles = CONF) -> tuple[list[Any], list[Any]]:
    """Return what the columns of a Parquet file become, and what its records become one by one."""
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(table, Path(folder) / "a.parquet")
        storage = {"root": folder, "endpoint": "", "region": ""}
        split = {"kind": "parquet", **storage, "path": "a.parquet", "row_group": 0, "rows": len(table)}
        alone = [(where, record, check_record(record, conf)) for where, record in sources.read_split(split)]
        return list(checks.check_split(split, conf)), alone


def assert_same(table: pa.Table) -> None:
    by_columns, alone = check(table)
    assert [(where, found) for where, _, found in by_columns] == [(where, found) for where, _, found in alone]
    rejected = [(record, found) for _, record, found in by_columns if isinstance(found, Rejected)]
    assert repr(rejected) == repr([(record, found) for _, record, found in alone if isinstance(found, Rejected)])


NO_UTF8 = [b"\xff", b"\xed\xa0\x80", b"\xc0\x80"]
LONG = [text * length for text in (b"x", b"\xc3\xa9") for length in (100, 101)]
BLANK = [b"", b" ", b"\xc2\xa0", None]
nasty = st.sampled_from([*NO_UTF8, *LONG, *BLANK, b"yes", b" No\n", b'"\\\x00', b"\xe2\x80\x83x", b"caf\xc3\xa9"])
kinds = st.sampled_from(["plain", "large", "dictionary", "binary"])


def mostly(usual: st.SearchStrategy[Any], other: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 15).flatmap(lambda number: usual if number else other)


def text_array(values: list[bytes | None], kind: str) -> pa.Array:
    """Return texts in one of Arrow's types; they may be invalid UTF-8."""
    plain = pa.array(values, pa.binary())
    if kind == "large":
        return plain.cast(pa.large_binary()).view(pa.large_string())
    text = plain if kind == "binary" else plain.view(pa.string())
    return text.dictionary_encode() if kind == "dictionary" else text


def list_array(lists: list[list[bytes | None] | None], kind: str) -> pa.Array:
    ends = [0]
    for each in lists:
        ends.append(ends[-1] + len(each or []))
    flat = text_array([text for each in lists for text in each or []], kind)
    mask = pa.array([each is None for each in lists])
    if kind == "large":
        return pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), flat, mask=mask)
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), flat, mask=mask)


@st.composite
def text_columns(draw: st.DrawFn, usual: list[bytes], rows: int) -> pa.Array:
    """Return a column of texts, or now and then one of another type."""
    if not draw(st.integers(0, 9)):
        others = [pa.nulls(1), pa.array([float("nan")]), pa.array([1.5, None]), pa.array([7])]
        return pa.concat_arrays([draw(st.sampled_from(others))] * rows)[:rows]
    value = mostly(st.sampled_from(usual), nasty)
    return text_array(draw(st.lists(value, min_size=rows, max_size=rows)), draw(kinds))


@st.composite
def list_columns(draw: st.DrawFn, rows: int) -> pa.Array:
    """Return a column of lists of texts, or now and then one of another type."""
    if not draw(st.integers(0, 9)):
        nulls = pa.array([[None], None] * rows, pa.list_(pa.null()))[:rows]
        return draw(st.sampled_from([pa.nulls(rows), nulls, pa.array([[1]] * rows), pa.array(["x"] * rows)]))
    texts = st.lists(mostly(st.just(b" text"), nasty), min_size=1, max_size=3)
    lists = mostly(texts, st.none() | st.just([]) | st.just([b"p"] * 4))
    return list_array(draw(st.lists(lists, min_size=rows, max_size=rows)), draw(kinds))


LIMITS = [None, -1, 0, 2**63 - 1, 2**63, 2**64 - 1]
PUBIDS = [
    (pa.int32(), [-1, None]),
    (pa.uint64(), [number for number in LIMITS if number != -1]),
    (pa.decimal128(38, 0), [number if number is None else Decimal(number) for number in LIMITS]),
]
NO_PUBIDS = [
    pa.array([1.5, None]),
    pa.array(["1", "2"]),
    pa.array([True, False]),
    pa.nulls(2),
    pa.array([float("nan")] * 2),
]


@st.composite
def pubid_columns(draw: st.DrawFn, rows: int) -> pa.Array:
    if not draw(st.integers(0, 9)):
        return pa.concat_arrays([draw(st.sampled_from(NO_PUBIDS))] * rows)[:rows]
    kind, other = draw(st.sampled_from(PUBIDS))
    value = mostly(st.just(Decimal(7) if pa.types.is_decimal(kind) else 7), st.sampled_from(other))
    return pa.array(draw(st.lists(value, min_size=rows, max_size=rows)), kind)


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Return tables with missing columns, columns of other types, and nulls at each level."""
    rows = draw(st.integers(1, 8))
    names = draw(
        mostly(st.just(["contexts", "labels", "meshes"]), st.sampled_from([["meshes", "contexts"], ["labels"]]))
    )
    is_null = st.integers(0, 15).map(lambda number: number == 0)
    mask = pa.array(draw(st.lists(is_null, min_size=rows, max_size=rows)))
    columns = {
        "pubid": draw(pubid_columns(rows)),
        "context": pa.StructArray.from_arrays([draw(list_columns(rows)) for _ in names], names, mask=mask),
        "question": draw(text_columns([b"What is it?", b" Caf\xc3\xa9? "], rows)),
        "long_answer": draw(text_columns([b"It is."], rows)),
        "final_decision": draw(text_columns([b"yes", b"no", b"Maybe"], rows)),
    }
    left_out = draw(mostly(st.just(""), st.sampled_from(list(columns))))
    return pa.table({name: column for name, column in columns.items() if name != left_out})


@settings(deadline=None, max_examples=60)
@given(tables())
def test_columns_give_what_records_give_one_by_one(table: pa.Table):
    assert_same(table)


GOOD: dict[str, Any] = {
    "pubid": 7,
    "question": b" Is it so? ",
    "context": {"contexts": [b"Caf\xc3\xa9.", b" B "], "labels": [b"AIM"], "meshes": []},
    "long_answer": None,
    "final_decision": b" Yes",
}


def good(**changes: object) -> dict[str, Any]:
    inner = {name: value for name, value in changes.items() if name in GOOD["context"]}
    outer = {name: value for name, value in changes.items() if name not in inner}
    return {**GOOD, "context": {**GOOD["context"], **inner}, **outer}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (good(pubid=None), "no pubid"),
        (good(pubid=-1), "pubid is out of range"),
        (good(question=b"\xe2\x80\x83"), "no question"),
        (good(question=b"\xff"), "invalid UTF-8 in question"),
        (good(context=None), "no passage"),
        (good(contexts=[]), "no passage"),
        (good(contexts=[b"a", None]), "blank passage"),
        (good(contexts=[b" ", b"a"]), "blank passage"),
        (good(contexts=[b"a", b"\xff"]), "invalid UTF-8 in contexts"),
        (good(contexts=[b"\xff", b"a"]), "invalid UTF-8 in contexts"),
        (good(contexts=[b"a"] * 4), "too many passages"),
        (good(labels=[b"\xc0\x80"]), "invalid UTF-8 in labels"),
        (good(meshes=[b"a", b"x" * 101]), "meshes is too long"),
        (good(long_answer=b"\xed\xa0\x80"), "invalid UTF-8 in long_answer"),
        (good(final_decision=b"perhaps"), "final_decision is not yes, no or maybe"),
    ],
)
def test_one_wrong_record_is_rejected_and_its_neighbours_are_checked_by_columns(record: dict[str, Any], reason: str):
    by_columns, _ = check(pa.Table.from_pylist([GOOD, GOOD, record, GOOD, GOOD]))
    assert [getattr(found, "reason", "") for _, _, found in by_columns] == ["", "", reason, "", ""]
    assert [record is None for _, record, _ in by_columns] == [True, True, False, True, True]
    assert by_columns[0][2][:7] == (7, "Is it so?", ["Caf\u00e9.", "B"], ["AIM"], [], None, "yes")


def test_built_in_articles_are_checked_by_columns_too_and_say_where_they_are():
    split = {"kind": "sample", "start": 995, "rows": 10, "seed": 0}
    conf = CONF.model_copy(update={"max_text_chars": 100_000})
    found = list(checks.check_split(split, conf))
    assert [where for where, _, _ in found] == [f"sample#{row}" for row in range(995, 1005)]
    assert [each for *_, each in found] == [check_record(record, conf) for _, record in sources.read_split(split)]
    rejected = [(record, each) for _, record, each in found if isinstance(each, Rejected)]
    assert rejected
    assert all(len(record["context"]["contexts"]) > 3 for record, _ in rejected)
    assert {each.reason for _, each in rejected} == {"too many passages"}
