"""Text for a person: counts in words, and nothing that a terminal would obey."""

import json
import urllib.request

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from raft_spark import config
from raft_spark.cli.main import main
from raft_spark.common import wording
from raft_spark.endpoints import serving
from raft_spark.lake import parquet, schemas, tables

OBEYED = "\x1b]0;owned\x07\x9b31m\u202egpj\u2066\x7f\u200f\u2028\r"
ESCAPED = r"\x1b]0;owned\x07\x9b31m\u202egpj\u2066\x7f\u200f\u2028\r"


@pytest.mark.row
@pytest.mark.parametrize(
    ("counts", "words"),
    [({"filtered": 1, "timeout": 3}, "3 timeout, 1 filtered"), ({"truncated": 300}, "300 truncated"), ({}, "none")],
)
def test_counts_are_words_the_largest_first(counts: dict[str, int], words: str):
    assert wording.counts(counts) == words


@pytest.mark.row
def test_control_characters_are_seen_and_new_lines_and_tabs_stay():
    assert wording.visible(f"a\n\tb{OBEYED}") == f"a\n\tb{ESCAPED}"
    assert wording.visible("naïve 二 👩‍⚕️ שלום") == "naïve 二 👩‍⚕️ שלום"
    assert wording.visible("\ud800") == r"\ud800"


@pytest.mark.row
@given(st.text())
def test_what_is_left_can_be_printed_and_holds_no_control_character(text: str):
    found = wording.visible(text)
    found.encode()
    assert all(sign in "\n\t" or not (ord(sign) < 32 or 127 <= ord(sign) < 160) for sign in found)


@pytest.fixture
def lake(tmp_path) -> list[str]:
    """Return the arguments for a lake whose base has one row full of control characters."""
    conf = config.load(assignments=[f"lake.root={tmp_path / 'lake'}", "completions.endpoint=fake"])
    document = {"pubid": 1, "passage": 0, "text": f"passage {OBEYED}", "oracle": True}
    row = {name: f"{name} {OBEYED}" for name in ("question", "oracle", "original_answer", "final_decision")}
    new = tables.open_draft(conf.lake, schemas.BASE, "0" * 16)
    rows = pa.Table.from_pylist(
        [{"pubid": 1, "documents": [document], "distracted": False, **row}], schemas.SCHEMAS["base"]
    )
    rejected = pa.Table.from_pylist(
        [{"pubid": 1, "reason": "odd", "source": OBEYED, "record": OBEYED}], schemas.QUARANTINE
    )
    files = [
        parquet.write_file(new.storage, "data/split=train/part-00000.parquet", rows),
        parquet.write_file(new.storage, "quarantine/part-00000.parquet", rejected),
    ]
    tables.publish(new, conf, files, {}, {"rows": {"train": 1}})
    return ["--set", f"lake.root={tmp_path / 'lake'}", "--set", "completions.endpoint=fake"]


def printed(*words: str) -> str:
    done = CliRunner().invoke(main, [*words], env={"COLUMNS": "200", "TERM": "dumb"})
    assert done.exit_code == 0, done.output
    assert not set(done.output) & (set(OBEYED) - set("]0;owned31mgpj"))
    return done.output


@pytest.mark.row
@pytest.mark.parametrize("flags", [[], ["--quarantine"]])
def test_show_passes_no_control_character_of_data_to_the_terminal(lake: list[str], flags: list[str]):
    assert ESCAPED in printed("show", "base", *flags, *lake)


def test_preview_passes_no_control_character_of_question_or_answer_to_the_terminal(lake: list[str]):
    with serving(config.load().endpoints["fake"]) as endpoint:
        behave = json.dumps({"text": f"answer {OBEYED}"}).encode()
        urllib.request.urlopen(urllib.request.Request(endpoint.url.removesuffix("/v1") + "/behave", behave)).close()
        shown = printed("preview", *lake, "--set", f"endpoints.fake.url={endpoint.url}")
    assert r"answer ]0;owned31m\u202egpj\u2066\u200f" in shown  # its control characters are taken out
    assert f"passage {ESCAPED}" not in shown  # the oracle is shown as one text
    assert f"oracle {ESCAPED}" in shown


@pytest.mark.row
def test_an_error_passes_none_either(tmp_path):
    pq.write_table(pa.table({"\x1b[31mred": [1]}), tmp_path / "source.parquet")
    done = CliRunner().invoke(main, ["articles", "--set", f"articles.source={tmp_path}"])
    assert done.exit_code == 3
    assert "\x1b" not in done.output
    assert r"\x1b[31mred" in done.output


@pytest.mark.row
def test_history_of_a_table_that_is_not_there_says_so(tmp_path):
    done = CliRunner().invoke(main, ["history", "base", "--set", f"lake.root={tmp_path}"], env={"COLUMNS": "300"})
    assert done.exit_code == 3
    assert f"{tmp_path} holds no table 'base'; run `raft-spark base` first" in " ".join(done.output.split())
