"""API key -> why it cannot be sent, "" when it can; a message -> the message without the key."""

import re

from raft_spark.endpoints import responses


def problem(key: str) -> str:
    """Return the rest of a sentence that begins with where the key comes from; spaces around the key are removed before."""
    if not key:
        return "has no valid key: it is not set, or empty"
    if "\n" in key or "\r" in key:
        return "has no valid key: it holds a line break"
    if re.match(r"(authorization:|bearer\b)", key, re.IGNORECASE):
        return 'has no valid key: it begins with "Bearer" or "Authorization:", which raft-spark adds by itself; remove that'
    if key[0] in "\"'" and key[-1] == key[0]:
        return "has no valid key: it stands in quotation marks; remove them"
    if not (key.isascii() and key.isprintable()):
        return "has no valid key: it holds a character that cannot be sent"
    return ""


def redact(text: str, key: str) -> str:
    """Return a message as one line without the key.

    The line is shortened last, or half a key could be left at its end.
    """
    return responses.one_line(text.replace(key, "***") if key else text)
