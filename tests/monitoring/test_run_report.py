"""The page of a run: correct numbers from any number of rows, and hostile text is escaped."""

import dataclasses
import math
import re
from collections import Counter
from functools import reduce
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from raft_spark import config
from raft_spark.cli.main import main
from raft_spark.errors import InputError
from raft_spark.lake import schemas, tables
from raft_spark.monitoring import run_charts, run_report, run_state, run_stats
from raft_spark.monitoring.run_state import Point, Run
from raft_spark.monitoring.run_stats import CompletionRow, RunStats
from support.run_rows import (
    FAILED_ROW,
    HOSTILE,
    ROW,
    RUN_ID,
    SPARK,
    batch,
    lake_with,
    made_up_run,
    stats_of,
    stored_rows,
)

# Statistics of rows

amounts = st.none() | st.integers(0, 2**31 - 1)
ends = st.sampled_from([("text", None), ("x" * 200, None), (None, "timeout"), (None, "filtered"), (None, None)])
stored = st.builds(
    lambda pubid, end, amount: {
        "pubid": pubid,
        "completion": end[0],
        "error_class": end[1],
        "error": None if pubid % 3 else f"error {pubid}",
        "attempts": 1 + pubid % 4,
        "prompt_tokens": amount,
        "completion_tokens": amount and amount // 2,
        "latency_ms": None if pubid % 5 else amount,
    },
    st.integers(0, 20),
    ends,
    amounts,
)


@given(st.lists(st.lists(stored, max_size=25), max_size=3))
def test_the_statistics_of_batches_are_those_of_all_their_rows(parts: list[list[dict[str, object]]]):
    found = reduce(run_stats.add_batch, (batch(*rows) for rows in parts), RunStats())
    rows = [row for part in parts for row in part]
    answered = [row for row in rows if row["completion"] is not None]
    failed = [row for row in rows if row["completion"] is None and row["error_class"]]
    assert found.rows == len(rows)
    assert found.attempts == Counter(row["attempts"] for row in rows)
    assert found.errors == Counter(row["error_class"] for row in failed)
    assert found.examples == {row["error_class"]: row["error"] or "" for row in reversed(failed)}
    for histogram, column in (
        (found.latencies, "latency_ms"),
        (found.prompt_tokens, "prompt_tokens"),
        (found.completion_tokens, "completion_tokens"),
    ):
        assert histogram.total() == sum(row[column] is not None for row in answered)
    assert [row.latency_ms for row in found.slowest] == most(rows, "latency_ms")
    assert [row.completion_tokens for row in found.longest] == most(answered, "completion_tokens")


def most(rows: list[dict[str, object]], column: str) -> list[int]:
    return sorted((row[column] for row in rows if row[column] is not None), reverse=True)[:10]


@given(st.lists(st.integers(1, 2**31 - 1), min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_percentile_is_right_to_little_more_than_one_percent(values: list[int], share: float):
    histogram = stats_of(*({**ROW, "latency_ms": value} for value in values)).latencies
    exact = sorted(values)[math.ceil(share * len(values)) - 1]
    assert abs(run_stats.percentile(histogram, share) - exact) <= 0.012 * exact + 0.5


def test_bars_have_every_value_once_and_between_their_edges():
    histogram = stats_of(*({**ROW, "latency_ms": value} for value in (0, 1, 100, 100, 105, 999, 1000))).latencies
    edges, counts = run_stats.widen_bins(histogram, 100)
    assert edges == pytest.approx([1, 10, 100, 1000, 10_000])
    assert counts == [2, 0, 4, 1]


def test_a_row_of_the_page_has_the_start_of_its_text_and_its_finish_reason():
    long = {**ROW, "pubid": 5, "completion": "x" * 121, "latency_ms": 9}
    failed = {
        **FAILED_ROW,
        "pubid": 6,
        "error_class": "timeout",
        "error": "no answer within 60 s",
        "latency_ms": 60_000,
    }
    assert stats_of(long, failed).slowest == (
        CompletionRow(6, 60_000, None, 1, "timeout", failed=True, text="no answer within 60 s"),
        CompletionRow(5, 9, 60, 1, "stop", failed=False, text="x" * 120 + " …"),
    )


def test_only_rows_of_the_run_count_whatever_their_file_is_named(tmp_path):
    other = {**ROW, "run_id": "another"}
    lake = lake_with(tmp_path, made_up_run(), [ROW, other, FAILED_ROW], [other], [ROW])
    assert reduce(run_stats.add_batch, run_stats.read_batches(lake, RUN_ID), RunStats()).rows == 3


# Numbers


def test_the_speed_is_that_between_two_points():
    points = [Point(at, done, 0, 0, 0, 0, 0, 0) for at, done in ((2.0, 10), (2.0, 12), (4.0, 12), (8.0, 40))]
    assert run_charts.rates(points) == ([0.0, 2.0, 4.0, 8.0], [5.0, 1.0, 7.0])


def test_key_numbers_of_a_run():
    run = Run(
        id=RUN_ID,
        endpoint="e",
        model="m",
        started_at="2026-11-22T10:00:00+00:00",
        updated_at="2026-11-22T11:02:00.5+00:00",
        total=2000,
        known=7,
        answered=1860,
        failed={"timeout": 100, "filtered": 40},
        calls=2790,
        throttled=279,
        prompt_tokens=744_000,
        completion_tokens=111_600,
        dollars=3.72,
        tasks=4,
    )
    assert [(number.label, number.value, number.note) for number in run_report.key_numbers(run, RunStats())] == [
        ("answered", "1,860", "of 2,000 requests"),
        ("left", "140", "without an answer"),
        ("failed", "140", "7 % of requests"),
        ("cut", "0", ""),
        ("rejected", "\N{EN DASH}", "no dataset of this run yet"),
        ("known before", "7", "not asked again"),
        ("calls", "2,790", "1.50 per answer"),
        ("throttled", "279", "10 % of calls"),
        ("tokens in", "744,000", "400 per answer"),
        ("tokens out", "111,600", "60.0 per answer"),
        ("dollars", "$3.72", "$2.00 per 1,000 answers"),
        ("answers per second", "0.500", "0.750 calls per second"),
        ("tokens per second", "230", "in and out"),
        ("duration", "1 h 02 min", "on 4 tasks"),
    ]


def numbers(**fields: Any) -> dict[str, tuple[str, str]]:
    run = Run("r", "e", "m", "2026-11-22T10:00:00+00:00", "2026-11-22T11:00:00+00:00", total=10, answered=10, **fields)
    return {each.label: (each.value, each.note) for each in run_report.key_numbers(run, RunStats())}


def test_tokens_that_the_server_did_not_count_are_never_zero():
    silent = numbers(prompts_not_counted=10, completions_not_counted=10, possible_dollars=1.5)
    assert silent["tokens in"] == silent["tokens out"] == ("not counted", "not counted for 10 answers")
    assert silent["possibly billed"] == ("up to $1.50", "10 answers without token counts")
    partly = numbers(prompt_tokens=1_200, prompts_not_counted=3, completion_tokens=100, possible_dollars=0.5)
    assert partly["tokens in"] == ("1,200", "not counted for 3 answers")
    assert partly["tokens out"] == ("100", "10.0 per answer")


def test_failed_calls_that_may_have_been_billed_stand_beside_the_certain_dollars():
    found = numbers(dollars=2.0, possible_dollars=0.5, possibly_billed=5)
    assert found["dollars"] == ("$2.00", "$200 per 1,000 answers")
    assert found["possibly billed"] == ("up to $0.50", "5 failed calls")
    assert numbers(possibly_billed=5)["possibly billed"] == ("\N{EN DASH}", "5 failed calls")  # without a price
    assert "possibly billed" not in numbers(dollars=2.0)


DATASET = {"rows": 8, "kept": {"train": 5}, "rejected": {"truncated": 2, "language": 1}}


def went_wrong(page: str) -> str:
    """Return the words of the section, without markup."""
    section = page.partition("<h2>What went wrong</h2>")[2].partition("</section>")[0]
    return " ".join(re.sub(r"<[^>]+>", " ", section).split())


def test_cut_answers_and_rejected_rows_are_numbers_of_the_page():
    rows = stats_of(*[{**ROW, "finish_reason": "length"}] * 3, *[ROW] * 5, {**FAILED_ROW, "error_class": "timeout"})
    assert (rows.answered, rows.cut) == (8, 3)
    found = {
        number.label: (number.value, number.note) for number in run_report.key_numbers(made_up_run(), rows, DATASET)
    }
    assert found["cut"] == ("3", "38 % of answers")
    assert found["rejected"] == ("3", "38 % of rows")


def test_a_page_never_says_that_nothing_went_wrong_when_answers_were_cut_or_rows_rejected():
    whole, cut = stats_of(ROW), stats_of(ROW, {**ROW, "finish_reason": "length"})
    well = dataclasses.replace(made_up_run(), failed={})
    text = went_wrong(run_report.render(well, cut))
    assert "Nothing" not in text
    assert "1 of 2 answers were cut at completions.max_new_tokens" in text
    text = went_wrong(run_report.render(well, whole, DATASET))
    assert "Nothing" not in text
    assert "truncated 2 66.7 %" in text
    assert "language 1 33.3 %" in text
    assert went_wrong(run_report.render(well, whole)) == (
        "Nothing: no request failed and no answer was cut. "
        "Rejected rows are not known yet: no dataset has been built from this run."
    )
    assert went_wrong(run_report.render(well, whole, {**DATASET, "rejected": {}})) == (
        "Nothing: no request failed, no answer was cut and the dataset rejected no row."
    )


def test_a_page_knows_the_rejected_rows_of_the_dataset_built_from_its_run(tmp_path):
    lake = lake_with(tmp_path, made_up_run(), [ROW])
    settled = config.load(assignments=[f"lake.root={lake.root}"])
    for inputs, expected in (({"completions": "another"}, "not known yet"), ({"completions": RUN_ID}, "truncated")):
        draft = tables.open_draft(lake, schemas.DATASET, f"made of {inputs}")
        tables.publish(draft, settled, [], {name: SimpleNamespace(id=of) for name, of in inputs.items()}, DATASET)
        assert expected in went_wrong(Path(run_report.write(lake)).read_text())


@pytest.mark.parametrize("ends", [85.0, 780.0])
def test_an_axis_over_time_is_as_long_as_the_run(ends: float):
    """A run of 13 minutes whose last point is at second 85, as after a long wait for batch jobs."""
    series = (Point(5.0, 3, 0, 3, 0, 60, 1, 1), Point(ends, 9, 0, 9, 0, 180, 1, 1))
    updated = "2026-11-22T10:28:00+00:00"
    page = run_report.render(dataclasses.replace(made_up_run(), updated_at=updated, series=series), stats_of(ROW))
    assert "minutes since the run began" in page
    assert ">12<" in page.partition("Throughput")[2].partition("</svg>")[0]


def test_every_table_has_a_caption_and_its_headers_say_what_they_head():
    page = run_report.render(made_up_run(), stats_of(*stored_rows(200)), DATASET)
    assert page.count("<table") == page.count("<caption>") == 6
    assert not re.findall(r"<th(?! scope=)[ >]", page)
    assert not re.findall(r"<th[^>]*></th>", page)


def test_spark_measurements_have_readable_units():
    assert [(number.label, number.value) for number in run_report.spark_numbers(SPARK)] == [
        ("tasks ended", "1,208"),
        ("tasks failed", "3"),
        ("executors", "9"),
        ("executors lost", "1"),
        ("time of all tasks", "3 h 17 min"),
        ("Java's garbage collection", "23.6 s"),
        ("read from shuffles", "92.4 MB"),
        ("written to shuffles", "92.4 MB"),
        ("spilled to disk", "0 B"),
        ("peak memory", "1.3 GB"),
    ]
    assert run_report.spark_numbers({}) == []


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(7.0, "7 ms"), (999.0, "999 ms"), (1234.0, "1.23 s"), (119_000.0, "119 s"), (150_000.0, "2.5 min")],
)
def test_a_duration_has_a_readable_unit(milliseconds: float, text: str):
    assert run_charts.format_duration(milliseconds) == text


# The page


def test_a_page_shows_all_parts_of_a_run():
    page = run_report.render(made_up_run(), stats_of(*stored_rows()))
    for expected in (
        "us.meta.llama3-3-70b-instruct-v1:0",
        "stopped early",
        "completions.max_spend = 12.0 dollars is reached",
        "2026-11-22 10:15:00",
        "status 500: the worker died while it decoded",
        "of 60,000 requests",
        "The slowest requests",
        "The longest answers",
        "What Spark did",
        "executors lost",
    ):
        assert expected in page
    assert page.count("<svg") == page.count("</svg>") == 4
    assert "p95" in page  # text in a chart is text


def test_the_same_run_makes_the_same_page():
    run, rows = made_up_run(), stats_of(*stored_rows(200))
    assert run_report.render(run, rows) == run_report.render(run, rows)


def test_no_two_charts_share_an_id():
    ids = re.findall(r'\bid="([^"]+)"', run_report.render(made_up_run(), stats_of(*stored_rows(200))))
    assert len(ids) == len(set(ids)) > 8


def test_the_page_of_a_run_that_did_nothing_says_so():
    at = "2026-11-22T10:15:00+00:00"
    page = run_report.render(Run(RUN_ID, "fake", "fake", at, at, total=0), RunStats())
    assert "<svg" not in page
    for expected in (
        "still asking",
        "The run stored no measurements over time",
        "no request failed and no answer was cut",
        "No price of the model is configured",
    ):
        assert expected in page
    assert "What Spark did" not in page


@pytest.mark.parametrize(
    "series",
    [
        (Point(0.0, 0, 0, 0, 0, 0, 0, 0),),
        (Point(0.5, 0, 0, 0, 0, 0, 0, 0),),
        (Point(3.0, 1, 0, 1, 0, 60, 1, 1),),
        (Point(5.0, 0, 3, 9, 9, 0, 4, 1), Point(400_000.0, 10**9, 0, 10**9, 9, 10**12, 0, 10**6)),
    ],
)
@pytest.mark.parametrize("amount", [0, 1, 2**31 - 1])
def test_a_page_can_show_very_small_and_very_large_numbers(series: tuple[Point, ...], amount: int):
    run = dataclasses.replace(made_up_run(), series=series, dollars=1e-9 * (amount + 1))
    row = {**ROW, "latency_ms": amount, "prompt_tokens": amount, "completion_tokens": amount}
    page = run_report.render(run, stats_of(row))
    assert page.count("<svg") == 2 + (series[-1].seconds > 0) + (series[-1].tokens > 0)


@pytest.mark.parametrize("column", ["completion", "finish_reason", "error", "error_class"])
def test_text_of_a_row_stays_text(column: str):
    row = {**(FAILED_ROW if column.startswith("error") else ROW), "error_class": "timeout", column: HOSTILE}
    page = run_report.render(made_up_run(), stats_of(row))
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;/td&gt;&lt;/table&gt;&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "{{ 7 * 7 }}" in page


def test_text_of_the_run_stays_text_too():
    run = dataclasses.replace(made_up_run(), reason=HOSTILE, model=HOSTILE, endpoint=HOSTILE, failed={HOSTILE: 1})
    page = run_report.render(run, RunStats())
    assert "<script" not in page
    assert "<img" not in page


# The verb


def call(tmp_path: Path, *words: str) -> tuple[int, str]:
    root = f"lake.root={tmp_path / 'lake'}"
    done = CliRunner().invoke(main, ["report", "--set", root, *words], env={"COLUMNS": "300"})
    return done.exit_code, done.output


def test_the_verb_writes_the_page_of_the_last_run_and_prints_where(tmp_path):
    lake = lake_with(tmp_path, made_up_run(), stored_rows(100))
    run_state.write(lake, dataclasses.replace(made_up_run(), id="20250101T000000Z-old", model="an-older-model"))
    expected = tmp_path / f"lake/completions/runs/{RUN_ID}.html"
    assert call(tmp_path) == (0, f"{expected}\n")
    assert "its stored rows, 100 in all" in expected.read_text()
    assert call(tmp_path) == (0, f"{expected}\n")  # a page is no run
    status, printed = call(tmp_path, "--run", "20250101T000000Z-old")
    assert status == 0
    assert "an-older-model" in Path(printed.strip()).read_text()


def test_where_there_is_no_run_the_verb_says_so(tmp_path):
    status, printed = call(tmp_path)
    assert status == 3
    assert "no run of completions; `raft-spark completions` starts one" in printed.replace("\n", "")
    lake_with(tmp_path, made_up_run())
    status, printed = call(tmp_path, "--run", "nope")
    assert (status, "has no run 'nope'" in printed) == (3, True)


def test_a_file_that_is_no_parquet_is_one_sentence(tmp_path):
    lake = lake_with(tmp_path, made_up_run(), [ROW])
    (tmp_path / "lake/completions/data/day=2026-11-22/bad.parquet").write_bytes(b"no such thing")
    with pytest.raises(InputError, match=r"completions/data cannot be read: .*bad\.parquet"):
        run_report.write(lake)
