"""errors of requests that an endpoint refuses -> whether they concern every request: a wrong key or model told as status 400.

A request that fails with a client error, such as a prompt that is too long, fails for good. But when several in a row fail with
one and the same error and nothing is answered meanwhile, the fault is not theirs: the run ends, and they are asked again.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

MIN_OBJECTIONS = 4  # requests that fail alike before a run ends, however few calls may be open
MIN_AFTER_ANSWERS = 32  # the same for an endpoint that has answered
ALIKE = 0.9  # share of the objections that have the same words
_CHANGING = re.compile(r"\S*\d\S*|\b[0-9a-f]{8,}\b", re.IGNORECASE)  # numbers, ids, hashes, dates


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known about an endpoint when it is judged: how many calls may be open, and whether it `has_answered` in this
    run or `was_known` to answer before.
    """

    in_flight: int
    has_answered: bool
    was_known: bool


def without_numbers(error: str) -> str:
    """Return an error without what differs from request to request, so that like errors are equal."""
    return " ".join(_CHANGING.sub("#", error).lower().split())


def refusal(error: str) -> str:
    """Return why an endpoint cannot be used that refuses every request with this error."""
    return f"refuses every request: {error}"


def add(objections: Iterable[Mapping[str, int]]) -> Counter[str]:
    """Add up the objections of several tasks, by their words."""
    return sum((Counter(each) for each in objections), Counter())


def needed(situation: Situation) -> int:
    """Return after how many objections in a row no call may start until the endpoint is judged."""
    if situation.has_answered:
        return max(MIN_AFTER_ANSWERS, 2 * situation.in_flight)
    return max(MIN_OBJECTIONS, situation.in_flight)


def concern_every_request(objections: Mapping[str, int], situation: Situation) -> bool:
    """Say whether objections in a row, when no call is open, concern every request.

    When there are no more requests, fewer are enough: nothing was answered at all.
    """
    total = sum(objections.values())
    if max(objections.values(), default=0) < max(1, ALIKE * total):
        return False
    if situation.has_answered:
        return total >= needed(situation)
    return total >= MIN_OBJECTIONS or not situation.was_known
