"""Train a student on the current dataset by running sft_script.py in another Python environment, since torch takes 6
GB.

FOLDER/model/          merged safetensors, config, tokenizer, training.json: what Bedrock imports and SageMaker hosts
FOLDER/student.gguf    the same in 8 bits for the setting `weights` of [endpoints.NAME], if the student was a GGUF file
FOLDER/checkpoints/    the state from which an interrupted training resumes
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow.fs as pafs

from raft_spark import __version__, config
from raft_spark.endpoints.local import weights
from raft_spark.errors import ConfigError, InputError, RunError
from raft_spark.lake import schemas, tables
from raft_spark.lake.filesystem import Storage
from raft_spark.students import scripts

FORMAT = "prompt_completion"
PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "gguf")
INSTALL = "pip install 'raft-spark[train]'"


def run(conf: config.Config, to: Path) -> Path:
    """Train the student of [training] on the lake's current dataset and return `to`.

    A training that is complete is not repeated.

    Raises ConfigError or InputError before anything starts, RunError when the training fails.
    """
    python = conf.training.python or sys.executable
    version = tables.require(conf.lake, schemas.DATASET)
    source = training_data(conf.lake, version)
    _check_installed(python)
    student = conf.training.model or str(weights.built_in_path())
    about = {"dataset": version.id, "raft_spark": __version__, "base": conf.base.model_dump()}
    folders = {
        "data": _local_dataset(source, to / "data" / version.id),
        "to": to / "model",
        "checkpoints": to / "checkpoints",
    }
    settings = {"model": student, "settings": json.dumps(conf.training.script_settings()), "about": json.dumps(about)}
    _run_script(python, scripts.SFT_SCRIPT, *_options({**folders, **settings}))
    gguf, finished = to / "student.gguf", to / "model/training.json"
    if student.endswith(".gguf") and not (gguf.exists() and gguf.stat().st_mtime >= finished.stat().st_mtime):
        _run_script(python, scripts.GGUF_EXPORT, str(to / "model"), "--like", student, "--to", str(gguf))
    return to


def _options(values: Mapping[str, object]) -> Iterator[str]:
    for name, value in values.items():
        yield from (f"--{name}", str(value))


def _check_installed(python: str) -> None:
    """Raise ConfigError with the command to run when a Python lacks a package that training needs."""
    look = f"from importlib.util import find_spec; print(*(n for n in {PACKAGES} if find_spec(n) is None))"
    try:
        missing = subprocess.run([python, "-c", look], check=True, capture_output=True, text=True).stdout.split()
    except (OSError, subprocess.CalledProcessError) as error:
        msg = f"training.python is {python!r}, which cannot be run ({error}); it must be the Python of an environment with {INSTALL}"
        raise ConfigError(msg) from error
    if missing:
        msg = f"training needs {', '.join(missing)}, which {python} lacks; run {INSTALL} there, or set training.python to another Python"
        raise ConfigError(msg)


def training_data(lake: config.Lake, version: tables.Version) -> Storage:
    """Return the folder of the format that students are trained on. Raises InputError when the dataset lacks it."""
    if not any(file.path.startswith(f"{FORMAT}/") for file in version.files):
        msg = f"dataset {version.id} has no format {FORMAT!r}; add it to dataset.formats and run `raft-spark dataset` again"
        raise InputError(msg)
    return tables.storage(lake, version.table).at("versions", version.id, FORMAT)


def _local_dataset(source: Storage, copy: Path) -> Path:
    """Return a local folder with the dataset; one in a bucket is copied to `copy` first."""
    if source.is_local:
        return Path(source.path())
    copy.mkdir(parents=True, exist_ok=True)
    pafs.copy_files(source.path(), str(copy), source.filesystem, pafs.LocalFileSystem())
    return copy


def _run_script(python: str, script: Path, *arguments: str) -> None:
    """Run a script with its output on the terminal. Raises RunError when it fails."""
    done = subprocess.run([python, "-P", str(script), *arguments], check=False)
    if done.returncode:
        msg = f"{script.name} ended with status {done.returncode}; its last lines say why. The same command resumes the training"
        raise RunError(msg)
