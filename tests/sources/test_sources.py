"""A source is read whole, every record once, whatever its files; what cannot be read is a clear error, not a crash."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import article, write_articles
from raft_spark import config
from raft_spark.errors import InputError
from raft_spark.sources import records, sources

pytestmark = pytest.mark.row


def conf(where: object) -> config.Config:
    return config.load(assignments=[f"articles.source={where}", "lake.root=lake"])


def read(where: object) -> list[Any]:
    """Read a whole source, its pieces one after the other."""
    settled = conf(where)
    return [
        record
        for piece in sources.input_splits(settled, sources.identity(settled))
        for _, record in sources.read_split(piece)
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
    cut = sources.input_splits(conf(tmp_path), "")
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
    "Needed: pubid (an integer), question (text), context (a table), context.contexts (a list of texts), long_answer (text); "
    "optional: final_decision (text), context.labels (a list of texts), context.meshes (a list of texts) "
    '(docs/dataset.md, "Input schema")'
)


@pytest.mark.parametrize(
    ("record", "wrong", "has"),
    [
        (
            {"pubid": 1, "question": "q"},
            "it has no column context, long_answer",
            "pubid (an integer), question (text)",
        ),
        (
            {"pubid": "1", "context": {"texts": ["p"], "meshes": [1]}, "long_answer": 1.5},
            (
                "it has no column question, context.contexts; pubid is text and must be an integer; long_answer is a decimal "
                "number and must be text; context.meshes is a list of other values and must be a list of texts"
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
    sources.check_json_columns(sources.input_splits(settled, ""))


def test_json_lines_of_another_shape_are_told_all_they_lack_at_once(tmp_path):
    lines = [{"id": number, "question": ["q"], "context": {"labels": "METHODS"}, "pubid": 1.5} for number in range(30)]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(each) + "\n" for each in lines))
    with pytest.raises(InputError) as caught:
        checked_lines(tmp_path)
    assert str(caught.value) == (
        f"{path} does not have the columns that articles need: it has no column context.contexts; pubid is a decimal number and must "
        "be an integer; question is a list of texts and must be text; context.labels is text and must be a list of texts. "
        "It has id (an integer), question (a list of texts), context (a table), pubid (a decimal number), "
        f"context.labels (text). {NEEDED.replace(', long_answer (text)', '')}"
    )


@pytest.mark.parametrize("other", ["{}", '{"pubid": "1"}', "broken", "[1]", ""])
def test_json_lines_with_a_good_record_among_the_first_are_read_and_the_others_quarantined(tmp_path, other: str):
    write(tmp_path / "a.jsonl", f"{other}\n" * 19)
    write(tmp_path / "b.jsonl", line(1))
    checked_lines(tmp_path)


def test_a_file_with_many_columns_is_told_the_first_of_them(tmp_path):
    write_articles(tmp_path / "a.parquet", [{f"column_{number}": 1 for number in range(50)}])
    assert "column_19 (an integer), and 30 more. Needed" in refused(tmp_path)


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
    cut = sources.input_splits(conf(path), "")
    assert [piece["start"] for piece in cut] == list(range(0, path.stat().st_size, size))
    assert pubids(path) == [0, 1, 2, 3, 4]


def test_where_a_line_stands_is_told_by_its_byte(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"a": 1}\n\n{"a": 2}\n')
    (piece,) = sources.input_splits(conf(path), "")
    assert list(sources.read_split(piece)) == [("a.jsonl@0", {"a": 1}), ("a.jsonl@10", {"a": 2})]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz"])
def test_compressed_lines_are_read_whole(tmp_path, monkeypatch, name: str):
    monkeypatch.setattr(sources, "JSON_BYTES", 10)
    text = "".join(map(line, range(300))).encode()
    path = write(tmp_path / name, gzip.compress(text[:5_000]) + gzip.compress(text[5_000:]))  # two members
    assert len(sources.input_splits(conf(path), "")) == 1
    assert pubids(path) == list(range(300))


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
    write(tmp_path / "c.jsonl.gz", "")
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
    assert refused(tree / name) == (
        f"articles.source is '{tree / name}': no Parquet or JSON Lines file is there; it must be a folder or glob with "
        "files that end in .parquet, .jsonl, .json, .jsonl.gz, .json.gz, hf:OWNER/NAME/CONFIG, or sample:N"
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
    cut = sources.input_splits(settled, sources.identity(settled))
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
    found = [record for piece in sources.input_splits(conf, "") for _, record in sources.read_split(piece)]
    assert found == [{"pubid": 1}, {"pubid": 2}]
