"""Watch a call: the CPU seconds and the peak of private memory of the driver, of the JVMs and of the Python workers below it."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

LOOK_EVERY = 0.2  # seconds
KINDS = ("driver", "jvm", "worker")


@dataclass
class Usage:
    """What a call took: its seconds, CPU seconds by kind of process, and the peak in MB of the largest process of a kind.

    Pages of mapped files are not counted: processes share them, and the system can drop them.
    """

    seconds: float = 0.0
    cpu: dict[str, float] = field(default_factory=dict)
    peak_mb: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))


def watched(work: Callable[[], object]) -> Usage:
    """Call `work` and return what it took.

    Spark ends workers that are idle for a minute, and its daemon does not add up their CPU seconds. So what each process had
    when it was last seen counts.
    """
    usage, over, before = Usage(), threading.Event(), seen(Usage())
    last = dict(before)

    def keep_looking() -> None:
        while not over.wait(LOOK_EVERY):
            last.update(seen(usage))

    watcher, begin = threading.Thread(target=keep_looking, daemon=True), time.monotonic()
    watcher.start()
    try:
        work()
    finally:
        over.set()
        watcher.join()
    usage.seconds = round(time.monotonic() - begin, 2)
    last.update(seen(usage))
    spent = Counter(dict.fromkeys(KINDS, 0.0))
    for process, seconds in last.items():
        spent[process[0]] += seconds - before.get(process, 0.0)
    usage.cpu = {kind: round(seconds, 2) for kind, seconds in spent.items()}
    return usage


def seen(usage: Usage) -> dict[tuple[str, int], float]:
    """Return the CPU seconds so far of each process that runs, by (kind, process id), and raise the peaks of `usage`."""
    seconds = {}
    for kind, process in family():
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            seconds[kind, process.pid] = times.user + times.system
            usage.peak_mb[kind] = max(usage.peak_mb[kind], round(private_mb(process)))
    return seconds


def private_mb(process: psutil.Process) -> float:
    """Return the MB that a process holds for itself, 0 for one that is gone."""
    try:
        memory = process.memory_info()
    except psutil.NoSuchProcess:
        return 0.0
    return (memory.rss - memory.shared) / 1e6


def family() -> Iterator[tuple[str, psutil.Process]]:
    """Yield this process, and the JVMs (a cluster has one for each executor) and the Python workers below it, with their kinds."""
    yield "driver", psutil.Process()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            words = " ".join(process.cmdline())
            if "pyspark.daemon" in words or "SparkSubmit" in words or "CoarseGrainedExecutorBackend" in words:
                yield ("worker" if "pyspark.daemon" in words else "jvm"), process
