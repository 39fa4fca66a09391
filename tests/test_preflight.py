"""What is missing in an archive, or made for another machine, is said in one sentence before anything is imported."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from raft_spark import preflight
from raft_spark.errors import ConfigError

pytestmark = pytest.mark.row
HERE = f"manylinux_2_28_{platform.machine()}"
PYTHON = f"cp{sys.version_info.major}{sys.version_info.minor}"


def installed(folder: Path, name: str, module: str, tag: str = "py3-none-any", needs: tuple[str, ...] = ()) -> None:
    """Lay a package out as `pip install --target` does."""
    (folder / module).mkdir(parents=True)
    (folder / module / "__init__.py").write_text("")
    described = folder / f"{name.replace('-', '_')}-1.2.dist-info"
    described.mkdir()
    wanted = "".join(f"Requires-Dist: {need}\n" for need in needs)
    (described / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.2\n{wanted}")
    (described / "WHEEL").write_text(f"Wheel-Version: 1.0\nTag: {tag}\n")
    files = ("__init__.py", *(f"part{number}.py" for number in range(5)))
    for file in files:
        (folder / module / file).write_text("")
    listed = "".join(f"{module}/{file},,\n" for file in files)  # without hashes, as in a release
    (described / "RECORD").write_text(f"{listed}{module}/tests/part.py,sha256=abc,9\n{described.name}/RECORD,,\n")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    needs = ("pyarrow>=18", "PyDantic_core==1.2", 'datasets; extra == "hub"', 'pandas>=2.2; extra == "emr"')
    installed(tmp_path, "raft-spark", "raft_spark", needs=needs)
    installed(tmp_path, "pyarrow", "pyarrow", f"{PYTHON}-{PYTHON}-{HERE}", ("numpy",))
    installed(tmp_path, "pydantic-core", "pydantic_core", f"cp39-abi3-{HERE}")
    installed(tmp_path, "numpy", "numpy")
    installed(tmp_path, "pandas", "pandas")
    return tmp_path


def removed(archive: Path, pattern: str) -> None:
    for found in archive.glob(pattern):
        found.rename(archive.parent / f"{archive.name}-{found.name}")


def test_an_archive_with_all_that_is_needed_has_no_problems(archive: Path):
    assert preflight.problems([str(archive)]) == []


def test_this_environment_has_no_problems():
    assert preflight.problems(sys.path) == []


@pytest.mark.parametrize("name", ["pyarrow", "numpy", "pandas"])
def test_a_missing_package_is_named_also_one_that_another_needs(archive: Path, name: str):
    removed(archive, f"{name}*")
    assert preflight.problems([str(archive)]) == [f"the package {name} is not installed"]


def test_a_package_of_which_only_the_description_is_there_is_named(archive: Path):
    removed(archive, "pyarrow")
    assert preflight.problems([str(archive)]) == ["the package pyarrow 1.2 is installed without its files pyarrow"]


def test_a_module_that_a_package_lacks_is_named(archive: Path):
    (archive / "pyarrow/part2.py").unlink()
    lacks = "the package pyarrow 1.2 is installed without its files"
    assert preflight.problems([str(archive)]) == [f"{lacks} pyarrow/part2.py"]
    for number in (0, 1, 3, 4):
        (archive / f"pyarrow/part{number}.py").unlink()
    assert preflight.problems([str(archive)]) == [
        f"{lacks} pyarrow/part0.py, pyarrow/part1.py, pyarrow/part2.py and 2 others"
    ]


@pytest.mark.parametrize(
    "tag", [f"{PYTHON}-{PYTHON}-manylinux_2_28_s390x", f"cp314-cp314-{HERE}", f"cp310-cp310-{HERE}"]
)
@pytest.mark.skipif(sys.platform != "linux", reason="machines are told apart on Linux only")
def test_a_package_for_another_machine_or_python_is_named_with_both(archive: Path, tag: str):
    removed(archive, "pyarrow*")
    installed(archive, "pyarrow", "pyarrow", tag)
    here = f"Python {platform.python_version()} on {platform.machine()}"
    assert preflight.problems([str(archive)]) == [f"the package pyarrow 1.2 is built for {tag}, but this is {here}"]


@pytest.mark.parametrize("job", sorted(path.stem for path in (ROOT / "jobs").glob("*.py")))
def test_every_job_asks_before_it_imports_anything(archive: Path, job: str):
    for name in ("__init__.py", "preflight.py", "errors.py", "common/__init__.py", "common/extras.py"):
        (archive / "raft_spark" / name).parent.mkdir(exist_ok=True)
        (archive / "raft_spark" / name).write_text((ROOT / "raft_spark" / name).read_text())
    removed(archive, "pyarrow*")
    command = [sys.executable, "-S", str(ROOT / f"jobs/{job}.py")]
    done = subprocess.run(command, env={"PYTHONPATH": str(archive)}, capture_output=True, text=True, check=False)
    assert done.returncode == ConfigError.exit_status == 2
    assert done.stderr.startswith("ConfigError: the package pyarrow is not installed; package the job again")
    assert len(done.stderr.splitlines()) == 1
