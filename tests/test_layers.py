"""The import direction of the design, as import-linter checks it from pyproject.toml."""

import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT

pytestmark = pytest.mark.row


def test_no_import_goes_against_the_layers():
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


def test_every_module_has_its_place_in_the_layers():
    layers = (ROOT / "pyproject.toml").read_text()
    modules = {path.stem for path in (ROOT / "raft_spark").glob("*.py")} - {"__init__"}
    missing = {module for module in modules if f"raft_spark.{module}" not in layers}
    assert not missing
