"""Measure the stages on several numbers of cores, fit the model of cost to local[1], and write the tables of docs/scale.md.

    python tests/benchmarks/scale.py [--measure] [--articles 20000 211269] [--masters local[1] ...]

With --measure, each number of articles runs on each master in a process of its own (see stages.py), and replaces what
build/bench/scale.json has of the two. local-cluster[N,1,1024] is a standalone cluster of N executors with one core each.
Every call rewrites the tables between the marks in docs/scale.md from that file, those of peers.py and
parquet_encodings.py, and the chart docs/scale.svg.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import growth
import scale_model
from watch import KINDS

import stages
from raft_spark import config
from raft_spark.config.models import Emr
from raft_spark.emr import worker_sizes

KEPT, PAGE = Path("build/bench/scale.json"), Path("docs/scale.md")
ONE, TWO = "local[1]", "local[2]"
TARGETS = (211_269, 10_000_000, 36_000_000)  # articles: PubMedQA, and all of PubMed
TARGET_SECONDS = 3600
RATES = (50, 500)  # answers a second
TOKENS, PRICES = (320, 120), (0.06, 0.24)  # of a request and its answer; dollars per million of amazon.nova-lite-v1:0
CHART = "![CPU seconds of each stage by the number of articles, on logarithmic scales](scale.svg)"
HEAP_GB, SPARE_GB = 4, 10
CORES = {ONE: 1, TWO: 2, "local-cluster[1,1,1024]": 1, "local-cluster[2,1,1024]": 2}
Figures = dict[str, Any]


def main() -> None:
    """Measure if asked to, and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--articles", type=int, nargs="+", default=[20_000, 211_269])
    parser.add_argument("--masters", nargs="+", default=[*CORES])
    options = parser.parse_args()
    for count in options.articles if options.measure else ():
        for master in options.masters:
            add({"master": master, **stages.measured_alone(count, [f'spark."spark.master"="{master}"'])})
    runs = kept_runs()
    if len({run["articles"] for run in of(runs, ONE)}) < 2:
        sys.exit(f"two numbers of articles must have run on {ONE}")
    write(PAGE, sorted(runs, key=lambda run: (run["articles"], [*CORES].index(run["master"]))))


def kept_runs() -> list[Figures]:
    """Return the runs that were measured."""
    return json.loads(KEPT.read_text()) if KEPT.exists() else []


def add(run: Figures) -> None:
    """Keep a run in place of an earlier one of as many articles on the same master."""
    same = ("articles", "master")
    runs = [each for each in kept_runs() if any(each[key] != run[key] for key in same)]
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    KEPT.write_text(json.dumps([*runs, {**run, "load": round(os.getloadavg()[0], 1)}], indent=1))


def write(page: Path, runs: Sequence[Figures]) -> None:
    """Rewrite the tables of the page, and the chart beside it."""
    costs = fitted(runs)
    parts: dict[str, Iterable[str]] = {
        "costs": [*costs_table(runs, costs), "", CHART],
        "measured": measured_table(runs, costs),
        "serial": serial_table(runs),
        "emr": emr_table(runs, costs),
    }
    if sizes := [size for size in measured_sizes() if size["articles"] >= stages.STEADY]:
        parts["growth"] = growth_table(sizes)
    for name in ("peers", "encodings", "strategies"):
        if (kept := KEPT.with_name(f"{name}.md")).exists():
            parts[name] = kept.read_text().splitlines()
    text = page.read_text()
    for name, lines in parts.items():
        text = replaced(text, name, "\n".join(lines))
    page.write_text(text)
    page.with_name("scale.svg").write_text(growth.chart(drawn(runs)))


def drawn(runs: Sequence[Figures]) -> list[Figures]:
    """Return the runs on one core, and those of stages.py on two with the same settings, the smallest first."""
    more = (size for size in measured_sizes() if not any("dataset" in setting for setting in size["settings"]))
    found = {run["articles"]: run for run in [*more, *of(runs, ONE)]}
    return [found[count] for count in sorted(found)]


def measured_sizes() -> list[Figures]:
    """Return what stages.py measured last, the smallest size first."""
    other = KEPT.with_name("stages.json")
    return json.loads(other.read_text())["sizes"] if other.exists() else []


def growth_table(sizes: Sequence[Figures]) -> Iterator[str]:
    """Return a line for each size and stage."""
    names = ("articles", "stage", "CPU us an article", "seconds", "peak MB: driver", "JVM", "largest worker")
    yield f"| {' | '.join((*names, 'MB shuffled', 'spilled', 'written'))} |"
    yield "|---" * (len(names) + 3) + "|"
    for size in sizes:
        for name, stage in size["stages"].items():
            cells = [f"{size['articles']:,}", name, f"{stages.cpu_a_row(size, stage):.0f}", f"{stage['seconds']:.0f}"]
            cells += [f"{stage['peak_mb'][kind]:,}" for kind in ("driver", "jvm", "worker")]
            cells += [f"{stage[key]:,.0f}" for key in ("shuffled_mb", "spilled_mb", "written_mb")]
            yield f"| {' | '.join(cells)} |"


def replaced(text: str, name: str, new: str) -> str:
    """Return the text with other lines between the marks of `name`. Raises ValueError without them."""
    begin, end = f"<!-- {name}: scale.py writes this -->\n", f"<!-- end of {name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(name)
    return f"{before}{begin}\n{new}\n\n{end}{after}"


def of(runs: Sequence[Figures], master: str) -> list[Figures]:
    """Return the runs on a master, the smallest first."""
    return [run for run in runs if run["master"] == master]


def fitted(runs: Sequence[Figures]) -> dict[str, scale_model.StageCost]:
    """Return the cost of each stage by its smallest and its largest run on local[1]."""
    small, large = (of(runs, ONE)[at] for at in (0, -1))
    return {
        name: scale_model.StageCost(*grown(small, large, name, cpu_seconds), without_task(large["stages"][name]))
        for name in large["stages"]
    }


def grown(small: Figures, large: Figures, stage: str, amount: Callable[[Figures], float]) -> tuple[float, float]:
    """Return the fixed part of an amount of a stage, and the part for each article."""
    points = [(run["articles"], amount(run["stages"][stage])) for run in (small, large)]
    return scale_model.line(*points)


def cpu_seconds(stage: Figures) -> float:
    """Return the CPU seconds of all processes."""
    return sum(stage["cpu"].values())


def without_task(stage: Figures) -> float:
    """Return the share of a stage's time on one core in which no task ran."""
    return max(0.0, 1 - stage["task_seconds"] / stage["seconds"])


def costs_table(runs: Sequence[Figures], costs: Mapping[str, scale_model.StageCost]) -> Iterator[str]:
    """Yield what an article costs in each stage."""
    small, large = (of(runs, ONE)[at] for at in (0, -1))
    yield (
        "| stage | fixed CPU s | CPU us an article | of the driver | of the JVM | of the workers | no task runs "
        "| bytes written | bytes shuffled |"
    )
    yield "|---" * 9 + "|"
    for name, cost in costs.items():
        kinds = [grown(small, large, name, lambda stage, kind=kind: stage["cpu"][kind])[1] * 1e6 for kind in KINDS]
        sizes = [large["stages"][name][key] * 1e6 / large["articles"] for key in ("written_mb", "shuffled_mb")]
        cells = [f"{cost.fixed:.1f}", f"{cost.a_row * 1e6:.0f}", *(f"{each:.0f}" for each in kinds)]
        yield "| " + " | ".join([name, *cells, f"{cost.serial:.0%}", *(f"{size:,.0f}" for size in sizes)]) + " |"


def measured_table(runs: Sequence[Figures], costs: Mapping[str, scale_model.StageCost]) -> Iterator[str]:
    """Yield prediction beside measurement, of each stage on each master."""
    yield "| articles | master | load | stage | CPU s measured | predicted | seconds measured | predicted |"
    yield "|---" * 8 + "|"
    for run in runs:
        for name, stage in run["stages"].items():
            rows, cost = run["articles"], costs[name]
            numbers = [cpu_seconds(stage), cost.cpu(rows), stage["seconds"], cost.seconds(rows, CORES[run["master"]])]
            cells = [
                f"{rows:,}",
                f"`{run['master']}`",
                f"{run['load']:.1f}",
                name,
                *(f"{each:.1f}" for each in numbers),
            ]
            yield "| " + " | ".join(cells) + " |"


def serial_table(runs: Sequence[Figures]) -> Iterator[str]:
    """Yield the serial share of each stage, by two measures."""
    yield "| articles | stage | no task runs, `local[1]` | by Amdahl, `local[1]` and `local[2]` |"
    yield "|---" * 4 + "|"
    pairs = [(one, two) for one in of(runs, ONE) for two in of(runs, TWO) if one["articles"] == two["articles"]]
    for one, two in pairs:
        for name, stage in one["stages"].items():
            amdahl = scale_model.amdahl(stage["seconds"], two["stages"][name]["seconds"])
            yield f"| {one['articles']:,} | {name} | {without_task(stage):.0%} | {amdahl:.0%} |"


def emr_table(runs: Sequence[Figures], costs: Mapping[str, scale_model.StageCost]) -> Iterator[str]:
    """Yield workers, hours and dollars of a run on EMR Serverless: the stages without a teacher, then the answers."""
    yield (
        "| articles | driver | executors | disk of each | stages, minutes | vCPU-hours | GB-hours | dollars "
        + "".join(f"| answers, hours at {rate}/s | dollars of EMR " for rate in RATES)
        + "| tokens, dollars |"
    )
    yield "|---" * (9 + 2 * len(RATES)) + "|"
    for rows in TARGETS:
        emr = workers(runs, costs, rows)
        seconds = sum(cost.seconds(rows, emr.vcpus - emr.driver_cores) for cost in costs.values())
        vcpu_hours, gb_hours, dollars = scale_model.emr_bill(emr, seconds)
        shape = f"{emr.driver_cores} vCPU, {emr.driver_memory_gb} GB"
        each = f"{emr.max_executors} of {emr.executor_cores} vCPU, {emr.executor_memory_gb} GB"
        cells = [f"{rows:,}", shape, each, f"{emr.disk_gb} GB", f"{seconds / 60:.1f}", f"{vcpu_hours:,.1f}"]
        cells += [f"{gb_hours:,.0f}", f"{dollars:,.2f}"]
        asking = emr.model_copy(update={"max_executors": 1})
        for rate in RATES:
            cells += [f"{rows / rate / 3600:,.1f}", f"{scale_model.emr_bill(asking, rows / rate)[2]:,.2f}"]
        tokens = sum(count * price for count, price in zip(TOKENS, PRICES, strict=True))
        yield "| " + " | ".join([*cells, f"{rows * tokens / 1e6:,.0f}"]) + " |"


def workers(runs: Sequence[Figures], costs: Mapping[str, scale_model.StageCost], rows: int) -> Emr:
    """Return the workers for so many articles, with the prices and the other settings of conf/emr.toml."""
    small, large = (of(runs, ONE)[at] for at in (0, -1))
    emr = config.load(["conf/emr.toml"]).emr
    count = scale_model.executors(costs.values(), rows, emr.executor_cores, TARGET_SECONDS)
    scratch = sum(large["stages"][name]["shuffled_mb"] for name in costs) / large["articles"] * rows / count
    texts = large["texts_mb"] / large["articles"] * rows
    peaks = [grown(small, large, name, lambda stage: stage["peak_mb"]["driver"]) for name in costs]
    python_mb = max(fixed + a_row * rows for fixed, a_row in peaks)
    sizes = {
        "max_executors": count,
        "driver_memory_gb": scale_model.smallest(worker_sizes.MEMORY_GB[emr.driver_cores], HEAP_GB + python_mb / 1000),
        "disk_gb": scale_model.smallest(range(20, 201, 10), (scratch + texts) / 1000 + SPARE_GB),
    }
    return emr.model_copy(update=sizes)


if __name__ == "__main__":
    main()
