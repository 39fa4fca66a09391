"""The command line as a person meets it: one command, a second run with nothing to do, clear errors, readable rows."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from conftest import SPARK
from raft_spark.cli.main import main

pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "lake"
    done = call("run", folder)
    assert done.exit_code == 0, done.output
    return folder


def call(*words: str | Path, sets: tuple[str, ...] = ()) -> Result:
    *verb, root = words
    basis = [f"lake.root={root}", "articles.source=sample:90", "base.distractors=2", "completions.endpoint=fake"]
    spark = [f'spark."{key}"="{value}"' for key, value in SPARK.items()]
    flags = [part for assignment in (*basis, *spark, *sets) for part in ("--set", assignment)]
    return CliRunner().invoke(main, [*map(str, verb), *flags], env={"COLUMNS": "200"})


def test_the_page_of_a_run_has_the_rows_that_its_dataset_rejected(lake: Path):
    (page,) = lake.glob("completions/runs/*.html")
    assert re.search(r"<dt>rejected</dt><dd><b>0</b><span>0 % of rows</span>", page.read_text())


def test_a_second_run_finds_nothing_to_do_and_says_so(lake: Path):
    done = call("run", lake)
    assert done.exit_code == 0
    assert "Nothing to do: the dataset is up to date" in done.output
    seconds = float(re.search(r"up to date \((\d+\.\d) s\)", done.output)[1])
    assert seconds < 30
    assert "ORACLE" not in done.output
    assert "raft-spark evaluation --set" in done.output


def test_the_summary_shows_rows_one_row_whole_what_was_left_out_and_where_to_go_on(lake: Path):
    done = call("run", lake, sets=("base.seed=9", "dataset.min_words=1000", "dataset.gate.length=flag"))
    assert done.exit_code == 0, done.output
    assert "90 articles of 90 records" in done.output
    assert re.search(r"base\s+│ 90 rows, \d+ without oracle", done.output)
    assert "0 answers, 90 known before" in done.output
    assert len(re.findall(r"^  question ", done.output, re.MULTILINE)) == 1
    assert re.search(r"^  ORACLE ", done.output, re.MULTILINE)
    assert len(re.findall(r"^  distractor ", done.output, re.MULTILINE)) >= 2
    assert re.search(r"^  answer ", done.output, re.MULTILINE)
    assert "No row was left out." in done.output
    path = re.search(r"^Dataset  (\S+)", done.output, re.MULTILINE)[1]
    assert (Path(path) / "messages/README.md").is_file()
    assert Path(re.search(r"^Page     (\S+)", done.output, re.MULTILINE)[1]).is_file()
    settings = shlex.split(re.search(r"^  (raft-spark show dataset .*?)   #", done.output, re.MULTILINE)[1])
    shown = CliRunner().invoke(main, settings[1:])
    assert shown.output.count("assistant:") == 5


def test_show_marks_oracle_and_distractors(lake: Path):
    done = call("show", "base", lake)
    assert done.exit_code == 0, done.output
    assert "[ORACLE, pubid" in done.output
    assert "[distractor, pubid" in done.output
    assert "question:" in done.output


@pytest.mark.parametrize("table", ["articles", "completions", "dataset"])
def test_show_shows_every_table(lake: Path, table: str):
    done = call("show", table, lake)
    assert done.exit_code == 0, done.output
    assert len(done.output) > 300


def test_preview_shows_prompt_completion_seconds_and_tokens(lake: Path):
    done = call("preview", lake)
    assert done.exit_code == 0, done.output
    for expected in ("prompt", "Question:", "completion", " s, ", "tokens in", "out, finish reason stop"):
        assert expected in done.output


def test_preview_shows_the_call_as_it_goes_out(lake: Path):
    sets = ("completions.parameters.seed=41", "completions.leave_out=temperature")
    done = call("preview", lake, sets=sets)
    assert done.exit_code == 0, done.output
    for expected in (
        "POST http://127.0.0.1:",
        "/v1/chat/completions",
        '"seed": 41',
        '"max_tokens": 512',
        "Idempotency-Key",
    ):
        assert expected in done.output
    assert '"temperature"' not in done.output


def test_preview_of_an_unknown_article_is_one_sentence(lake: Path):
    done = call("preview", "--pubid", "1", lake)
    assert done.exit_code == 3
    assert "table base has no pubid 1" in done.output


def test_path_prints_a_folder_that_any_tool_can_read(lake: Path):
    import pyarrow.dataset as ds

    folder = call("path", "base", lake).output.strip()
    rows = ds.dataset(folder, partitioning="hive").to_table()
    assert rows.num_rows == 90
    assert set(rows["split"].to_pylist()) == {"train", "validation", "test"}


def test_history_lists_versions_and_an_old_one_can_be_shown(lake: Path):
    call("base", lake, sets=("base.seed=10",))
    done = call("history", "base", lake)
    assert done.output.count("current") == 1
    first = re.search(r"\d{8}T\d{6}\.\d{6}Z-\w{8}-\w{4}", done.output)[0]
    assert call("show", "base", "--version", first, lake).exit_code == 0


def test_a_wrong_setting_ends_before_anything_starts(tmp_path: Path):
    done = call("run", tmp_path / "lake", sets=("base.oracle_share=1.3",))
    assert done.exit_code == 2
    assert "base.oracle_share is 1.3; it must be a number in 0..1" in done.output
    assert not (tmp_path / "lake").exists()


def test_help_teaches(lake: Path):
    done = CliRunner().invoke(main, ["--help"])
    for expected in ("articles", "base", "completions", "dataset", "raft-spark run local.toml", "--set"):
        assert expected in done.output
    assert "\\b" not in done.output  # what click is told of lines to leave as they are


def test_a_refresh_with_nothing_new_says_so_and_a_version_can_be_brought_back_pinned_and_let_go(lake: Path):
    call("run", lake)
    before = current(lake)
    grown = call("refresh", lake, sets=("base.oracle_share=0.8", "refresh.max_changed_share=1"))
    assert grown.exit_code == 0, grown.output
    assert "ok: share of rows with their oracle" in grown.output
    assert current(lake) != before
    assert "Nothing new" in call("refresh", lake, sets=("base.oracle_share=0.8",)).output
    assert before in call("rollback", before, lake).output
    assert current(lake) == before
    assert call("pin", before, lake).exit_code == 0
    assert "current, pinned" in call("history", "dataset", lake).output
    assert "rolled back" in call("history", "dataset", lake).output
    assert "no version has expired" in call("expire", lake).output
    refused = call("refresh", lake, sets=("base.seed=77",))
    assert refused.exit_code == 6
    assert "share of rows changed is" in " ".join(refused.output.split())


def current(lake: Path) -> str:
    """Return the id of the current dataset."""
    return Path(call("path", "dataset", lake).output.strip()).name
