"""Values -> text for a person: counts as words, and what a terminal would obey made visible."""

import re
from collections.abc import Mapping

# Control characters but newline and tab, marks that change the direction of text, line separators, halves of a pair.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]",
)


def counts(found: Mapping[str, int]) -> str:
    """Return counts by name as `3 timeout, 1 filtered`, the largest first; "none" without any."""
    return ", ".join(f"{count} {name}" for name, count in sorted(found.items(), key=lambda pair: -pair[1])) or "none"


def visible(text: str) -> str:
    r"""Return the text with each control character but newline and tab as its escape, such as \x1b or \u202e."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
