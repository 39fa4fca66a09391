"""The stages are listed once, and the list is read without Spark."""

import resource
import subprocess
import sys
import tomllib
from importlib.util import find_spec

import pytest

from conftest import ROOT
from raft_spark import config
from raft_spark.cli.main import main
from raft_spark.emr import validation
from raft_spark.endpoints.local import process
from raft_spark.lake import schemas
from raft_spark.stages import registry
from raft_spark.students import scripts

pytestmark = pytest.mark.row
HEAVY = {"pyspark", "py4j", "boto3", "botocore", "pyarrow", "pandas", "numpy"}


def loaded_by(code: str) -> set[str]:
    """Return the packages that a new process has loaded after `code`."""
    script = f"import sys\ntry:\n    {code}\nfinally:\n    sys.stderr.write(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
    return {name.partition(".")[0] for name in done.stderr.splitlines()[-1].split()}


@pytest.mark.parametrize("words", ["--help", "--version", "emr --help", "model host --help", "run --help"])
def test_help_and_version_wait_for_no_heavy_import(words: str):
    loaded = loaded_by(f"from raft_spark.cli.main import main; main({words.split()})")
    assert "click" in loaded
    assert not loaded & HEAVY


def test_help_takes_less_than_a_second():
    command = [sys.executable, "-c", "from raft_spark.cli.main import main; main(['--help'])"]
    subprocess.run(command, capture_output=True, check=True, cwd=ROOT)  # warm
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, capture_output=True, check=True, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)  # the processor's seconds, since the machine may be busy
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


def test_the_stages_can_be_listed_without_importing_one():
    assert "raft_spark" in loaded_by("from raft_spark.stages import registry; registry.find('dataset')")
    assert not loaded_by("from raft_spark.stages import registry; registry.find('dataset')") & HEAVY


def test_each_stage_has_a_command_a_job_file_a_section_and_a_schema():
    sections, jobs = set(config.Config.model_fields), {path.stem for path in (ROOT / "jobs").glob("*.py")}
    assert jobs == {*registry.NAMES, "refresh"}
    for stage in registry.STAGES:
        assert main.commands[stage.name].help == stage.help
        assert stage.name in sections
        assert (stage.schema is None) == (stage.name == "dataset")
    assert {name for name in registry.NAMES if name != "dataset"} == set(schemas.SCHEMAS)


def test_a_run_walks_the_stages_in_the_order_of_the_data():
    assert [stage.name for stage in registry.PIPELINE] == ["articles", "base", "completions", "dataset"]


def test_a_stage_says_its_counts_in_words_and_as_rows():
    counts = {"rows": 9, "kept": {"train": 6, "test": 1}, "rejected": {"truncated": 2}}
    assert registry.DATASET.describe(counts) == "7 rows: 6 train, 1 test; left out: 2 of 9, 22.2 % (2 truncated)"
    assert registry.DATASET.describe({**counts, "rejected": {}}) == "7 rows: 6 train, 1 test"
    assert registry.DATASET.rows(counts) == {"rows": 7, "rejected": 2}


def test_the_lines_of_articles_and_completions_name_what_was_left_out_and_why():
    counts = {"articles": 30, "read": 40, "reasons": {"no question": 3, "duplicate pubid": 1}, "beyond_limit": 6}
    assert registry.ARTICLES.describe({**counts, "ignored_files": "a.csv"}) == (
        "30 articles of 40 records; left out: 10 of 40, 25.0 % (6 beyond articles.limit, 3 no question, 1 duplicate pubid); "
        "not read: files of other endings (a.csv)"
    )
    assert (
        registry.ARTICLES.describe({"articles": 40, "read": 40, "reasons": {}, "beyond_limit": 0})
        == "40 articles of 40 records"
    )
    held_out = {"articles": 9, "read": 9, "reasons": {}, "beyond_limit": 0, "holdout": {"pubids": 500, "found": 2}}
    assert registry.ARTICLES.describe(held_out) == "9 articles of 9 records; 2 of 500 held-out pubids are in the source"
    drawn = {"rows": {"train": 9}, "distracted": {"train": 2}}
    assert (
        registry.BASE.describe(drawn)
        == registry.BASE.describe({**drawn, "not_embedded": {}})
        == "9 rows, 2 without oracle"
    )
    not_embedded = registry.BASE.describe({**drawn, "not_embedded": {"bad_request": 3}})
    assert not_embedded == "9 rows, 2 without oracle; texts without embedding: 3 bad_request"
    answers = {"answered": 8, "known": 1, "asked": 10, "failed_by_class": {"timeout": 2}}
    assert registry.COMPLETIONS.describe(answers) == "8 answers, 1 known before; left out: 2 of 10, 20.0 % (2 timeout)"
    assert registry.COMPLETIONS.describe({**answers, "failed_by_class": {}}) == "8 answers, 1 known before"


def test_a_refresh_on_emr_uses_what_its_stages_use():
    assert validation.uses("refresh") == {"source", "embedder", "teacher", "tokenizer"}
    assert validation.uses("evaluation") == {"students"}
    assert validation.uses("base") == {"embedder"}


def test_the_endpoints_of_a_job_are_those_that_it_asks():
    embedding = ["base.distractors_from={embedding=0.5}", "base.retrieval.endpoint=fake"]
    conf = config.load(assignments=[*embedding, "evaluation.judge=fake"])
    assert [*validation.endpoints_of(conf, "refresh")] == ["fake", "embedded"]
    assert [*validation.endpoints_of(conf, "base")] == ["fake"]
    assert [*validation.endpoints_of(config.load(), "base")] == []
    assert [*validation.endpoints_of(conf, "evaluation")] == ["embedded", "fake"]
    assert [*validation.endpoints_of(conf, "articles")] == []
    assert "base.retrieval.endpoint is 'fake', of kind fake" in " ".join(validation.problems(conf, "base"))


def test_a_missing_package_is_one_that_its_extra_brings():
    from raft_spark.common.extras import EXTRAS

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for package, extra in EXTRAS.items():
        name = package.replace("_", "-")
        assert any(need.startswith((f"{name}>", f"{name}=")) for need in wanted(project, extra)), package


def wanted(project: dict, extra: str) -> list[str]:
    """Return the requirements of an extra, with those of our own extras that it names."""
    needs = project["optional-dependencies"][extra]
    inner = [name for need in needs if need.startswith("raft-spark[") for name in need[11:-1].split(",")]
    return needs + [need for name in inner for need in wanted(project, name)]


def test_what_is_run_by_name_is_there():
    for script in (scripts.SFT_SCRIPT, scripts.GGUF_EXPORT, scripts.SAGEMAKER_LAUNCHER):
        assert script.is_file()
    for kind in process.REQUIREMENTS:
        assert find_spec(process.MODULES[kind])
