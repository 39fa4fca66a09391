"""`pip install .` alone: what pip would install is all that is there, so no Spark, and the command line works."""

import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from conftest import ROOT, SPARK
from raft_spark import config
from raft_spark.emr import package
from raft_spark.lake import browse, session, tables
from raft_spark.stages import articles, base

SDIST = "from setuptools import build_meta; build_meta.build_sdist({!r})"
HELP = """
from raft_spark.cli.main import main

def ask(command, *above):
    main([*above, "--help"], "raft-spark", standalone_mode=False)
    for name, below in getattr(command, "commands", {}).items():
        ask(below, *above, name)

ask(main)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist of this checkout, and the wheel that is built from it: what a release publishes."""
    folder = tmp_path_factory.mktemp("built")
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True)
    with tarfile.open(folder / "source.tar", "w") as tar:
        for name in files.stdout.decode().splitlines():
            if (ROOT / name).is_file():
                tar.add(ROOT / name, name)
    with tarfile.open(folder / "source.tar") as tar:
        tar.extractall(folder / "source", filter="data")
    tools = folder / "tools"
    flags = ("--require-hashes", "--only-binary=:all:", f"--target={tools}")
    package.run_pip("install", *flags, f"--requirement={ROOT / package.BUILD_REQUIREMENTS}")
    run([sys.executable, "-c", SDIST.format(str(folder))], folder / "source", PYTHONPATH=str(tools))
    (sdist,) = folder.glob("*.tar.gz")
    flags = ("--no-deps", "--no-index", "--no-build-isolation", f"--wheel-dir={folder}")
    package.run_pip("wheel", *flags, str(sdist), PYTHONPATH=str(tools))
    return sdist, next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def alone(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and what it requires without an extra, linked from here; returns its program."""
    folder = tmp_path_factory.mktemp("alone")
    venv.create(folder, symlinks=True)
    packages = next(folder.glob("lib/python3*/site-packages"))
    package.run_pip("install", "--no-deps", "--no-index", f"--prefix={folder}", "--ignore-installed", str(built[1]))
    for name in required("raft-spark") - {"raft-spark"}:
        for top in {
            file.parts[0] for file in distribution(name).files or [] if file.parts[0] not in {"..", "__pycache__"}
        }:
            (packages / top).symlink_to(Path(str(distribution(name).locate_file(top))))
    program = folder / "bin/raft-spark"
    lines = program.read_text().splitlines()
    program.write_text("\n".join([f"#!{folder}/bin/python", *lines[1:]]))
    return program


def required(name: str, *done: str) -> set[str]:
    """Return a distribution and all that it requires here without an extra."""
    found = {name}
    for text in distribution(name).requires or []:
        need = Requirement(text)
        if need.name not in {*done, *found} and (need.marker is None or need.marker.evaluate({"extra": ""})):
            found |= required(need.name, *done, *found)
    return found


def run(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command that has to end well, in a folder and without what this process has on its path."""
    done = subprocess.run(
        command, cwd=folder, env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def call(program: Path, *words: str) -> tuple[int, str]:
    done = subprocess.run(
        [program, *words], cwd=program.parent, env={"COLUMNS": "300"}, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_sdist_and_wheel_hold_every_package_and_the_files_beside_them(built: tuple[Path, Path]):
    sdist, wheel = built
    with tarfile.open(sdist) as tar:
        source = {name.partition("/")[2] for name in tar.getnames()}
    inside = set(zipfile.ZipFile(wheel).namelist())
    packed = {path.relative_to(ROOT).as_posix() for path in (ROOT / "raft_spark").rglob("*") if path.is_file()}
    packed = {name for name in packed if "__pycache__" not in name}
    assert packed <= inside
    assert {f"raft_spark/conf/{path.name}" for path in (ROOT / "conf").glob("*.toml")} <= inside
    templates = (ROOT / "raft_spark/recipe/templates").glob("*/*.toml")
    assert {str(path.relative_to(ROOT)) for path in templates} <= inside
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "jobs").glob("*.py")} <= source
    assert {"pyproject.toml", "setup.py", "constraints.txt", "conf/default.toml"} | packed <= source


def test_every_verb_has_its_help_without_spark(alone: Path):
    assert call(alone, "--version")[0] == 0
    said = run([str(alone.with_name("python")), "-c", HELP], alone.parent).stdout
    for verb in ("articles", "run", "rollback", "emr submit", "model host", "fake-endpoint"):
        assert f"Usage: raft-spark {verb} " in said


@pytest.mark.parametrize("verb", ["run", "articles", "evaluation", "refresh", "estimate"])
def test_what_needs_spark_says_how_to_install_it(alone: Path, tmp_path: Path, verb: str):
    status, said = call(alone, verb, "--set", f"lake.root={tmp_path / 'lake'}")
    assert (status, said.count("\n")) == (2, 1), said
    assert "pyspark" in said
    assert "pip install 'raft-spark[local]'" in said


def test_a_server_of_this_machine_says_which_extra_it_needs(alone: Path):
    status, said = call(alone, "fake-endpoint")
    assert status == 4
    assert "pip install 'raft-spark[local]'" in said


@pytest.mark.spark
def test_tables_are_found_shown_and_brought_back_without_spark(alone: Path, tmp_path: Path):
    lake = f"lake.root={tmp_path / 'lake'}"
    spark = [f'spark."{key}"="{value}"' for key, value in SPARK.items()]
    conf = config.load(assignments=[lake, "articles.source=sample:120", "base.distractors=2", *spark])
    articles.run(conf)
    first = base.run(conf)
    base.run(conf.model_copy(update={"base": conf.base.model_copy(update={"seed": 9})}))
    session.stop()
    status, said = call(alone, "rollback", first.id, "--set", lake, "--set", "lake.format=iceberg")
    assert (status, "raft-spark[local]" in said) == (2, True)
    assert tables.require(conf.lake, "base").id != first.id  # nothing has moved that the catalog could not follow
    assert call(alone, "rollback", first.id, "--set", lake)[0] == 0
    assert tables.require(conf.lake, "base").id == first.id
    assert call(alone, "path", "base", "--set", lake) == (0, browse.rows_folder(conf.lake, first) + "\n")
    assert call(alone, "pin", first.id, "--set", lake) == (0, "")
    said = call(alone, "history", "base", "--set", lake)[1]
    assert "current, pinned" in said
    assert "[ORACLE, pubid" in call(alone, "show", "base", "--set", lake)[1]
    assert call(alone, "expire", "--set", lake)[0] == 0
