"""values -> text for a person: counts by name, and text whose control characters are visible."""

import re
from collections.abc import Mapping

# Control characters except newline and tab, marks that change the direction of text, line separators, lone surrogates.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]",
)


def counts(by_name: Mapping[str, int]) -> str:
    """Return counts as `3 timeout, 1 filtered`, the largest first; "none" when there are none."""
    return ", ".join(f"{count} {name}" for name, count in sorted(by_name.items(), key=lambda pair: -pair[1])) or "none"


def share(part: int, whole: int) -> str:
    """Return a share as `12.5 %`."""
    return f"{100 * part / whole:.1f} %"


def left_out(by_reason: Mapping[str, int], total: int) -> str:
    """Return `; left out: 4 of 40, 10.0 % (3 no question, 1 too long)`; "" when nothing was left out."""
    count = sum(by_reason.values())
    return f"; left out: {count} of {total}, {share(count, total)} ({counts(by_reason)})" if count else ""


def visible(text: str) -> str:
    r"""Return the text with each control character as its escape, such as \x1b or \u202e; newline and tab stay."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
