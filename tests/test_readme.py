"""README and docs are true: their files, anchors, verbs, settings and commands are there."""

import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from conftest import ROOT
from raft_spark import config
from raft_spark.cli.main import main
from raft_spark.sources import records

pytestmark = pytest.mark.row
README = (ROOT / "README.md").read_text()
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = {path: path.read_text() for path in FILES}
FENCE = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)


def code(text: str) -> str:
    """Return what a page shows as code: its fenced blocks and its `words`, one a line."""
    return "\n".join([*(block[0] for block in FENCE.finditer(text)), *re.findall(r"`([^`\n]+)`", FENCE.sub("", text))])


CODE = "\n".join(code(text) for text in PAGES.values())
VERBS = set(re.findall(r"^\s*raft-spark ([a-z][a-z-]*)", CODE, re.MULTILINE))


def anchors(text: str) -> set[str]:
    """Return the anchors that Markdown makes of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def links() -> Iterator[tuple[Path, str, str]]:
    """Yield (page, file, anchor) of every link to another place here; "" is the page itself, or no anchor."""
    for page, text in PAGES.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text)):
            if "://" not in target:
                file, _, anchor = target.partition("#")
                yield page, file, anchor


def test_every_linked_file_is_there():
    assert len([page for page, *_ in links() if page.name == "README.md"]) > 10
    missing = [(page.name, file) for page, file, _ in links() if file and not (page.parent / file).exists()]
    assert missing == []


def test_every_linked_anchor_is_there():
    found = [((page.parent / file).resolve() if file else page, anchor) for page, file, anchor in links() if anchor]
    assert found
    dead = [(path.name, anchor) for path, anchor in found if path.exists() and anchor not in anchors(path.read_text())]
    assert dead == []


def test_every_make_verb_is_there():
    verbs = set(re.findall(r"^\s*make ([a-z]+(?:-[a-z]+)*)", CODE, re.MULTILINE))
    assert {"run", "test", "check", "bench"} <= verbs
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {verb for verb in verbs if not re.search(rf"^{verb}\s", listed, re.MULTILINE)} == set()


def test_every_verb_of_the_command_line_is_there():
    assert {"run", "show", "preview", "path"} <= VERBS
    assert set(main.commands) >= VERBS


@pytest.mark.parametrize("group", ["model", "emr"])
def test_every_verb_of_a_group_is_there(group: str):
    named = set(re.findall(rf"^\s*raft-spark {group} ([a-z][a-z-]*)", CODE, re.MULTILINE))
    commands = main.commands[group]
    assert isinstance(commands, click.Group)
    assert named
    assert set(commands.commands) >= named


def test_every_setting_named_is_one():
    known = tomllib.loads((ROOT / "conf/default.toml").read_text())
    sections = "|".join(known.keys() - {"endpoints", "prices", "spark"})
    setting = rf"(?:^|--set ['\"]?)({sections})\.(?!(?:md|html|json|toml|py)\b)(\w+)(?:\.(\w+))?(?=[\s=`'\"]|$)"
    named = set(re.findall(setting, CODE, re.MULTILINE))
    assert {section for section, *_ in named} >= {"lake", "articles", "base", "completions", "dataset", "evaluation"}
    assert {each for each in named if not has(known[each[0]], each[1:])} == set()


def has(section: object, keys: tuple[str, ...]) -> bool:
    """Say whether a section holds a key, and below it the next one."""
    for key in filter(None, keys):
        if not isinstance(section, dict) or key not in section:
            return False
        section = section[key]
    return True


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
    assert [page.name for page, text in PAGES.items() if re.search(r"\{[A-Z]+\}", text)] == []


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 200


def test_every_module_named_is_there():
    named = set(re.findall(r"^((?:raft_spark|tests|jobs|conf|emr)/[\w./-]+\.\w+)$", CODE, re.MULTILINE))
    assert len(named) > 40
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_the_example_record_is_a_good_article():
    example = re.search(r"```json\n(.*?)```", (ROOT / "docs/dataset.md").read_text(), re.DOTALL)[1]
    found = records.check_record(json.loads(example), config.load().articles)
    assert isinstance(found, records.Article)
    assert len(found.passages) == 2


def test_the_articles_of_the_tutorial_are_good_and_enough(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = next(
        block[1]
        for block in re.finditer(r"```python\n(.*?)```", (ROOT / "docs/tutorial.md").read_text(), re.DOTALL)
        if "my-articles.jsonl" in block[1]
    )
    exec(compile(script, "docs/tutorial.md", "exec"), {})  # noqa: S102 - our own page
    conf = config.load().articles
    found = [
        records.check_record(json.loads(line), conf) for line in Path("my-articles.jsonl").read_text().splitlines()
    ]
    assert len(found) == 60
    assert all(isinstance(each, records.Article) for each in found)
