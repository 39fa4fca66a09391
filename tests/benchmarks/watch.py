"""Watch a call: the CPU seconds and the peak of private memory of the driver, of the JVM and of the Python workers below it."""

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

    def see(self) -> None:
        """Raise the peaks to what the processes hold now."""
        for kind, process in family():
            self.peak_mb[kind] = max(self.peak_mb[kind], round(private_mb(process)))


def watched(work: Callable[[], object]) -> Usage:
    """Call `work` and return what it took."""
    usage, over = Usage(), threading.Event()

    def look() -> None:
        while not over.wait(LOOK_EVERY):
            usage.see()

    watcher = threading.Thread(target=look, daemon=True)
    before, begin = cpu_seconds(), time.monotonic()
    watcher.start()
    try:
        work()
    finally:
        over.set()
        watcher.join()
    after = cpu_seconds()
    usage.seconds = round(time.monotonic() - begin, 2)
    usage.cpu = {kind: round(after[kind] - before[kind], 2) for kind in KINDS}
    return usage


def private_mb(process: psutil.Process) -> float:
    """Return the MB that a process holds for itself, 0 for one that is gone."""
    try:
        memory = process.memory_info()
    except psutil.NoSuchProcess:
        return 0.0
    return (memory.rss - memory.shared) / 1e6


def cpu_seconds() -> Counter[str]:
    """Return the CPU seconds of all processes so far by kind, workers that have ended included."""
    seconds: Counter[str] = Counter()
    for kind, process in family():
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            ended = times.children_user + times.children_system if kind == "worker" else 0
            seconds[kind] += times.user + times.system + ended
    return seconds


def family() -> Iterator[tuple[str, psutil.Process]]:
    """Yield this process, and the JVM and the Python workers below it, with their kinds."""
    yield "driver", psutil.Process()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            words = " ".join(process.cmdline())
            if "pyspark.daemon" in words or "SparkSubmit" in words:
                yield ("worker" if "pyspark.daemon" in words else "jvm"), process
