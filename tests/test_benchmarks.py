"""The benchmarks: what counts as CPU seconds, and the chart of the stages."""

import subprocess
import sys

import pytest

from benchmarks import experiment_chart, growth, watch

pytestmark = pytest.mark.row


def test_the_chart_has_each_stage_and_the_colours_of_both_themes():
    sizes = [
        {
            "articles": rows,
            "stages": {name: {"cpu": {"driver": 1.0, "jvm": rows / 100}} for name in ("base", "dataset")},
        }
        for rows in (100, 1000)
    ]
    assert growth.points(sizes, "base") == ([100, 1000], [2.0, 11.0])
    drawn = growth.chart(sizes)
    assert drawn.count("<svg") == 1
    for words in (">base<", ">dataset<", "1,000", "prefers-color-scheme: dark", "var(--first)"):
        assert words in drawn
    assert drawn == growth.chart(sizes)


def test_the_chart_of_the_experiment_has_a_point_with_its_interval_for_each_student_and_setting():
    points = {
        name: [{"value": value, "low": value - 0.1, "high": value + 0.1} for value in (0.3, 0.5)]
        for name in ("base", "raft")
    }
    drawn = experiment_chart.chart("ROUGE-L", ["alone", "k = 3"], points)
    for words in (">base<", ">raft<", ">alone<", ">k = 3<", ">ROUGE-L<", "var(--muted)", "var(--first)"):
        assert words in drawn
    assert drawn.count("<use") >= 4  # markers


# as Spark's daemon does: a worker that ends is not waited for
DAEMON = """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
ended, open_in_worker = os.pipe()
if not os.fork():
    while time.process_time() < 0.8:
        pass
    time.sleep(3)
    os._exit(0)
os.close(open_in_worker)
os.read(ended, 1)
time.sleep(1)
"""


def test_the_cpu_seconds_of_a_worker_that_has_ended_count():
    usage = watch.watched(lambda: subprocess.run([sys.executable, "-c", DAEMON, "pyspark.daemon"], check=True))
    assert usage.cpu["worker"] >= 0.6
    assert usage.cpu["jvm"] == 0
