"""base + completions -> dataset: each format loads with `datasets`, gates reject with a reason, the bytes do not change."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import Settle
from raft_spark import articles, base, completions, config, dataset, schemas, tables
from raft_spark.errors import InputError

pytestmark = pytest.mark.spark
ALL = 'dataset.formats=["messages","prompt_completion","notebook"]'
LOAD = """
import datasets, json, sys
found = datasets.load_dataset(sys.argv[1], cache_dir=sys.argv[2])
print(json.dumps({split: {"rows": rows.num_rows, "columns": rows.column_names, "first": rows[0]} for split, rows in found.items()}))
"""


def walked(conf: config.Config) -> tables.Version:
    for stage in (articles, base, completions):
        stage.run(conf)
    return dataset.run(conf)


def loaded(conf: config.Config, version: tables.Version, name: str, cache: Path) -> dict[str, Any]:
    """Load a folder as a trainer would, offline, in a process of its own."""
    folder = f"{tables.folder(conf.lake, version)}/{name}"
    command = [sys.executable, "-W", "ignore", "-c", LOAD, folder, str(cache)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={"HF_HUB_OFFLINE": "1", "PATH": "", "HOME": str(cache)}
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("file", ["jsonl", "parquet"])
def test_every_format_loads_with_datasets(settled: Settle, tmp_path: Path, file: str):
    conf = settled(ALL, f"dataset.file={file}", "dataset.shard_rows=100")
    version = walked(conf)
    counts = version.counts
    assert counts["rows"] == 300
    assert sum(counts["kept"].values()) + sum(counts["rejected"].values()) == 300
    columns = {
        "messages": ["messages"],
        "prompt_completion": ["prompt", "completion"],
        "notebook": ["question", "context", "oracle", "distracted", "original_answer", "synthetic_answer"],
    }
    for name, expected in columns.items():
        found = loaded(conf, version, name, tmp_path / name)
        assert {split: part["rows"] for split, part in found.items()} == counts["kept"]
        assert all(part["columns"] == expected for part in found.values())
    assert len([f for f in version.files if f.path.startswith("messages/train-") and f.path.endswith(file)]) == 3


def test_a_record_holds_question_passages_and_answer(settled: Settle, tmp_path: Path):
    conf = settled(ALL)
    version = walked(conf)
    notebook = loaded(conf, version, "notebook", tmp_path / "a")["train"]["first"]
    turns = loaded(conf, version, "messages", tmp_path / "b")["train"]["first"]["messages"]
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant"]
    assert notebook["context"] in turns[1]["content"]
    assert notebook["question"] in turns[1]["content"]
    assert turns[2]["content"] == notebook["synthetic_answer"]
    assert notebook["distracted"] is (notebook["oracle"].split("\n\n")[0] not in notebook["context"])


def test_rejected_rows_keep_their_reason(settled: Settle):
    conf = settled("completions.max_new_tokens=38")
    version = walked(conf)
    truncated = version.counts["rejected"]["truncated"]
    assert 0 < truncated < 300
    rows = tables.head(conf.lake, version, 1000, quarantine=True)
    assert len(rows) == truncated
    assert {row["reason"] for row in rows} == {"truncated"}
    assert walked(settled("completions.max_new_tokens=38", "dataset.gate.truncated=off")).counts["rejected"] == {}


def test_a_row_without_an_answer_is_rejected_with_the_class_of_its_failure():
    gate = config.load().dataset.gate
    row = {"completion": None, "last_error": "timeout", "finish_reason": None}
    assert dataset.verdict(row, gate) == "no answer: timeout"
    assert dataset.verdict({**row, "last_error": None}, gate) == "no answer: not asked"
    refusal = {"completion": "I don't know.", "last_error": None, "finish_reason": "stop"}
    assert dataset.verdict(refusal, gate) is None
    assert dataset.verdict(refusal, gate.model_copy(update={"refusal": "reject"})) == "refusal"


def test_no_training_row_left_is_an_error_and_nothing_is_published(settled: Settle):
    conf = settled("completions.max_new_tokens=1")
    with pytest.raises(InputError, match=r"no training row is left of 300; reasons: \{'truncated': 300\}"):
        walked(conf)
    assert tables.place(conf.lake, schemas.DATASET).list() == []


def test_the_manifest_tells_settings_inputs_counts_and_digests(settled: Settle):
    conf = settled("endpoints.fake.input_price=2.0", "endpoints.fake.output_price=10.0")
    version = walked(conf)
    manifest = json.loads(Path(tables.folder(conf.lake, version), "manifest.json").read_text())
    assert manifest["inputs"].keys() == {"base", "completions"}
    assert manifest["settings"]["base"]["distractors"] == 3
    tokens = manifest["counts"]["tokens"]
    assert manifest["counts"]["dollars"] == pytest.approx(
        (tokens["prompt"] * 2 + tokens["completion"] * 10) / 1e6, abs=1e-4
    )
    assert all(len(file["sha256"]) == 64 for file in manifest["files"])
