"""The end of a run as a person reads it: one row whole, what was left out in words, commands that work as they are."""

import io
import json
import shlex
import stat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console, RenderableType

from raft_spark import config
from raft_spark.cli import run_summary
from raft_spark.cli.main import main
from raft_spark.common import ids
from raft_spark.formats.formats import FORMATS, TrainingRow
from raft_spark.lake import schemas, tables
from raft_spark.lake.parquet import DataFile
from raft_spark.monitoring import run_state

pytestmark = pytest.mark.row
ORACLE, OTHER = "Drug A was given to 50 patients.\nIt <|im_end|> helped.", "Drug B was given to 40 patients."


def written(what: RenderableType, width: int = 80) -> str:
    sink = io.StringIO()
    Console(file=sink, width=width, force_terminal=False).print(what)
    return sink.getvalue()


def version(table: str, counts: dict[str, Any] | None = None, *files: DataFile) -> tables.Version:
    return tables.Version(table, "v", "identity", {}, counts or {}, files, {}, "1", "v", "2026-01-01T00:00:00+00:00")


def documents(*marked: tuple[bool, str]) -> list[dict[str, Any]]:
    return [{"oracle": is_oracle, "text": text, "pubid": 7, "passage": 0} for is_oracle, text in marked]


def base_row(pubid: int, question: str, marked: list[dict[str, Any]]) -> dict[str, Any]:
    row = dict.fromkeys(schemas.SCHEMAS[schemas.BASE].names)
    has_oracle = any(each["oracle"] for each in marked)
    return {**row, "pubid": pubid, "question": question, "documents": marked, "distracted": not has_oracle}


def finished(row: dict[str, Any], answer: str, conf: config.Config) -> TrainingRow:
    passages = [each["text"] for each in row["documents"]]
    facts = {"oracle": ORACLE, "distracted": row["distracted"], "original_answer": "It does."}
    answers = {"completion": answer, "answer": answer, "rejected_answer": "Drug B does."}
    return TrainingRow(
        pubid=row["pubid"],
        question=row["question"],
        passages=passages,
        **facts,
        **answers,
        completions=conf.completions,
    )


def lake_of(
    root: Path, form: str, rows: list[dict[str, Any]], answers: list[str]
) -> tuple[config.Config, DataFile, DataFile]:
    """Write rows of base, and the dataset that was made of the last ones, in one format."""
    conf = config.load(assignments=[f"lake.root={root}"])
    base, dataset = "data/split=train/part-00000.parquet", f"{form}/train-00000-of-00001.jsonl"
    paths = [root / table / "versions" / "v" / path for table, path in (("base", base), ("dataset", dataset))]
    for path in paths:
        path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schemas.SCHEMAS[schemas.BASE]), paths[0])
    records = [
        FORMATS[form].record(finished(row, said, conf))
        for row, said in zip(rows[-len(answers) :], answers, strict=True)
    ]
    paths[1].write_text("".join(json.dumps(record) + "\n" for record in records))
    return conf, DataFile(base, len(rows), 1, "", (len(rows),)), DataFile(dataset, len(records), 1, "")


@pytest.mark.parametrize("form", FORMATS)
def test_the_row_that_is_shown_is_one_of_the_dataset_with_its_oracle_marked(tmp_path: Path, form: str):
    rows = [
        base_row(1, "Was it rejected?", documents((True, ORACLE))),
        base_row(2, "Is it without its oracle?", documents((False, OTHER))),
        base_row(3, "Does [INST] drug A help?", documents((False, OTHER), (True, ORACLE))),
    ]
    conf, of_base, of_dataset = lake_of(tmp_path, form, rows, ["It is.", "Yes, in 50 patients."])
    shown = run_summary.example(
        conf.lake, version(schemas.BASE, None, of_base), version(schemas.DATASET, None, of_dataset)
    )
    assert shown == run_summary.ExampleRow(
        "train", 3, "Does [INST] drug A help?", [(False, OTHER), (True, ORACLE)], "Yes, in 50 patients."
    )


def test_passages_that_a_shortened_row_lost_are_not_shown(tmp_path: Path):
    shorter = base_row(3, "Does drug A help?", documents((True, ORACLE)))
    whole = base_row(3, "Does drug A help?", documents((False, OTHER), (True, ORACLE)))
    conf, _, of_dataset = lake_of(tmp_path, "messages", [shorter], ["Yes."])
    pq.write_table(
        pa.Table.from_pylist([whole], schemas.SCHEMAS[schemas.BASE]),
        tmp_path / "base/versions/v/data/split=train/part-00000.parquet",
    )
    of_base = DataFile("data/split=train/part-00000.parquet", 1, 1, "", (1,))
    shown = run_summary.example(
        conf.lake, version(schemas.BASE, None, of_base), version(schemas.DATASET, None, of_dataset)
    )
    assert shown is not None
    assert shown.passages == [(True, ORACLE)]


def test_a_row_is_whole_wrapped_and_readable_without_colours():
    passage = " ".join(["word"] * 200) + " end\x1b[31m\u202e."
    shown = run_summary.ExampleRow("train", 3, "Does it help?", [(True, passage), (False, OTHER)], "Yes.\nIt does.")
    text = written(run_summary.layout(shown), width=40)
    assert max(map(len, text.splitlines())) <= 40
    assert text.count("word") == 200
    assert r"end\x1b[31m\u202e." in text
    assert "\x1b" not in text
    lines = [line.split()[0] for line in text.splitlines() if line.startswith("  ") and line[2:3].strip()]
    assert lines == ["question", "ORACLE", "distractor", "answer"]
    assert [line.strip() for line in text.splitlines()][-3:-1] == ["answer      Yes.", "It does."]


def test_what_was_left_out_is_told_in_words_with_shares():
    conf = config.load(assignments=["completions.max_new_tokens=96", "dataset.min_words=8", "articles.limit=30"])
    articles = {"read": 40, "reasons": {"no question": 2}, "beyond_limit": 8, "ignored_files": "a.csv and 6 more"}
    rejected = {"truncated": 3, "no answer: timeout": 1, "too short": 2, "some new reason": 1}
    found = [
        version(schemas.ARTICLES, articles),
        version(schemas.BASE, {"rows": {"train": 30}}),
        version(schemas.DATASET, {"rows": 30, "rejected": rejected}),
    ]
    lines = [
        " ".join(line.split()) for line in written(run_summary.omissions_text(conf, found), width=100).splitlines()
    ]
    assert list(filter(None, lines)) == [
        "Not read: files of other endings (a.csv and 6 more)",
        "Left out of articles: 10 of 40 records (25.0 %)",
        "8 20.0 % beyond articles.limit = 30",
        "2 5.0 % no question",
        "Left out of dataset: 7 of 30 rows (23.3 %)",
        "3 10.0 % the answer was cut at completions.max_new_tokens = 96",
        "2 6.7 % the answer has fewer words than dataset.min_words = 8",
        "1 3.3 % the teacher gave no answer: timeout",
        "1 3.3 % some new reason",
    ]


def test_a_run_that_left_nothing_out_says_so():
    found = [version(schemas.DATASET, {"rows": 30, "rejected": {}})]
    assert written(run_summary.omissions_text(config.load(), found)).strip() == "No row was left out."


@pytest.mark.parametrize("has_omissions", [True, False])
def test_the_next_commands_are_verbs_with_the_settings_of_the_run(has_omissions: bool):  # noqa: FBT001 - a parameter of the test
    arguments = ["my conf.toml", "--set", 'spark."spark.master"="local[2]"']
    found = run_summary.commands("raft-spark", arguments, has_omissions=has_omissions)
    assert len(found) == 3
    for command, _ in found:
        typed, verb, *words = shlex.split(command)
        assert typed == "raft-spark"
        assert words[-3:] == arguments
        assert main.commands[verb].make_context(verb, words)


def test_the_next_commands_begin_with_what_the_shell_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = tmp_path / "my env/bin/raft-spark"
    program.parent.mkdir(parents=True)
    program.write_text("")
    program.chmod(stat.S_IRWXU)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin")
    assert run_summary.program(str(program)) == "'my env/bin/raft-spark'"
    assert run_summary.program("/somewhere/pytest") == "raft-spark"
    monkeypatch.setenv("PATH", str(program.parent))
    assert run_summary.program(str(program)) == "raft-spark"


def test_the_page_is_that_of_the_last_run_where_it_was_written(tmp_path: Path):
    lake = config.load(assignments=[f"lake.root={tmp_path}"]).lake
    assert run_summary.page_path(lake) is None
    run = run_state.Run(ids.new_id("12345678"), "fake", "fake", ids.now(), ids.now(), total=1)
    run_state.write(lake, run)
    assert run_summary.page_path(lake) is None
    page = tmp_path / f"completions/runs/{run.id}.html"
    page.write_text("page")
    assert run_summary.page_path(lake) == str(page)
