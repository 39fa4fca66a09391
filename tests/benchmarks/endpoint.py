"""Compare how completions uses a slow endpoint with bare clients (boto3, asyncio) and a peer, in turns on one machine.

    python tests/benchmarks/endpoint.py [--parts throughput capacity cpu memory peer] [--seconds 60] [--rows 1000000]

The fake endpoint runs in another process; 1 % of its answers take 5 s. Print one line of JSON and store it, part by part,
in build/bench/endpoint.json. With --seconds 60: throughput 20 minutes, capacity 3, cpu 3, memory 35 for a
million rows, peer 20 (it starts ten a second of what was throttled). The peer needs its own environment:
--peer PYTHON, which `make bench-peer` creates.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
os.environ |= {"AWS_ACCESS_KEY_ID": "fake", "AWS_SECRET_ACCESS_KEY": "fake", "AWS_EC2_METADATA_DISABLED": "true"}

import numpy as np
import watch as processes
from workload import (
    SPARE,
    WARM,
    Fake,
    alone,
    bare,
    bare_asyncio,
    mean_seconds,
    peer,
    rows_for,
    settled,
    stage,
    windowed,
)

from raft_spark import config, endpoints
from raft_spark.lake import session

PROMISED = {
    "times_the_bare": 0.95,  # at least: answers a second beside the bare generator's
    "capacity_used": 0.90,  # at least: answers a second beside what the endpoint can give
    "throttled_share": 0.03,  # at most: calls turned away, after the first seconds
    "more_cpu_ms": 1.0,  # at most: CPU a call beyond the bare generator's
    "grown_mb": 20.0,  # at most: a process that asks, over the last half of its answers
}
LATENCIES, IN_FLIGHT = (200, 700), (32, 64, 128)  # ms; calls
CAPACITY, OVER = 50, 64  # calls that the endpoint takes, and that are asked of it
CALLS = 4_000  # of a round that measures CPU
LOOK_EVERY = 2.0  # seconds
LONGEST = 1_200  # seconds: of the peer's run
Result = dict[str, Any]


def main() -> None:
    """Measure, print, keep."""
    parts: dict[str, Callable[[Fake, Path, argparse.Namespace], Result]] = {
        "throughput": throughput,
        "capacity": capacity,
        "cpu": cpu,
        "memory": memory,
        "peer": compare_peer,
    }
    options = chosen(list(parts))
    kept = Path("build/bench/endpoint.json")
    kept.parent.mkdir(parents=True, exist_ok=True)
    result: Result = json.loads(kept.read_text()) if kept.exists() else {}
    with (
        tempfile.TemporaryDirectory(prefix="raft-bench-") as folder,
        endpoints.serving(config.load().endpoints["fake"]) as endpoint,
    ):
        for part in options.parts:
            result[part] = {
                "seconds_of_a_window": options.seconds,
                **parts[part](Fake(endpoint.url), Path(folder), options),
            }
            kept.write_text(json.dumps({**result, "promised": PROMISED}, indent=1))
        session.stop()
    sys.stdout.write(json.dumps({part: result[part] for part in options.parts}) + "\n")
    if broken := [f"{part}: {what}" for part in options.parts for what in result[part].get("broken", ())]:
        sys.exit(f"not as promised: {'; '.join(broken)}")


def chosen(parts: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", nargs="+", choices=parts)
    parser.add_argument("--seconds", type=int, default=60, help="of each window")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the part memory")
    parser.add_argument("--rounds", type=int, default=3, help="of the part cpu")
    parser.add_argument("--latency", type=int, nargs="+", default=LATENCIES, help="ms, of the part throughput")
    parser.add_argument("--in-flight", type=int, nargs="+", default=IN_FLIGHT, help="calls, of the part throughput")
    parser.add_argument("--peer", default="", metavar="PYTHON", help="of the peer's environment")
    options = parser.parse_args()
    options.parts = options.parts or [part for part in parts if part != "peer" or options.peer]
    if "peer" in options.parts and not options.peer:
        parser.error("the part peer wants --peer PYTHON")
    return options


def throughput(fake: Fake, folder: Path, options: argparse.Namespace) -> Result:
    """Measure answers a second of the bare clients and of the stage, for each latency and calls in flight, in turns."""
    most = rows_for(min(options.latency), max(options.in_flight), options.seconds)
    found = []
    for latency in options.latency:
        for in_flight in options.in_flight:
            conf = settled(fake, folder, most, in_flight=in_flight, max_minutes=minutes(options.seconds))
            floors = {}
            for name, client in {"bare": bare, "asyncio": bare_asyncio}.items():
                fake.behave(latency)
                alone(client, conf, most, WARM + options.seconds + SPARE / 2)
                floors[name] = fake.steady(options.seconds)["answers_per_second"]
            fake.behave(latency)
            failed = stage(conf)["failed"]
            own = fake.steady(options.seconds)["answers_per_second"]
            ideal = round(in_flight / mean_seconds(latency), 1)
            one = {"latency_ms": latency, "in_flight": in_flight, "ideal": ideal, **floors, "stage": own}
            found.append({**one, "failed": failed, "times_the_bare": round(own / floors["bare"], 3)})
    least = min(one["times_the_bare"] for one in found)
    return {"runs": found, **broken(times_the_bare=least >= PROMISED["times_the_bare"])}


def capacity(fake: Fake, folder: Path, options: argparse.Namespace) -> Result:
    """Ask more at once than the endpoint takes, until all is answered: a run that is stopped has requests that wait to be asked again."""
    latency = min(options.latency)
    conf = settled(fake, folder, rows_for(latency, CAPACITY, options.seconds), in_flight=OVER)
    fake.behave(latency, CAPACITY)
    failed = stage(conf)["failed"]
    steady = fake.steady(options.seconds)
    used = round(steady["answers_per_second"] * mean_seconds(latency) / CAPACITY, 3)
    kept = broken(
        capacity_used=used >= PROMISED["capacity_used"],
        throttled_share=steady["throttled_share"] < PROMISED["throttled_share"],
        failed_rows=not failed,
    )
    return {"latency_ms": latency, "capacity": CAPACITY, **steady, "capacity_used": used, "failed": failed, **kept}


def cpu(fake: Fake, folder: Path, options: argparse.Namespace) -> Result:
    """Measure CPU a call, in ms, in processes of their own; medians over rounds in turns."""
    conf = settled(fake, folder, CALLS * 5 // 4, in_flight=min(options.in_flight))
    rounds = []
    for _ in range(options.rounds):
        one = {}
        for name, client in {"bare": bare, "asyncio": bare_asyncio}.items():
            fake.behave(min(options.latency), tail_share=0)
            one[name] = alone(client, conf, CALLS, float("inf")) / CALLS * 1000
        fake.behave(min(options.latency), tail_share=0)
        rounds.append({**one, "window": alone(windowed, conf, CALLS) / CALLS * 1000})
    middle = {name: round(statistics.median(one[name] for one in rounds), 3) for name in rounds[0]}
    more = round(middle["window"] - middle["bare"], 3)
    return {
        "ms_a_call": middle,
        "more_ms": more,
        "rounds": rounds,
        **broken(more_cpu_ms=more <= PROMISED["more_cpu_ms"]),
    }


def memory(fake: Fake, folder: Path, options: argparse.Namespace) -> Result:
    """Watch RssAnon, in MB, of the driver, the largest Python worker and the JVM, while an endpoint that does not wait answers."""
    conf = settled(fake, folder, options.rows, in_flight=min(options.in_flight))
    fake.behave(0, tail_share=0)
    samples: list[dict[str, float]] = []
    over = threading.Event()
    watcher = threading.Thread(target=watch, args=(fake, samples, over), daemon=True)
    watcher.start()
    counts = stage(conf)
    over.set()
    watcher.join()
    half = [one for one in samples if one["answers"] >= samples[-1]["answers"] / 2]
    answers = [one["answers"] for one in half]
    kinds = ("driver", "worker", "jvm")
    slopes = {kind: float(np.polyfit(answers, [one[kind] for one in half], 1)[0]) for kind in kinds}
    grown = {kind: round(slope * (answers[-1] - answers[0]), 1) for kind, slope in slopes.items()}
    return {
        "rows": options.rows,
        "failed": counts["failed"],
        "peak_mb": {kind: round(max(one[kind] for one in samples)) for kind in kinds},
        "grown_mb_in_the_last_half": grown,
        "mb_each_100000_answers": {kind: round(slope * 100_000, 2) for kind, slope in slopes.items()},
        "samples": samples[:: max(1, len(samples) // 60)],
        **broken(grown_mb=max(grown["driver"], grown["worker"]) <= PROMISED["grown_mb"]),
    }


def watch(fake: Fake, samples: list[dict[str, float]], over: threading.Event) -> None:
    """Take a sample every few seconds in which answers went out."""
    before = 0
    while not over.wait(LOOK_EVERY):
        answers = sum(answered for _, answered, _ in fake.seconds())
        if answers > before:
            now = {"driver": 0.0, "worker": 0.0, "jvm": 0.0}
            for kind, process in processes.family():
                now[kind] = max(now[kind], round(processes.private_mb(process), 1))
            samples.append({"answers": answers, **now})
        before = answers


def compare_peer(fake: Fake, folder: Path, options: argparse.Namespace) -> Result:
    """Let the stage and the peer ask the same rows, as many at once, over OpenAI's protocol, of an endpoint with and without
    room for all.
    """
    latency = min(options.latency)
    rows = rows_for(latency, OVER, options.seconds)
    conf = settled(fake, folder, rows, "openai", in_flight=OVER)
    found: Result = {"latency_ms": latency, "in_flight": OVER, "rows": rows}
    for name, room in {"with_room": 0, "capacity_50": CAPACITY}.items():
        fake.behave(latency, room)
        own = stage(conf)["failed"]
        found[f"stage_{name}"] = {"failed": own, **whole(fake, options.seconds)}
        fake.behave(latency, room)
        other = peer(options.peer, conf, folder, LONGEST)
        found[f"peer_{name}"] = {**other, **whole(fake, options.seconds)}
    return found


def whole(fake: Fake, seconds: int) -> Result:
    """Return the steady window, and the whole run from the first answer to the last."""
    calls = fake.calls()
    return {
        **fake.steady(seconds),
        "seconds": len(fake.seconds()),
        "calls": calls["calls"],
        "answered": calls["answered"],
        "throttled_share_of_all": round(calls["throttled"] / calls["calls"], 4),
    }


def minutes(seconds: int) -> float:
    """Return completions.max_minutes for a run that ends after the window."""
    return (WARM + seconds + SPARE) / 60


def broken(**promises: bool) -> dict[str, list[str]]:
    """Name what was promised and is not so."""
    return {"broken": [name for name, is_kept in promises.items() if not is_kept]}


if __name__ == "__main__":
    main()
