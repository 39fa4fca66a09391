"""Run a function in a background thread while a `with` block runs, or poll one until its result is the one awaited."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

FIRST_PAUSE, LONGEST_PAUSE, PAUSE_GROWTH = 2.0, 30.0, 1.5  # seconds between two polls: 2, 3, 4.5 and so on
_T = TypeVar("_T")


@contextmanager
def in_background(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Call `work` in a thread, with an event that is set when the block ends; leave the block when the thread has ended."""
    ended = threading.Event()
    thread = threading.Thread(target=work, args=(ended,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def poll(look: Callable[[], _T], seconds: float = math.inf) -> Iterator[_T]:
    """Yield the result of `look` again and again, with growing pauses, until `seconds` have passed or the caller stops."""
    pause, end = FIRST_PAUSE, time.monotonic() + seconds
    while time.monotonic() < end:
        yield look()
        time.sleep(pause)
        pause = min(LONGEST_PAUSE, pause * PAUSE_GROWTH)
