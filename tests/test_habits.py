"""The hooks and the workflows do what CONTRIBUTING.md says of them, without a download."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from conftest import ROOT

pytestmark = pytest.mark.row
HOOKS = ".pre-commit-config.yaml"
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=folder, env=ENVIRONMENT, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with our hooks and nothing else, whose build/env-test is this environment."""
    for name in (HOOKS, "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "build").mkdir()
    (tmp_path / "build/env-test").symlink_to(sys.prefix)
    (tmp_path / ".gitignore").write_text("build/\ncache/\n")
    git(tmp_path, "init", "--quiet")
    return tmp_path


def hooks(folder: Path) -> tuple[int, str]:
    """Run the hooks of a commit over all files."""
    git(folder, "add", ".")
    command = [sys.executable, "-m", "pre_commit", "run", "--all-files", "--color", "never"]
    home = {"PRE_COMMIT_HOME": str(folder / "cache")}
    done = subprocess.run(command, cwd=folder, env={**ENVIRONMENT, **home}, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_good_files_pass_the_hooks(checkout: Path):
    (checkout / "good.py").write_text('"""Nothing."""\n')
    status, said = hooks(checkout)
    assert status == 0, said
    assert said.count("Passed") == 5


@pytest.mark.parametrize(
    ("name", "text", "hook"),
    [
        ("bad.py", '"""Nothing."""\n\nx = lambda: 0\n', "lint"),
        ("bad.py", '"""Nothing."""\n\nx = [1,2]\n', "format"),
        ("bad.md", "The adress is wrong.\n", "spelling"),  # codespell:ignore adress
        ("bad.md", "Two spaces  \n", "no whitespace at the end of a line"),
        ("bad.md", "No newline", "one newline at the end of a file"),
        ("bad.md", "One line too many.\n\n", "one newline at the end of a file"),
    ],
)
def test_a_hook_refuses_a_bad_file(checkout: Path, name: str, text: str, hook: str):
    (checkout / name).write_text(text)
    status, said = hooks(checkout)
    assert status == 1, said
    failed = {line.partition("...")[0] for line in said.splitlines() if line.endswith("Failed")}
    assert failed == {hook}


def test_no_hook_is_fetched_and_make_check_runs_at_a_push():
    (repo,) = yaml.safe_load((ROOT / HOOKS).read_text())["repos"]
    assert repo["repo"] == "local"
    assert [hook["entry"] for hook in repo["hooks"] if "pre-push" in hook.get("stages", ())] == ["make check"]


def test_ci_runs_the_row_tests_on_every_python_of_the_metadata():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {text.rpartition(":: ")[2] for text in project["classifiers"] if ":: Python :: 3." in text}
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    first = next(step["with"]["python-version"] for step in jobs["check"]["steps"] if "with" in step)
    assert {first, *jobs["rows"]["strategy"]["matrix"]["python"]} == named


def test_every_make_target_of_the_workflows_exists():
    makefile = (ROOT / "Makefile").read_text()
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            lines = "\n".join(step.get("run", "") for step in job["steps"]).splitlines()
            for target in (line.split()[1] for line in lines if line.startswith("make ")):
                assert f"\n{target}:" in makefile, (path.name, target)
