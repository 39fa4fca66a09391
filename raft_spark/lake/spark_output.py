"""Start the JVM of a local Spark, and copy its standard error to ours without the notices that every start prints.

Java and Spark print them before a log level can be set, and no option suppresses them in both Spark 3.5 and 4.1.
"""

import os
import re
import sys
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress

from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkRuntimeError
from pyspark.java_gateway import launch_gateway

LAST_LINES_SECONDS = 5.0
NOTICES = re.compile(
    r"WARNING: Using incubator modules: jdk\.incubator\.vector$"
    r"|Using Spark's default log4j profile: "
    r"|Setting default log level to "
    r"|To adjust logging level use "
    r"|\d\d/\d\d/\d\d \d\d:\d\d:\d\d WARN NativeCodeLoader: Unable to load native-hadoop library "
)


def start_java(settings: Mapping[str, str]) -> None:
    """Start the JVM for this process's next session; do nothing when one is running.

    Raises PySparkRuntimeError when Java exits at once; its own messages are on standard error by then.
    """
    if SparkContext._gateway is not None:  # noqa: SLF001 - as pyspark itself checks
        return
    source, sink = os.pipe()
    reader = threading.Thread(target=_pass_on, args=(source,), daemon=True)
    reader.start()
    try:
        gateway = launch_gateway(SparkConf().setAll(list(settings.items())), {"stderr": sink})  # type: ignore[no-untyped-call]
    except PySparkRuntimeError:
        os.close(sink)
        reader.join(LAST_LINES_SECONDS)
        raise
    os.close(sink)
    SparkContext._ensure_initialized(gateway=gateway)  # noqa: SLF001 - as pyspark's builder does


def _pass_on(source: int) -> None:
    with open(source, "rb") as stream:
        write_lines(line.decode(errors="replace") for line in stream)


def write_lines(lines: Iterable[str]) -> None:
    """Write lines to standard error as they come, except the notices; ignore a standard error that is closed."""
    for line in lines:
        if not NOTICES.match(line):
            with suppress(OSError, ValueError):
                sys.stderr.write(line)
                sys.stderr.flush()
