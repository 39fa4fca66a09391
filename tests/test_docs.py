"""The site is whole: pages that are generated are those of the checkout, a dead link and a long line are found."""

import importlib.util
import re
import sys
import tomllib
from types import ModuleType

import pytest

from conftest import ROOT

pytestmark = pytest.mark.row


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / f"docs/{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


check, generate = script("check"), script("generate")


@pytest.mark.parametrize("name", ["settings.md", "cli.md", "api.md"])
def test_a_generated_page_is_that_of_the_checkout(name):
    assert (ROOT / "docs" / name).read_text() == generate.pages()[name], "run `make docs` and commit what it writes"


def test_every_setting_is_on_its_page_with_its_comment():
    page = generate.settings(
        '[lake]\nfile_mb = 128   # MB: of a file,\n                # and of a task\n\n[log]\nformat = "text"\n'
    )
    assert "## [lake]" in page
    assert "| `file_mb` | MB: of a file, and of a task<br>Values: whole number, 1 to 2,048. Default: `128` |" in page
    assert "| `file_mb` | Above its key.<br>" in generate.settings("[lake]\n# Above\n# its key.\nfile_mb = 128\n")
    assert '| `format` | Values: `text`, `json`. Default: `"text"` |' in page


def test_no_setting_of_the_default_file_is_left_out():
    page = generate.pages()["settings.md"]
    settings = tomllib.loads((ROOT / "conf/default.toml").read_text())
    keys = {key for name in ("lake", "base", "completions", "training", "emr") for key in settings[name]} - {
        "batch",
        "retrieval",
        "sagemaker",
    }
    assert {key for key in keys if f"\n| `{key}` |" not in page} == set()
    assert {"[base.retrieval]", "[completions.batch]", "[endpoints.NAME]", "[prices]", "[spark]"} <= set(
        page.replace("## ", "").splitlines()
    )


def test_a_table_of_lists_is_said_to_be_one():
    page = generate.settings("[evaluation]\nrecipes = {}   # students\n")
    assert "Values: table of names, each with a list of: text. Default: `{}` |" in page


def test_signs_of_markdown_in_a_comment_are_shown_as_they_are():
    page = generate.settings('[lake]\nroot = "a"   # NAME.* of [spark]; a <TAG>, a|b and `raw*`\n')
    assert r"| NAME.\* of \[spark\]; a &lt;TAG>, a\|b and `raw*`<br>" in page


def test_a_comment_above_a_section_that_lists_kinds_becomes_a_list():
    page = generate.settings(
        "# One each. kind:\n#   openai   any server,\n#            by HTTP\n# And so on.\n[endpoints.x]\n"
    )
    assert "\nOne each. kind:\n\n* `openai`: any server, by HTTP\n\nAnd so on.\n" in page


def test_every_verb_is_on_the_page_of_the_command_line():
    page = generate.cli()
    for verb in ("run", "show", "emr submit", "model host"):
        assert f"\n## raft-spark {verb}\n" in page
    assert "| `--rows INTEGER RANGE` |" in page


def test_every_page_is_in_the_navigation():
    nav = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    listed = {page for part in nav for pages in part.values() for entry in pages for page in entry.values()}
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - listed == set()


def site(folder, **pages):
    for name, text in pages.items():
        (folder / f"{name}.html").write_text(text)
    return sorted(check.dead_links(folder))


def test_links_that_lead_somewhere_are_no_problem(tmp_path):
    (tmp_path / "a picture.png").write_bytes(b"")
    one = '<h2 id="top">x</h2><a href="two.html#there">x</a><a href="#top">x</a><a href="https://example.org/no">x</a>'
    assert site(tmp_path, one=one, two='<i id="there"></i><img src="a%20picture.png"><a href="one.html">x</a>') == []


def test_a_dead_link_is_named_with_its_page(tmp_path):
    one = '<a href="gone.html">x</a><a href="two.html#gone">x</a><a href="#gone">x</a><img src="gone.png">'
    assert site(tmp_path, one=one, two="") == [
        "one.html: #gone is not there",
        "one.html: gone.html is not there",
        "one.html: gone.png is not there",
        "one.html: two.html#gone is not there",
    ]


@pytest.mark.parametrize("path", check.markdown(), ids=lambda path: path.name)
def test_no_line_of_markdown_is_too_long(path):
    assert list(check.long_lines(path)) == []


def test_a_long_line_is_found_but_for_tables_and_addresses(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"{'x' * 120}\n{'x' * 121}\n| {'x' * 200} |\nsee https://example.org/{'x' * 200} there\n")
    assert list(check.long_lines(page)) == ["page.md:2 has 121 characters; 120 are allowed"]


def not_in_the_code(messages):
    """Return the parts of messages, between their dots, that no module has."""
    code = "\n".join(path.read_text() for path in sorted((ROOT / "raft_spark").rglob("*.py")))
    joined = re.sub(r"""["']\s+f?["']""", "", code)  # strings that go on in the next line
    parts = {part.strip(" ;,.()") for message in messages for part in re.split(r"\.\.\.+", message)}
    return sorted(part for part in parts if part not in joined)


def test_every_message_that_troubleshooting_explains_is_in_the_code():
    told = re.findall(r"^### `(.*)`$", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)
    assert len(told) > 20
    assert not_in_the_code(told) == []


def test_every_message_among_the_symptoms_of_a_teacher_is_in_the_code():
    table = (ROOT / "docs/teachers.md").read_text().partition("\n## Symptoms\n")[2]
    seen = [
        cell for row in re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE) for cell in re.findall(r"`([^`]+)`", row)
    ]
    assert len(seen) > 20
    assert not_in_the_code(message for message in seen if " " in message) == []
