"""`raft-spark model train`: the arguments of sft_script.py, and the errors before anything starts.

The script itself needs torch; tests/train tests it.
"""

import ast
import json
import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from conftest import ROOT, Settle
from raft_spark import config
from raft_spark.cli.main import main
from raft_spark.endpoints.local import weights
from raft_spark.errors import ConfigError, InputError, RunError
from raft_spark.lake import parquet, schemas, tables
from raft_spark.students import train

row = pytest.mark.row


def published(conf: config.Config, *formats: str) -> tables.Version:
    new = tables.open_draft(conf.lake, schemas.DATASET, "0123456789abcdef")
    return tables.publish(
        new, conf, [parquet.write_text(new.storage, f"{name}/README.md", name) for name in formats], {}, {}
    )


def python(folder: Path, lacks: str = "", status: int = 0) -> str:
    """Write a program in place of Python that appends its arguments to the file `arguments`, one per line; return its
    setting.
    """
    path = folder / "python"
    path.write_text(
        f'#!/bin/bash\nif [ "$1" = -c ]; then echo {lacks}; exit; fi\nprintf "%s\\n" "$@" >> {folder}/arguments\nexit {status}\n'
    )
    path.chmod(0o755)
    return f"training.python={path}"


def calls_of(folder: Path) -> list[dict[str, str]]:
    """Return the calls, each as its options by name, with its script as `script`."""
    calls: list[dict[str, str]] = []
    for line in (folder / "arguments").read_text().split("-P\n")[1:]:
        script, *words = line.splitlines()
        calls.append({"script": Path(script).name, **dict(zip(words[::2], words[1::2], strict=False))})
    return calls


@row
def test_the_script_gets_the_dataset_the_student_and_every_setting(settled: Settle, tmp_path: Path):
    conf = settled(python(tmp_path), "training.lora_rank=8", "training.model=student.safetensors")
    version = published(conf, "messages", "prompt_completion")
    assert train.run(conf, tmp_path / "made") == tmp_path / "made"
    call = calls_of(tmp_path)[0]
    assert call["script"] == "sft_script.py"
    assert Path(call["--data"], "README.md").read_text() == "prompt_completion"
    assert call["--model"] == "student.safetensors"
    assert (call["--to"], call["--checkpoints"]) == (f"{tmp_path}/made/model", f"{tmp_path}/made/checkpoints")
    assert json.loads(call["--settings"])["lora_rank"] == 8
    assert json.loads(call["--about"])["dataset"] == version.id
    assert len(calls_of(tmp_path)) == 1  # a folder is no GGUF, so none is made


@row
def test_the_script_takes_every_setting_of_training():
    tree = ast.parse((ROOT / "raft_spark/students/sft_script.py").read_text())
    taken = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Settings")
    names = [field.target.id for field in taken.body if isinstance(field, ast.AnnAssign)]
    assert sorted(names) == sorted(config.load().training.script_settings())


@row
def test_the_built_in_student_becomes_a_gguf_file_once(settled: Settle, tmp_path: Path):
    conf = settled(python(tmp_path))
    published(conf, "prompt_completion")
    train.run(conf, tmp_path)
    training, as_gguf = calls_of(tmp_path)
    assert training["--model"] == str(weights.built_in_path())
    assert (as_gguf["script"], as_gguf[str(tmp_path / "model")]) == ("gguf_export.py", "--like")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/training.json").touch()
    (tmp_path / "student.gguf").touch()
    train.run(conf, tmp_path)
    assert [call["script"] for call in calls_of(tmp_path)] == ["sft_script.py", "gguf_export.py", "sft_script.py"]
    os.utime(tmp_path / "student.gguf", (0, 0))  # a student that was there before
    train.run(conf, tmp_path)
    assert len(calls_of(tmp_path)) == 5


@row
def test_a_dataset_is_needed_in_the_format_that_is_trained_on(settled: Settle, tmp_path: Path):
    conf = settled(python(tmp_path))
    with pytest.raises(InputError, match="holds no table 'dataset'; run `raft-spark dataset` first"):
        train.run(conf, tmp_path)
    published(conf, "messages")
    with pytest.raises(InputError, match=r"has no format 'prompt_completion'; add it to dataset\.formats"):
        train.run(conf, tmp_path)
    assert not (tmp_path / "arguments").exists()


@row
@pytest.mark.parametrize(
    ("assignment", "error"),
    [
        (python, "training needs torch, trl, which .*/python lacks; run pip install 'raft-spark"),
        ("training.python=/nowhere/python", "training.python is '/nowhere/python', which cannot be run"),
    ],
)
def test_a_python_that_cannot_train_is_refused_before_anything_starts(
    settled: Settle, tmp_path: Path, assignment, error
):
    conf = settled(assignment if isinstance(assignment, str) else assignment(tmp_path, "torch trl"))
    published(conf, "prompt_completion")
    with pytest.raises(ConfigError, match=error):
        train.run(conf, tmp_path)
    assert not (tmp_path / "arguments").exists()


@row
def test_this_python_is_really_checked(settled: Settle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(train, "PACKAGES", ("json", "no_such_package"))
    conf = settled()
    published(conf, "prompt_completion")
    with pytest.raises(ConfigError, match=f"training needs no_such_package, which {sys.executable} lacks"):
        train.run(conf, tmp_path)


@row
def test_a_training_that_fails_is_one_sentence(settled: Settle, tmp_path: Path):
    conf = settled(python(tmp_path, status=9))
    published(conf, "prompt_completion")
    with pytest.raises(RunError, match=r"sft_script.py ended with status 9; .* The same command resumes the training"):
        train.run(conf, tmp_path / "made")


@row
def test_the_command_prints_the_students_folder_last(settled: Settle, tmp_path: Path):
    conf = settled()
    published(conf, "prompt_completion")
    sets = ("--set", f"lake.root={conf.lake.root}", "--set", python(tmp_path))
    done = CliRunner().invoke(main, ["model", "train", *sets, "--to", str(tmp_path / "made")])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-1] == str(tmp_path / "made")


@row
def test_other_weights_are_another_model_unless_it_is_named(tmp_path: Path):
    paths = [tmp_path / name for name in ("student.gguf", "same/student.gguf", "other/student.gguf")]
    for path, content in zip(paths, (b"one", b"one", b"two"), strict=True):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    models = [config.load((), [f"endpoints.embedded.weights={path}"]).teacher.model for path in paths]
    assert models == ["student-7692c3ad3540", "student-7692c3ad3540", "student-3fc4ccfe7458"]
    named = [f"endpoints.embedded.weights={paths[0]}", "endpoints.embedded.model=mine"]
    assert config.load((), named).teacher.model == "mine"
    assert config.load().teacher.model == "SmolLM2-135M-Instruct.Q4_1"


@row
def test_missing_weights_are_a_config_error(tmp_path: Path):
    error = r"endpoints.embedded.weights is 'no.gguf', which cannot be read \(No such file or directory\); it must be a GGUF file"
    with pytest.raises(ConfigError, match=error):
        config.load((), ["endpoints.embedded.weights=no.gguf"])


def test_a_dataset_in_a_bucket_is_copied_to_a_local_folder(settled: Settle, tmp_path: Path, s3: str):
    conf = settled(python(tmp_path), "lake.root=s3://lake/train", f"lake.s3_endpoint={s3}")
    version = published(conf, "messages", "prompt_completion")
    train.run(conf, tmp_path / "made")
    folder = Path(calls_of(tmp_path)[0]["--data"])
    assert folder == tmp_path / "made/data" / version.id
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("README.md", "prompt_completion")]
