"""The page of a run in a real browser, in a bucket, and without matplotlib."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from conftest import ROOT
from raft_spark import config
from raft_spark.lake.filesystem import Storage
from raft_spark.monitoring import run_report, run_state
from support.browser import browse, complaints
from support.run_rows import FAILED_ROW, HOSTILE, ROW, RUN_ID, SCHEMA, lake_with, made_up_run, stats_of, stored_rows


def test_a_page_is_written_to_a_bucket(s3: str):
    lake = config.load(assignments=["lake.root=s3://lake/report", f"lake.s3_endpoint={s3}"]).lake
    run_state.write(lake, made_up_run())
    place = Storage.of(lake).at("completions")
    with place.atomic_write("data/day=2026-11-22/a.parquet") as local:
        pq.write_table(pa.Table.from_pylist([ROW], SCHEMA), local)
    assert run_report.write(lake) == f"s3://lake/report/completions/runs/{RUN_ID}.html"
    assert b"its stored rows, 1 in all" in place.read(f"runs/{RUN_ID}.html")


def test_without_matplotlib_everything_else_works_and_the_report_says_what_to_install(tmp_path):
    lake_with(tmp_path, made_up_run(), [ROW])
    script = f"""
import sys
sys.modules["matplotlib"] = None
from raft_spark.cli.main import main
main(["report", "--set", "lake.root={tmp_path / "lake"}"])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 3
    assert "pip install 'raft-spark[report]'" in " ".join(done.stdout.split())


# In a browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    hostile = [
        {**ROW, "completion": HOSTILE, "latency_ms": 90_000},
        {**FAILED_ROW, "error_class": HOSTILE, "error": HOSTILE},
    ]
    path.write_text(run_report.render(made_up_run(), stats_of(*stored_rows(), *hostile)))
    return path


def test_a_browser_shows_the_charts_and_nothing_of_a_row_as_markup(page: Path, tmp_path):
    seen = browse(page, tmp_path, "--dump-dom").stdout
    assert seen.count("<svg") == 4
    assert "<script" not in seen
    assert "<img" not in seen
    assert "$12.01" in seen


def test_a_browser_complains_of_nothing_and_would_refuse_a_script(page: Path, tmp_path):
    assert complaints(page, tmp_path) == []
    broken = tmp_path / "broken.html"
    broken.write_text(page.read_text().replace("</header>", "</header><script>document.title = 1</script>"))
    (refusal,) = complaints(broken, tmp_path)
    assert "Executing inline script violates the following Content Security Policy" in refusal


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_screenshot_has_the_colours_of_the_charts(page: Path, tmp_path, scheme: str):
    paper, first = {"light": ((245, 243, 238), (0, 114, 178)), "dark": ((18, 22, 27), (86, 180, 233))}[scheme]
    dark = (
        ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else ["--blink-settings=preferredColorScheme=1"]
    )
    browse(page, tmp_path, *dark, "--window-size=1280,2600", f"--screenshot={tmp_path / 'seen.png'}")
    with Image.open(tmp_path / "seen.png") as image:
        assert image.size == (1280, 2600)
        colours = Counter(image.convert("RGB").get_flattened_data())
    assert colours[paper] > 100_000
    assert colours[first] > 2000
    assert len(colours) > 100


def requested(page: Path, folder: Path) -> set[str]:
    """Return the URLs that a page requests; the browser's own requests have no origin."""
    browse(page, folder, f"--log-net-log={folder / 'net.json'}", "--dump-dom")
    parameters = [event.get("params", {}) for event in json.loads((folder / "net.json").read_text())["events"]]
    return {
        each["url"]
        for each in parameters
        if "url" in each and each.get("initiator", "not an origin") != "not an origin"
    }


def test_a_browser_asks_for_nothing_but_the_page(page: Path, tmp_path):
    assert requested(page, tmp_path) == set()
    linking = tmp_path / "linking.html"
    linking.write_text('<img src="http://127.0.0.1:9/x.png">')
    assert requested(linking, tmp_path) == {"http://127.0.0.1:9/x.png"}
