"""The current dataset -> a trained student, made by sft_script.py in an environment of its own, since torch takes 6 GB.

FOLDER/model/          merged safetensors, config, tokenizer, training.json: what Bedrock imports and SageMaker hosts
FOLDER/student.gguf    the same in 8 bits for [endpoints.NAME] weights, where the student came as GGUF
FOLDER/checkpoints/    what an interrupted training goes on from
"""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.fs as pafs

from raft_spark import __version__, config
from raft_spark.endpoints.local import weights
from raft_spark.errors import ConfigError, InputError, RunError
from raft_spark.lake import schemas, tables
from raft_spark.students import scripts

FORMAT = "prompt_completion"
PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "gguf")
INSTALL = "pip install 'raft-spark[train]'"


def run(conf: config.Config, to: Path) -> Path:
    """Train the student of [training] on the lake's current dataset; return `to`. What is there already is not made again.

    Raises ConfigError and InputError before anything starts, RunError when the training fails.
    """
    python = conf.training.python or sys.executable
    version = tables.require(conf.lake, schemas.DATASET)
    if not any(file.path.startswith(f"{FORMAT}/") for file in version.files):
        msg = f"dataset {version.id} has no format {FORMAT!r}; add it to dataset.formats and run `raft-spark dataset` again"
        raise InputError(msg)
    _check_installed(python)
    student = conf.training.model or str(weights.built_in_path())
    about = {"dataset": version.id, "raft_spark": __version__, "base": conf.base.model_dump()}
    folders = {"data": _local_dataset(conf.lake, version, to), "to": to / "model", "checkpoints": to / "checkpoints"}
    told = {
        **folders,
        "model": student,
        "settings": json.dumps(conf.training.script_settings()),
        "about": json.dumps(about),
    }
    _run_script(
        python, scripts.SFT_SCRIPT, *(text for name, value in told.items() for text in (f"--{name}", str(value)))
    )
    made, whole = to / "student.gguf", to / "model/training.json"
    if student.endswith(".gguf") and not (made.exists() and made.stat().st_mtime >= whole.stat().st_mtime):
        _run_script(python, scripts.GGUF_EXPORT, str(to / "model"), "--like", student, "--to", str(made))
    return to


def _check_installed(python: str) -> None:
    """Raise ConfigError when a Python cannot train, with the way to make it."""
    look = f"from importlib.util import find_spec; print(*(n for n in {PACKAGES} if find_spec(n) is None))"
    try:
        missing = subprocess.run([python, "-c", look], check=True, capture_output=True, text=True).stdout.split()
    except (OSError, subprocess.CalledProcessError) as error:
        msg = f"training.python is {python!r}, which does not run ({error}); it must be the Python of an environment with {INSTALL}"
        raise ConfigError(msg) from error
    if missing:
        msg = f"training needs {', '.join(missing)}, which {python} lacks: {INSTALL} there, or name another in training.python"
        raise ConfigError(msg)


def _local_dataset(lake: config.Lake, version: tables.Version, to: Path) -> Path:
    """Return a folder of this machine with the dataset, copied from the lake's bucket where it lies in one."""
    at = tables.storage(lake, version.table).at("versions", version.id, FORMAT)
    if at.is_local:
        return Path(at.path())
    copy = to / "data" / version.id
    copy.mkdir(parents=True, exist_ok=True)
    pafs.copy_files(at.path(), str(copy), at.filesystem, pafs.LocalFileSystem())
    return copy


def _run_script(python: str, script: Path, *arguments: str) -> None:
    """Run a script, which says itself what it does."""
    done = subprocess.run([python, "-P", str(script), *arguments], check=False)
    if done.returncode:
        msg = f"{script.name} ended with status {done.returncode}; its last lines say why. The same command goes on where it was"
        raise RunError(msg)
