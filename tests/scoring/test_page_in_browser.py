"""The page of an evaluation in a real browser."""

from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from raft_spark.scoring import examples, page
from support.browser import browse, complaints
from support.scored_rows import PASSAGES, scored_rows, summary_of


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "evaluation.html"
    evaluation = summary_of(list(scored_rows()))
    path.write_text(page.render(evaluation, dict.fromkeys(examples.choose_articles(evaluation), PASSAGES)))
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_charts_and_marked_quotes_and_complains_of_nothing(
    page_file: Path, tmp_path: Path, scheme: str
):
    paper, students = {
        "light": ((245, 243, 238), [(180, 83, 9), (0, 114, 178)]),
        "dark": ((18, 22, 27), [(240, 166, 58), (86, 180, 233)]),
    }[scheme]
    assert complaints(page_file, tmp_path) == []
    flag = f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}"
    browse(page_file, tmp_path, flag, "--window-size=1280,6000", f"--screenshot={tmp_path / 'seen.png'}")
    with Image.open(tmp_path / "seen.png") as image:
        colours = Counter(image.convert("RGB").get_flattened_data())
    assert colours[paper] > 100_000
    assert all(colours[student] > 1000 for student in students)
    seen = browse(page_file, tmp_path, "--dump-dom").stdout
    assert seen.count("<svg") == 7
    assert {seen.count(f'<mark class="{where}">') > 1 for where in ("oracle", "distractor", "nowhere")} == {True}
