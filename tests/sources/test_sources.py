"""A source is read whole, every record once, whatever its files; what cannot be read is a clear error, not a crash."""

import bz2
import gzip
import json
import lzma
import os
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import article, write_articles
from raft_spark import config
from raft_spark.errors import InputError
from raft_spark.sources import records, sources
from support.input_splits import input_splits

pytestmark = pytest.mark.row


def conf(where: object) -> config.Config:
    return config.load(assignments=[f"articles.source={where}", "lake.root=lake"])


def read(where: object) -> list[Any]:
    """Read a whole source, its pieces one after the other."""
    settled = conf(where)
    return [
        record for piece in input_splits(settled, sources.identity(settled)) for _, record in sources.read_split(piece)
    ]


def pubids(where: object) -> list[int]:
    return [record["pubid"] for record in read(where)]


def line(pubid: int) -> str:
    return json.dumps(article(pubid, ["p"])) + "\n"


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refused(where: object) -> str:
    with pytest.raises(InputError) as caught:
        read(where)
    return str(caught.value)


# Parquet


@pytest.mark.parametrize("kind", [pa.int32(), pa.int64()])
def test_parquet_is_read_by_row_group_with_other_columns_left_out(tmp_path, kind: pa.DataType):
    path = write_articles(tmp_path / "a.parquet", [article(pubid, ["p", "q"], YEAR="2015") for pubid in range(25)])
    table = pq.read_table(path)
    at = table.schema.get_field_index("pubid")
    pq.write_table(table.set_column(at, "pubid", table["pubid"].cast(kind)), path, row_group_size=10)
    cut = input_splits(conf(tmp_path), "")
    assert [(piece["row_group"], piece["rows"]) for piece in cut] == [(0, 10), (1, 10), (2, 5)]
    assert pubids(tmp_path) == list(range(25))
    assert read(tmp_path)[0] == {
        "pubid": 0,
        "question": b"Does it work?",
        "context": {"contexts": [b"p", b"q"], "labels": [b"METHODS", b"METHODS"], "meshes": [b"Humans"]},
        "long_answer": b"It does.",
    }


def test_large_and_dictionary_texts_are_read_too(tmp_path):
    table = pa.Table.from_pylist([article(1, ["p"], final_decision="yes")])
    for name, text in (
        ("question", table["question"].dictionary_encode()),
        ("long_answer", table["long_answer"].cast(pa.large_string())),
    ):
        table = table.set_column(table.schema.get_field_index(name), name, text)
    pq.write_table(table, tmp_path / "a.parquet")
    (record,) = read(tmp_path)
    checked = records.check_record(record, config.load().articles)
    assert isinstance(checked, records.Article)
    assert (checked.question, checked.long_answer, checked.final_decision) == ("Does it work?", "It does.", "yes")


def test_bytes_that_are_no_utf8_reach_the_reader_at_any_depth(tmp_path):
    def texts(*values: bytes) -> pa.Array:
        return pa.array(values, pa.binary()).view(pa.string())  # as a careless writer does it

    passages = pa.ListArray.from_arrays([0, 1, 2], texts(b"caf\xe9", b"fine"))
    context = pa.StructArray.from_arrays([passages], ["contexts"])
    columns = {"pubid": [1, 2], "question": texts(b"q", b"\xff"), "context": context, "long_answer": texts(b"a", b"b")}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    first, second = read(tmp_path)
    assert first["context"]["contexts"] == [b"caf\xe9"]
    assert second["question"] == b"\xff"


NEEDED = (
    "Needed: pubid (an integer), question (text), context (a table), context.contexts (a list of texts); "
    "optional: long_answer (text), final_decision (text), context.labels (a list of texts), context.meshes (a list of texts) "
    '(docs/dataset.md, "Input schema")'
)


@pytest.mark.parametrize(
    ("record", "wrong", "has"),
    [
        (
            {"pubid": 1, "question": "q"},
            "it has no column context",
            "pubid (an integer), question (text)",
        ),
        (
            {"pubid": "1", "context": {"texts": ["p"], "meshes": [1]}, "long_answer": 1.5},
            (
                "it has no column question, context.contexts; pubid is text and must be an integer; long_answer is a decimal "
                "number and must be text; context.meshes is a list of other values and must be a list of texts. Turn text ids into "
                "integers, for example with int.from_bytes(hashlib.sha256(id.encode()).digest()[:7])"
            ),
            (
                "pubid (text), context (a table), long_answer (a decimal number), context.texts (a list of texts), "
                "context.meshes (a list of other values)"
            ),
        ),
        (
            {"pubid": 1, "question": "q", "context": "p", "long_answer": None},
            "context is text and must be a table",
            "pubid (an integer), question (text), context (text), long_answer (null)",
        ),
    ],
)
def test_parquet_of_another_shape_is_told_all_it_lacks_at_once(tmp_path, record: dict[str, Any], wrong: str, has: str):
    path = write_articles(tmp_path / "a.parquet", [record])
    assert refused(tmp_path) == f"{path} does not have the columns that articles need: {wrong}. It has {has}. {NEEDED}"


def checked_lines(where: object) -> None:
    settled = conf(where)
    sources.check_json_columns(input_splits(settled, ""))


def test_json_lines_of_another_shape_are_told_all_they_lack_at_once(tmp_path):
    lines = [{"id": number, "question": ["q"], "context": {"labels": "METHODS"}, "pubid": 1.5} for number in range(30)]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(each) + "\n" for each in lines))
    with pytest.raises(InputError) as caught:
        checked_lines(tmp_path)
    assert str(caught.value) == (
        f"{path} does not have the columns that articles need: it has no column context.contexts; pubid is a decimal number and must "
        "be an integer; question is a list of texts and must be text; context.labels is text and must be a list of texts. "
        "It has id (an integer), question (a list of texts), context (a table), pubid (a decimal number), "
        f"context.labels (text). {NEEDED}"
    )


@pytest.mark.parametrize("other", ["{}", '{"pubid": "1"}', "broken", "[1]", ""])
def test_json_lines_with_a_good_record_among_the_first_are_read_and_the_others_quarantined(tmp_path, other: str):
    write(tmp_path / "a.jsonl", f"{other}\n" * 19)
    write(tmp_path / "b.jsonl", line(1))
    checked_lines(tmp_path)


def test_a_file_with_many_columns_is_told_the_first_of_them(tmp_path):
    write_articles(tmp_path / "a.parquet", [{f"column_{number}": 1 for number in range(50)}])
    assert "column_19 (an integer), and 30 more. Needed" in refused(tmp_path)


def views(values: list[bytes]) -> pa.Array:
    return pa.array(values, pa.binary()).cast(pa.binary_view()).view(pa.string_view())


def dictionary(values: list[bytes]) -> pa.Array:
    return pa.array(values, pa.binary()).view(pa.string()).dictionary_encode()


def lists(of: Callable[[list[bytes]], pa.Array], wrap: type) -> Callable[[list[bytes]], pa.Array]:
    """Return what puts each text into a list of its own."""
    return lambda values: wrap.from_arrays(range(len(values) + 1), of(values))


@pytest.mark.parametrize(
    ("question", "passages"),
    [
        (dictionary, lists(dictionary, pa.ListArray)),
        (views, lists(views, pa.LargeListArray)),
        (views, lambda values: pa.FixedSizeListArray.from_arrays(dictionary(values), 1)),
        (dictionary, lambda values: pa.ListViewArray.from_arrays(range(3), [1] * 3, views(values))),
    ],
)
def test_a_bad_byte_costs_one_record_in_any_type_of_text_and_list(tmp_path, question: Any, passages: Any):
    context = pa.StructArray.from_arrays([passages([b"p", b"q", b"caf\xe9"])], ["contexts"])
    table = pa.table({"pubid": [1, 2, 3], "question": question([b"a", b"\xff", b"c"]), "context": context})
    pq.write_table(table, tmp_path / "a.parquet")
    checked = [records.check_record(record, config.load().articles) for record in read(tmp_path)]
    assert [getattr(each, "reason", "kept") for each in checked] == [
        "kept",
        "invalid UTF-8 in question",
        "invalid UTF-8 in contexts",
    ]


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        (pa.uint64(), 2**63 - 1, 2**63 - 1),
        (pa.uint64(), 2**63, "pubid is out of range"),
        (pa.decimal128(38, 0), Decimal(25429730), 25429730),
        (pa.decimal256(40, 0), Decimal(2**63), "pubid is out of range"),
        (pa.int8(), 7, 7),
        (pa.int64(), None, "no pubid"),
    ],
)
def test_integers_of_any_type_are_pubids(tmp_path, kind: pa.DataType, given: object, expected: object):
    table = pa.Table.from_pylist([article(1, ["p"])]).set_column(0, "pubid", pa.array([given], kind))
    pq.write_table(table, tmp_path / "a.parquet")
    (record,) = read(tmp_path)
    checked = records.check_record(record, config.load().articles)
    assert getattr(checked, "reason", checked.pubid) == expected


def test_decimal_numbers_are_no_pubids(tmp_path):
    table = pa.Table.from_pylist([article(1, ["p"])])
    pq.write_table(table.set_column(0, "pubid", pa.array([Decimal("1.5")])), tmp_path / "a.parquet")
    assert "pubid is decimal128(2, 1) and must be an integer. It has" in refused(tmp_path)


def test_shards_with_other_types_other_columns_and_another_order_are_one_source(tmp_path):
    whole = pa.Table.from_pylist([article(number, ["p"], final_decision="yes", YEAR="2015") for number in range(4)])
    shards = [
        whole.slice(0, 1).set_column(0, "pubid", pa.array([0], pa.int32())),
        whole.slice(1, 1).select(["long_answer", "context", "final_decision", "question", "pubid"]),
        whole.slice(2, 1).select(["question", "context", "pubid"]).set_column(2, "pubid", pa.array([2], pa.uint64())),
        whole.slice(3, 1).set_column(1, "question", whole["question"].slice(3).cast(pa.large_string())),
    ]
    for number, shard in enumerate(shards):
        pq.write_table(shard, tmp_path / f"train-{number:05d}-of-00004.parquet")
    checked = [records.check_record(record, config.load().articles) for record in read(tmp_path)]
    assert [(each.pubid, each.long_answer, each.final_decision) for each in checked] == [
        (0, "It does.", "yes"),
        (1, "It does.", "yes"),
        (2, None, None),
        (3, "It does.", "yes"),
    ]


def test_a_text_column_that_pandas_wrote_as_nan_is_missing(tmp_path):
    table = pa.Table.from_pylist([article(number, ["p"]) for number in range(4)])
    at = table.schema.get_field_index("long_answer")
    numbers = [float("nan"), None, float("nan"), float("nan")]
    pq.write_table(table.set_column(at, "long_answer", pa.array(numbers)), tmp_path / "a.parquet", row_group_size=2)
    checked = [records.check_record(record, config.load().articles) for record in read(tmp_path)]
    assert [(each.pubid, each.long_answer) for each in checked] == [(0, None), (1, None), (2, None), (3, None)]
    pq.write_table(table.set_column(at, "long_answer", pa.array([*numbers[:3], 1.5])), tmp_path / "a.parquet")
    assert "long_answer is a decimal number and must be text" in refused(tmp_path)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.json.gz"])
def test_a_pointer_of_git_lfs_is_refused_with_what_to_do(tmp_path, name: str):
    path = write(tmp_path / name, POINTER)
    assert refused(tmp_path) == f"{path} is a pointer of git-lfs, not the file itself; get it with `git lfs pull`"


def test_parquet_as_other_tools_write_it_is_taken(tmp_path):
    table = pa.Table.from_pylist([article(1, ["p"], final_decision=None)])
    texts = table["question"].cast(pa.large_string()).dictionary_encode()
    pq.write_table(table.set_column(1, "question", texts), tmp_path / "a.parquet")
    assert pubids(tmp_path) == [1]


@pytest.mark.parametrize("content", [b"", b"no parquet at all", b"PAR1\x00\x00\x00\x00PAR1"])
def test_a_broken_parquet_file_is_refused_with_its_name(tmp_path, content: bytes):
    path = write(tmp_path / "a.parquet", content)
    assert refused(tmp_path).startswith(f"{path} cannot be read: ")


def test_a_damaged_row_group_is_refused_with_its_name(tmp_path):
    path = write_articles(tmp_path / "a.parquet", [article(pubid, ["passage"]) for pubid in range(1_000)])
    whole = bytearray(path.read_bytes())
    whole[4:400] = b"\xff" * 396
    path.write_bytes(whole)
    assert refused(tmp_path).startswith(f"{path} cannot be read: ")


def test_parquet_without_rows_is_no_error(tmp_path):
    path = write_articles(tmp_path / "a.parquet", [article(1, ["p"])])
    pq.write_table(pq.read_table(path).slice(0, 0), tmp_path / "b.parquet")
    assert pubids(tmp_path) == [1]


# JSON Lines


def packed_by_arrow(codec: str, text: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(text)
    return bytes(sink.getvalue())


PACKED: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": partial(packed_by_arrow, "zstd"),
    ".lz4": partial(packed_by_arrow, "lz4"),
}
content = st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), max_size=20)


@given(st.lists(content, max_size=12), st.sampled_from(["\n", "\r\n", "\n\n"]), st.booleans(), st.data())
@settings(deadline=None)
def test_every_line_is_read_once_wherever_the_file_is_cut(tmp_path_factory, texts, ending, closed, data):
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    whole = ending.join(lines) + (ending if closed else "")
    path = write(tmp_path_factory.mktemp("cut") / "a.jsonl", whole)
    size = path.stat().st_size
    cuts = sorted({0, size, *data.draw(st.lists(st.integers(0, size), max_size=6))})
    here = {"kind": "json", "root": str(path.parent), "endpoint": "", "region": "", "path": path.name}
    found = [
        record["text"]
        for start, stop in zip(cuts, [*cuts[1:], size + 1], strict=True)
        for _, record in sources.read_split({**here, "start": start, "stop": stop})
    ]
    assert found == texts


@pytest.mark.parametrize("size", [1, 2, 7, 100, 1_000_000])
def test_a_file_is_cut_into_pieces_of_so_many_bytes(tmp_path, monkeypatch, size: int):
    monkeypatch.setattr(sources, "JSON_BYTES", size)
    path = write(tmp_path / "a.jsonl", "".join(map(line, range(5))))
    cut = input_splits(conf(path), "")
    assert [piece["start"] for piece in cut] == list(range(0, path.stat().st_size, size))
    assert pubids(path) == [0, 1, 2, 3, 4]


def test_where_a_line_stands_is_told_by_its_byte(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"a": 1}\n\n{"a": 2}\n')
    (piece,) = input_splits(conf(path), "")
    assert list(sources.read_split(piece)) == [("a.jsonl@0", {"a": 1}), ("a.jsonl@10", {"a": 2})]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "A.NDJSON"])
@pytest.mark.parametrize("ending", [*PACKED, ".GZ"])
def test_compressed_lines_are_read_whole(tmp_path, monkeypatch, name: str, ending: str):
    monkeypatch.setattr(sources, "JSON_BYTES", 10)
    text = "".join(map(line, range(300))).encode()
    packed = PACKED[ending.lower()]
    path = write(tmp_path / f"{name}{ending}", packed(text[:5_000]) + packed(text[5_000:]))  # two members
    assert len(input_splits(conf(path), "")) == 1
    assert pubids(path) == list(range(300))


@pytest.mark.parametrize("ending", PACKED)
@pytest.mark.parametrize("damage", ["cut off", "not compressed"])
def test_a_cut_compressed_file_is_refused_with_its_name(tmp_path, ending: str, damage: str):
    text = "".join(map(line, range(500))).encode()
    path = write(tmp_path / f"a.jsonl{ending}", PACKED[ending](text)[:-6] if damage == "cut off" else text)
    assert refused(path).startswith(f"{path} cannot be read: ")


@pytest.mark.parametrize("damage", ["cut off", "no gzip", "wrong checksum", "garbled"])
def test_a_damaged_compressed_file_is_refused_with_its_name(tmp_path, damage: str):
    whole = gzip.compress("".join(map(line, range(500))).encode())
    damaged = {
        "cut off": whole[:-20],
        "no gzip": b"no gzip",
        "wrong checksum": whole[:-8] + b"\0" * 8,
        "garbled": whole[:20] + b"\xff" * 20 + whole[40:],
    }
    path = write(tmp_path / "a.jsonl.gz", damaged[damage])
    assert refused(path).startswith(f"{path} cannot be read: ")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (b'{"pubid": 2,', "invalid JSON"),
        (b'{"question": "caf\xe9"}', "invalid UTF-8 in the line"),
        (b"[" * 100_000, "invalid JSON"),
        (b'{"pubid": ' + b"1" * 5_000 + b"}", "invalid JSON"),
        (b"[1, 2]", "wrong type: the record is a list"),
        (b"null", "wrong type: the record is NoneType"),
    ],
)
def test_a_broken_line_is_a_rejected_record_and_the_next_is_read(tmp_path, broken: bytes, reason: str):
    path = write(tmp_path / "a.jsonl", line(1).encode() + broken + b"\n" + line(3).encode())
    found = [records.check_record(record, config.load().articles) for record in read(path)]
    assert [getattr(record, "reason", record.pubid) for record in found] == [1, reason, 3]


def test_empty_files_are_no_error(tmp_path):
    write(tmp_path / "a.jsonl", "")
    write(tmp_path / "b.jsonl", "\n\n \n")
    for ending in PACKED:
        write(tmp_path / f"c.jsonl{ending}", "")
    write(tmp_path / "c.json", "[]")
    write(tmp_path / "c.ndjson", b"\xef\xbb\xbf")
    assert read(tmp_path) == []
    write(tmp_path / "d.jsonl", line(4))
    assert pubids(tmp_path) == [4]


# Which files


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a folder with good files at three depths and files that do not count."""
    for pubid, name in enumerate(["a.jsonl", "b.json", "sub/c.jsonl", "sub/deep/d.jsonl"]):
        write(tmp_path / name, line(pubid))
    write_articles(tmp_path / "e.parquet", [article(4, ["p"])])
    hidden = (
        "_SUCCESS",
        ".a.jsonl.crc",
        ".hidden.jsonl",
        "_x.jsonl",
        "_temporary/0/f.jsonl",
        ".cache/g.jsonl",
        "sub/_h.jsonl",
        "sub/.i/j.jsonl",
    )
    for name in (*hidden, "notes.txt", "sub/h.csv"):
        write(tmp_path / name, line(99))
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", [0, 1, 4, 2, 3]),
        ("/", [0, 1, 4, 2, 3]),
        ("/sub", [2, 3]),
        ("/a.jsonl", [0]),
        ("/*.jsonl", [0]),
        ("/[ab].json*", [0, 1]),
        ("/?.parquet", [4]),
        ("/*/*.jsonl", [2]),
        ("/s*/deep/d.jsonl", [3]),
        ("/**/*.jsonl", [2, 3]),
        ("/sub/deep", [3]),
    ],
)
def test_a_folder_a_file_or_a_glob(tree: Path, pattern: str, expected: list[int]):
    assert pubids(f"{tree}{pattern}") == expected


def test_names_with_brackets_are_taken_as_they_are_and_globs_still_match(tmp_path):
    for pubid, name in enumerate(
        ["x [v2]/a.jsonl", "x [v2]/b[1].jsonl", "x [v2]/deep/c?.jsonl", "x v/d.jsonl", "*.jsonl"]
    ):
        write(tmp_path / name, line(pubid))
    expected = {
        "x [v2]": [0, 1, 2],
        "x [v2]/": [0, 1, 2],
        "x [v2]/a.jsonl": [0],
        "x [v2]/b[1].jsonl": [1],
        "x [v2]/*.jsonl": [0, 1],
        "x [v2]/[ab]*.jsonl": [0, 1],
        "x [v2]/*/c?.jsonl": [2],
        "x [v2]/**": [0, 1, 2],
        "*/b[1].jsonl": [1],
        "x [[]v2]/a.jsonl": [0],
        "x [v]/d.jsonl": [3],
        "x [a-z]*/a.jsonl": [],
        "x [!a-z]*/a.jsonl": [0],
        "*.jsonl": [4],
    }
    found = {}
    for source in expected:
        try:
            found[source] = pubids(tmp_path / source if not source.endswith("/") else f"{tmp_path}/{source}")
        except InputError:
            found[source] = []
    assert found == expected


def test_the_home_folder_and_that_of_another_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "articles/a.jsonl", line(1))
    assert pubids("~/articles") == pubids("~/articles/*.jsonl") == pubids("~") == [1]
    assert conf("~root/a.jsonl").articles.source == "/root/a.jsonl"
    assert refused("~nobody-of-this-name/a").startswith(
        "articles.source is '~nobody-of-this-name/a': no Parquet or JSON"
    )


def test_links_are_followed_and_one_to_nothing_is_passed_over(tmp_path):
    write(tmp_path / "elsewhere/a.jsonl", line(1))
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file.jsonl").symlink_to(tmp_path / "elsewhere/a.jsonl")
    (tmp_path / "source/folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "source/nothing.jsonl").symlink_to(tmp_path / "gone.jsonl")
    (tmp_path / "link").symlink_to(tmp_path / "source")
    assert pubids(tmp_path / "link") == [1, 1]


def test_a_bucket_takes_spaces_and_brackets_too(s3: str):
    client = boto3.client("s3", endpoint_url=s3)
    for pubid, key in enumerate(["a.jsonl", "b [1].jsonl", "deep/c.ndjson", "notes.txt"]):
        client.put_object(Bucket="lake", Key=f"my articles [v2]/{key}", Body=line(pubid).encode())
    expected = {
        "my articles [v2]": [0, 1, 2],
        "my articles [v2]/": [0, 1, 2],
        "my articles [v2]/b [1].jsonl": [1],
        "my articles [v2]/*.jsonl": [0, 1],
        "my*/deep/*": [2],
    }
    found = {}
    for source in expected:
        settled = config.load(assignments=[f"articles.source=s3://lake/{source}", f"lake.s3_endpoint={s3}"])
        pieces = input_splits(settled, sources.identity(settled))
        found[source] = [record["pubid"] for piece in pieces for _, record in sources.read_split(piece)]
    assert found == expected
    assert (
        sources.ignored_files(
            config.load(assignments=["articles.source=s3://lake/my articles [v2]", f"lake.s3_endpoint={s3}"])
        )
        == "notes.txt"
    )


def test_files_of_other_endings_are_named(tree: Path):
    assert sources.ignored_files(conf(tree)) == "notes.txt, sub/h.csv"
    assert sources.ignored_files(conf(tree / "*.jsonl")) == sources.ignored_files(conf("sample:3")) == ""
    assert sources.ignored_files(conf(tree / "sub/*")) == "h.csv"
    for number in range(6):
        write(tree / f"{number}.csv", "")
    assert sources.ignored_files(conf(tree)) == "0.csv, 1.csv, 2.csv, 3.csv, 4.csv and 3 more"


def test_a_relative_source(tree: Path, monkeypatch):
    monkeypatch.chdir(tree)
    assert pubids("sub") == pubids("./sub/") == pubids("sub/deep/../../sub") == [2, 3]
    assert pubids("a.jsonl") == pubids("*.jsonl") == [0]


def test_a_folder_named_as_spark_names_its_output(tmp_path):
    write_articles(tmp_path / "articles.parquet/part-00000.parquet", [article(7, ["p"])])
    write(tmp_path / "articles.parquet/_SUCCESS", "")
    assert pubids(tmp_path / "articles.parquet") == [7]


@pytest.mark.parametrize("name", ["nothing", "nothing.jsonl", "notes.txt", "*.avro"])
def test_a_source_without_files_is_refused_with_what_would_be_right(tree: Path, name: str):
    others = " (only notes.txt)" if name == "notes.txt" else ""
    assert refused(tree / name) == (
        f"articles.source is '{tree / name}': no Parquet or JSON file is there{others}; it must be a folder or glob with "
        "files that end in .parquet, .parq, .pq, .jsonl, .ndjson, .json (JSON also with .gz, .bz2, .zst, .lz4, .xz after it), "
        "hf:OWNER/NAME/CONFIG, or sample:N"
    )


def test_a_source_that_cannot_be_listed_is_refused(tree: Path):
    file = f"{tree}/a.jsonl"
    assert refused(tree / "a.jsonl/*.jsonl") == f"{file} cannot be listed: {file} is a file, where a folder must be"


def test_the_identity_changes_with_the_files_and_only_with_them(tree: Path):
    first = sources.identity(conf(tree))
    write(tree / "notes.txt", "more")
    assert sources.identity(conf(tree)) == first
    os.utime(tree / "a.jsonl", (1, 1))
    touched = sources.identity(conf(tree))
    write(tree / "z.jsonl", line(5))
    assert len({first, touched, sources.identity(conf(tree))}) == 3


def test_built_in_articles_come_in_pieces_and_do_not_depend_on_them():
    settled = conf("sample:10000")
    cut = input_splits(settled, sources.identity(settled))
    assert [(piece["start"], piece["rows"]) for piece in cut] == [(0, 8_192), (8_192, 1_808)]
    (_, first), *_ = sources.read_split({**cut[1], "rows": 1})
    (_, alone), *_ = sources.read_split({**cut[0], "start": 8_192, "rows": 1})
    (_, zeroth), *_ = sources.read_split({**cut[0], "rows": 1})
    assert first == alone != zeroth
    assert sources.identity(settled) == "sample:10000:0"


def test_a_byte_order_mark_is_no_part_of_the_first_record(tmp_path: Path):
    path = tmp_path / "marked.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"pubid": 1}\n{"pubid": 2}\n')
    conf = config.load(assignments=[f"articles.source={path}"])
    found = [record for piece in input_splits(conf, "") for _, record in sources.read_split(piece)]
    assert found == [{"pubid": 1}, {"pubid": 2}]
