"""The README is true: its files, verbs, settings and commands are there."""

import re
import subprocess
import tomllib

import pytest
from click.testing import CliRunner

from conftest import ROOT
from raft_spark import config
from raft_spark.cli import main

pytestmark = pytest.mark.row
README = (ROOT / "README.md").read_text()
VERBS = set(re.findall(r"(?:^|`)raft-spark ([a-z][a-z-]*)", README.partition("## ")[2], re.MULTILINE))


def test_every_linked_file_is_there():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_make_verb_is_there():
    verbs = set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE))
    assert {"run", "test", "check", "bench"} <= verbs
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {verb for verb in verbs if not re.search(rf"^{verb}\s", listed, re.MULTILINE)} == set()


def test_every_verb_of_the_command_line_is_there():
    assert {"run", "show", "preview", "path"} <= VERBS
    assert set(main.commands) >= VERBS


def test_every_setting_named_is_one():
    known = tomllib.loads((ROOT / "conf/default.toml").read_text())
    named = set(re.findall(r"`(lake|articles|base|completions|dataset|evaluation)\.([a-z_]+)", README))
    assert named
    assert {f"{section}.{key}" for section, key in named if key not in known[section]} == set()


def test_the_example_settings_settle():
    example = re.search(r"raft-spark run notebook.toml (.*?)\n```", README, re.DOTALL)[1]
    assignments = re.findall(r"--set (\S+)", example)
    conf = config.load(["notebook.toml"], assignments)
    assert conf.teacher.kind == "openai"
    assert conf.articles.limit == 40_000


def test_help_of_every_verb_says_something():
    for name in main.commands:
        done = CliRunner().invoke(main, [name, "--help"])
        assert done.exit_code == 0
        assert len(done.output.splitlines()) > 5


def test_no_figure_is_left_open():
    assert not re.search(r"\{[A-Z]+\}", README)
