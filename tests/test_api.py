"""The Python API: light to import, typed, and every example in its docstrings runs."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

import raft_spark as rs
from conftest import ROOT, SPARK, Settle
from raft_spark import config, errors
from raft_spark.lake import schemas, tables

HEAVY = {"boto3", "click", "numpy", "pandas", "pyarrow", "pydantic", "pyspark", "rich"}
IMPORT = f"""
import sys, time
begin = time.perf_counter()
import raft_spark
seconds = time.perf_counter() - begin
import json
print(json.dumps([seconds, sorted({HEAVY} & sys.modules.keys())]))
"""
DOCTEST = """
import doctest, sys, raft_spark
runner = doctest.DocTestRunner()
for test in sorted(doctest.DocTestFinder().find(raft_spark), key=lambda test: test.lineno or 0):
    runner.run(test)
sys.exit(runner.summarize(verbose=False).failed)
"""
FUNCTIONS = [name for name in rs.__all__ if inspect.isfunction(getattr(rs, name))]


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> rs.Config:
    return rs.load_config(
        overrides={
            "spark": SPARK,
            "lake.root": tmp_path_factory.mktemp("api") / "lake",
            "articles.source": "sample:90",
            "base.distractors": 2,
            "completions.endpoint": "fake",
            "dataset.formats": ["messages", "alpaca"],
        }
    )


@pytest.fixture(scope="module")
def result(conf: rs.Config) -> rs.RunResult:
    return rs.run(conf)


@pytest.mark.row
def test_the_package_is_imported_fast_and_without_what_only_some_functions_need():
    measured = [json.loads(subprocess.check_output([sys.executable, "-c", IMPORT], cwd=ROOT)) for _ in range(3)]
    assert [heavy for _, heavy in measured] == [[]] * 3
    assert min(seconds for seconds, _ in measured) < 0.2


@pytest.mark.row
def test_all_public_names_are_there_and_a_wrong_one_is_an_attribute_error():
    assert {name for name in rs.__all__ if not inspect.isclass(getattr(rs, name))} == set(FUNCTIONS)
    assert {name for name in vars(errors) if name.endswith("Error")} <= set(rs.__all__)
    with pytest.raises(AttributeError, match="no attribute 'runs_all'"):
        _ = rs.runs_all


@pytest.mark.row
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_says_what_it_takes_returns_and_raises_and_has_an_example(name: str):
    text = inspect.getdoc(getattr(rs, name))
    assert [section for section in ("Args:", "Returns:", "Raises:", "Examples:", ">>> ") if section not in text] == []


@pytest.mark.row
def test_overrides_win_over_files_and_are_checked_as_settings(tmp_path: Path):
    (tmp_path / "my.toml").write_text("[base]\ndistractors = 5\nseed = 7\n")
    conf = rs.load_config(
        tmp_path / "my.toml",
        overrides={"base.distractors": 4, "articles": {"limit": 9}, 'spark."spark.master"': "local[1]"},
    )
    assert (conf.base.distractors, conf.base.seed, conf.articles.limit) == (4, 7, 9)
    assert conf.spark == {"spark.master": "local[1]"}
    assert rs.load_config(overrides={"lake.root": tmp_path}).lake.root == str(tmp_path)
    with pytest.raises(rs.ConfigError, match=r"base.distractor is not a setting \(did you mean distractors\?\)"):
        rs.load_config(overrides={"base.distractor": 4})
    with pytest.raises(rs.ConfigError, match="'base distractors' is not section"):
        rs.load_config(overrides={"base distractors": 4})


@pytest.mark.row
def test_a_name_that_is_no_stage_or_table_is_one_sentence(settled: Settle):
    with pytest.raises(
        rs.ConfigError, match="no stage 'datasets'; the stages are articles, base, completions, dataset"
    ):
        rs.run_stage("datasets", settled())
    with pytest.raises(rs.InputError, match="no table 'datasets'; the tables are articles, base"):
        rs.open_table(settled(), "datasets")
    with pytest.raises(rs.InputError, match="run `raft-spark base` first"):
        rs.open_table(settled(), "base")


@pytest.mark.spark
def test_the_examples_of_all_docstrings_run(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", DOCTEST],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


@pytest.mark.spark
def test_a_run_returns_each_stages_version_counts_and_seconds(conf: config.Config, result: rs.RunResult):
    assert list(result.stages) == ["articles", "base", "completions", "dataset"]
    assert {each.is_new for each in result.stages.values()} == {True}
    assert sum(each.seconds for each in result.stages.values()) <= result.seconds
    assert result.stages["completions"].counts["answered"] == 90
    assert result.stages["dataset"].version == tables.require(conf.lake, "dataset").id
    again = rs.run(conf)
    assert {each.is_new for each in again.stages.values()} == {False}
    assert [each.version for each in again.stages.values()] == [each.version for each in result.stages.values()]


@pytest.mark.spark
@pytest.mark.parametrize("name", ["articles", "base", "completions"])
def test_a_table_is_the_same_rows_in_arrow_pandas_and_spark(conf: config.Config, result: rs.RunResult, name: str):
    table = rs.open_table(conf, name)
    rows = table.to_arrow()
    assert rows.schema.names[:-1] == schemas.SCHEMAS[name].names
    assert rows.num_rows == len(table.to_pandas()) == 90
    spark = SparkSession.getActiveSession()
    found = table.to_spark(spark)
    assert found.columns == rows.column_names
    assert {tuple(row) for row in found.select(rows.column_names[0], rows.column_names[-1]).collect()} == set(
        zip(rows[0].to_pylist(), rows[-1].to_pylist(), strict=True)
    )


@pytest.mark.spark
@pytest.mark.parametrize("form", ["", "messages", "alpaca"])
def test_a_dataset_is_read_in_each_of_its_formats(conf: config.Config, result: rs.RunResult, form: str):
    table = rs.open_table(conf, "dataset")
    rows = table.to_arrow(form)
    kept = table.counts["kept"]
    assert {each["values"]: each["counts"] for each in rows["split"].value_counts().to_pylist()} == kept
    assert rows["split"].to_pylist() == [split for split in schemas.SPLITS for _ in range(kept[split])]
    found = table.to_spark(SparkSession.getActiveSession(), form)
    read = pa.Table.from_pylist([row.asDict(recursive=True) for row in found.collect()], rows.schema)
    assert sorted(map(str, read.to_pylist())) == sorted(map(str, rows.to_pylist()))
    with pytest.raises(rs.InputError, match="has no format 'sharegpt'; it has: messages, alpaca"):
        table.to_arrow("sharegpt")


@pytest.mark.spark
def test_an_old_version_stays_readable_and_can_be_brought_back(conf: config.Config, result: rs.RunResult):
    first = result.stages["base"].version
    changed = rs.load_config(overrides={**conf.model_dump(include={"lake", "articles", "spark"}), "base.seed": 5})
    second = rs.run_stage("base", changed)
    assert rs.open_table(conf, "base").version == second.version != first
    assert rs.open_table(conf, "base", first).to_arrow().num_rows == 90
    back = rs.rollback(conf, first)
    assert back == {"base": first, "articles": result.stages["articles"].version}
    assert rs.open_table(conf, "base").version == first


@pytest.mark.spark
def test_the_evaluations_bounds_are_returned_as_data_without_asking(conf: config.Config, result: rs.RunResult):
    few = {"articles.test_share": 0.2, "evaluation.students": ["fake"], "evaluation.rows": 3}
    other = rs.load_config(
        overrides={"spark": SPARK, "lake.root": conf.lake.root + "-other", "articles.source": "sample:90", **few}
    )
    rs.run_stage("articles", other)
    (bound,) = rs.estimate(other, evaluation=True)
    assert (bound.endpoint, bound.requests > 0) == ("fake", True)


@pytest.mark.spark
def test_a_session_of_the_caller_keeps_running_with_its_own_settings(settled: Settle):
    spark = SparkSession.getActiveSession() or SparkSession.builder.config(map=SPARK).getOrCreate()
    before = spark.conf.get("spark.sql.shuffle.partitions")
    spark.conf.set("spark.sql.shuffle.partitions", "3")
    bare = settled().model_copy(update={"spark": {}})
    rs.run_stage("articles", bare)
    assert SparkSession.getActiveSession() is spark
    assert spark.conf.get("spark.sql.shuffle.partitions") == "3"
    assert spark.range(3).count() == 3
    spark.conf.set("spark.sql.shuffle.partitions", before)
