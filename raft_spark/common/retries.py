"""Repeat a call that fails for the moment."""

import time
from collections.abc import Callable
from typing import TypeVar

TRIES = 5
_T = TypeVar("_T")


def retried(
    call: Callable[[], _T],
    errors: tuple[type[Exception], ...],
    is_transient: Callable[[Exception], bool],
    first_pause: float,
) -> _T:
    """Call up to TRIES times, with a pause in seconds that doubles, while it raises one of `errors` that is transient.

    Return the result, or raise the last error.
    """
    for attempt in range(TRIES - 1):
        try:
            return call()
        except errors as error:
            if not is_transient(error):
                raise
        time.sleep(first_pause * 2**attempt)
    return call()
