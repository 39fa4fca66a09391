"""Records of a JSON file are the same whether it is JSON Lines, an array or an object keyed by pubid, however it is laid out."""

import bz2
import gzip
import io
import json
import lzma
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import article
from raft_spark import config
from raft_spark.errors import InputError
from raft_spark.sources import json_files, records, sources
from support.input_splits import input_splits

pytestmark = pytest.mark.row

HUB = [
    article(number, [f"Café {number}", 'a "quote", a {brace} and a \\ ]'], final_decision="no")
    for number in (7, 21645374)
]
OFFICIAL = {
    str(each["pubid"]): {
        "QUESTION": each["question"],
        "CONTEXTS": each["context"]["contexts"],  # type: ignore[index]
        "LABELS": each["context"]["labels"],  # type: ignore[index]
        "MESHES": each["context"]["meshes"],  # type: ignore[index]
        "YEAR": "2011",
        "reasoning_required_pred": "yes",
        "final_decision": each["final_decision"],
        "LONG_ANSWER": each["long_answer"],
    }
    for each in HUB
}
KEYED = {str(each["pubid"]): {name: value for name, value in each.items() if name != "pubid"} for each in HUB}
FLAT = [{"pubid": int(pubid), **each} for pubid, each in OFFICIAL.items()]
LAYOUTS = {
    "lines": "".join(json.dumps(each) + "\n" for each in HUB),
    "lines without the last newline": "\n".join(json.dumps(each, ensure_ascii=False) for each in HUB),
    "official lines": "\n".join(map(json.dumps, FLAT)),
    "official, indented": json.dumps(OFFICIAL, indent=4, ensure_ascii=False),
    "official, one line": json.dumps(OFFICIAL),
    "official, every value a line": json.dumps(OFFICIAL, indent=0),
    "keyed, hub's columns": json.dumps(KEYED, indent="\t"),
    "one keyed object a line": "\n".join(json.dumps({key: value}) for key, value in OFFICIAL.items()),
    "array": json.dumps(HUB),
    "array, indented": json.dumps(HUB, indent=2),
    "array, a record a line": "[" + ",\n".join(map(json.dumps, HUB)) + "]\n",
    "array of official records": json.dumps(FLAT, indent=1),
    "records over several lines": "\n".join(json.dumps(each, indent=2) for each in HUB),
    "records without a line break": "".join(map(json.dumps, HUB)),
    "records that begin with an object": json.dumps({"meta": {"a": 1}, **HUB[0]}, indent=1) + json.dumps(HUB[1]),
    "keyed, the first name is another": json.dumps({key: {"YEAR": "2011", **each} for key, each in OFFICIAL.items()}),
    "lines of an old Macintosh": "\r".join(map(json.dumps, HUB)),
}


def read(path: Path) -> list[Any]:
    settled = config.load(assignments=[f"articles.source={path}", "lake.root=lake"])
    splits = input_splits(settled, "")
    sources.check_json_columns(splits)
    return [
        records.check_record(record, settled.articles) for split in splits for _, record in sources.read_split(split)
    ]


def refused(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read(path)
    return str(caught.value)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variation", ["", "byte-order mark", "CRLF", "white space"])
@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_every_layout_gives_the_same_articles(tmp_path, monkeypatch, layout: str, variation: str, chunk: int):
    monkeypatch.setattr(json_files, "CHUNK", chunk)
    text = LAYOUTS[layout]
    if variation == "CRLF":
        text = text.replace("\n", "\r\n")
    if variation == "white space":
        text = f"\n \n{text}\n\n  "
    path = tmp_path / "a.json"
    path.write_bytes((b"\xef\xbb\xbf" if variation == "byte-order mark" else b"") + text.encode())
    expected = [records.check_record(each, config.load().articles) for each in HUB]
    assert [each.pubid for each in expected] == [7, 21645374]  # type: ignore[union-attr]
    assert read(path) == expected


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(values, max_size=6), st.sampled_from([None, 0, 2]), st.integers(1, 40))
def test_an_array_is_read_whole_wherever_it_is_cut(found: list[Any], indent: int | None, chunk: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_files, "CHUNK", chunk)
        patch.setattr(json_files, "_with_hub_names", lambda record: record)
        stream = io.BufferedReader(io.BytesIO(json.dumps(found, indent=indent).encode()))  # type: ignore[arg-type]
        assert [record for _, record in json_files.parse_document(stream)] == found


def test_a_quarantined_record_is_found_by_its_line(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([HUB[0], {"pubid": 8}], indent=1))
    settled = config.load(assignments=[f"articles.source={path}"])
    (split,) = input_splits(settled, "")
    wheres = [where for where, _ in sources.read_split(split)]
    assert [path.read_text().splitlines()[int(where.removeprefix("a.json:")) - 1] for where in wheres] == [" {", " {"]


def test_a_bad_byte_in_a_document_costs_one_record(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(json.dumps(HUB, ensure_ascii=False, indent=1).encode().replace(b"Caf\xc3\xa9 7", b"Caf\xe9 7"))
    first, second = read(path)
    assert (first.reason, second.pubid) == ("invalid UTF-8 in contexts", 21645374)


WHOLE = json.dumps(HUB, indent=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (WHOLE[:-5], "it is cut off at line 38"),
        (WHOLE[:-9], "it is cut off at line 38"),
        (WHOLE[:-1], "it is cut off at line 40"),
        (WHOLE.replace('"question": "Does it work?",', '"question": Does it work?,', 1), "line 4: Expecting value"),
        (WHOLE.replace('"It does."', '"It\n does."', 1), "line 18: Invalid control character at"),
        (WHOLE + "]", "line 40: Expecting value"),
        (WHOLE.replace(" },\n {", " }\n {"), "line 21 has '{' where ',' must be"),
        (json.dumps(OFFICIAL)[:-1], "it is cut off at line 1"),
        (json.dumps(OFFICIAL) + "x", "line 1: Expecting value"),
        ('{"7": {"a": ' + "[" * 100_000, "line 1 is nested too deeply"),
    ],
)
def test_a_document_that_is_no_json_is_refused_with_its_line(tmp_path, text: str, message: str):
    path = tmp_path / "a.json"
    found = refused(path, text)
    assert found.startswith(f"{path} is no JSON: {message}"), found
    assert found.endswith("; it must be JSON Lines, an array of records, or an object of records by pubid")


@pytest.mark.parametrize(
    "text",
    [
        '{"pubid": 1,\n{"pubid": 2}\n',
        '["a list"]\n{"pubid": 2}\n',
        "[1, 2]",
        "{}\n{}\n",
        "broken\n[{\n",
        '{"context": {"contexts": []}}',
        "",
    ],
)
def test_lines_with_a_broken_one_are_still_lines(text: str):
    assert not json_files.is_document(text.encode())


def test_ids_that_are_text_are_refused_with_a_way_to_convert_them(tmp_path):
    message = refused(tmp_path / "a.json", json.dumps({f"PMC-{key}": value for key, value in OFFICIAL.items()}))
    assert (
        "pubid is text and must be an integer. Turn text ids into integers, for example with int.from_bytes(" in message
    )


@pytest.mark.parametrize(
    ("content", "ending"),
    [
        (gzip.compress(b"{}"), ".gz"),
        (bz2.compress(b"{}"), ".bz2"),
        (lzma.compress(b"{}"), ".xz"),
        (b"\x28\xb5\x2f\xfd\x00", ".zst"),
        (b"PAR1", ".parquet"),
    ],
    ids=["gzip", "bzip2", "xz", "zstd", "parquet"],
)
def test_a_file_of_another_kind_is_refused_with_the_ending_that_would_be_right(tmp_path, content: bytes, ending: str):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value) == f"{path} is no JSON; it begins as a {ending} file does, and its name must end so"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_utf_16_is_refused_with_a_way_to_convert_it(tmp_path, encoding: str):
    path = tmp_path / "a.jsonl"
    path.write_bytes(("\ufeff" if encoding == "utf-16-be" else "").encode(encoding) + LAYOUTS["lines"].encode(encoding))
    with pytest.raises(
        InputError, match=r"a\.jsonl is UTF-16; it must be UTF-8: iconv -f UTF-16 -t UTF-8 converts it$"
    ):
        read(path)
