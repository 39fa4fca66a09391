"""Every file in examples/ runs, with a small lake and the fake endpoint in place of a model."""

import json
import os
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from conftest import ROOT, SPARK
from raft_spark import config

pytestmark = pytest.mark.spark
EXAMPLES = ROOT / "examples"
Example = Callable[..., str]
SETTINGS = """
[lake]
root = "{lake}"
[articles]
source = "sample:90"
[base]
distractors = 2
[completions]
endpoint = "fake"
[evaluation]
resamples = 100
[spark]
{spark}
"""


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Example:
    """Run an example in this process, which has a Spark session; return what it prints."""
    spark = "\n".join(f'"{key}" = "{value}"' for key, value in SPARK.items())
    settings = tmp_path / "small.toml"
    settings.write_text(SETTINGS.format(lake=tmp_path / "lake", spark=spark))

    def run(name: str, *arguments: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, *arguments, str(settings)])
        capsys.readouterr()
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_every_example_is_run_here():
    tests = Path(__file__).read_text()
    assert [path.name for path in EXAMPLES.iterdir() if f'"{path.name}"' not in tests] == []


def test_the_laptop_makes_a_dataset_and_any_engine_reads_its_tables(example: Example):
    printed = example("laptop.py")
    assert [line.split()[0] for line in printed.splitlines()[:4]] == ["articles", "base", "completions", "dataset"]
    read = example("read_tables.py").splitlines()
    counts = {line.split()[0]: line.partition(" ")[2] for line in read[:4]}
    assert list(counts) == ["pandas", "Polars", "DuckDB", "Spark"]
    found = [json.loads(text.replace("'", '"')) for text in counts.values()]
    assert all(each == found[0] for each in found)
    assert sum(found[0].values()) == 90
    assert read[4] == f"raft-spark {counts['pandas']} 90"


def test_own_json_lines_become_a_dataset(example: Example):
    printed = example("own_jsonl.py")
    assert "40 of 40 records became articles; left out: {}" in printed
    assert "lowers the blood pressure of rats by" in printed


def test_an_openai_compatible_server_is_the_teacher(example: Example, fake: config.Endpoint):
    printed = example("openai_server.py", fake.url, "my-model")
    assert "195 of 200 requests to ask" in printed
    assert "195 answers, 5 known before, 0 failed" in printed


def test_a_source_that_grows_is_followed_refused_when_it_shrinks_and_rolled_back(example: Example):
    printed = example("refresh.py")
    first, *_ = printed.splitlines()
    assert first.startswith("published ")
    assert "\nnothing new\npublished Changes(new=3, changed=0, withdrawn=0, same=100)" in printed
    assert "\nrefused: share of articles withdrawn is" in printed
    assert printed.endswith(f"rolled back to {first.split()[1]}\n")


def test_two_students_are_compared(example: Example):
    printed = example("evaluation.py")
    assert "ROUGE-L before: " in printed
    assert "ROUGE-L after - before: " in printed
    assert Path(re.search(r"the page to open: (\S+)", printed)[1]).is_file()


def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.get("outputs") for cell in notebook.cells), "commit the notebook without its outputs"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = str([cell.get("outputs") for cell in notebook.cells])
    assert "'completions': False" in printed
    assert "distractor" in printed
