"""What some answers took -> what the others will take: tokens, hours, dollars. Arithmetic on plain values, no Spark.

Prompt tokens follow the characters that are sent, completion tokens the mean of the answers seen. A margin is half of a 95 %
prediction interval for the sum over all requests still to ask: Student's t on the spread seen, wide when few were seen.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from raft_spark.config import Completions, Config

T_VALUES = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)  # two-sided 95 %, by degrees of freedom from 1
EMR_STARTUP_SECONDS = 120.0  # seconds that EMR's workers run beside the asking
LOCAL_KINDS = frozenset({"embedded", "fake"})  # kinds of endpoints that run on the machines of the job


@dataclass(frozen=True, slots=True)
class Amount:
    """A number, and half the width of its 95 % interval; None: one answer does not tell its spread."""

    value: float
    margin: float | None = 0.0

    def __add__(self, other: "Amount") -> "Amount":
        margin = None if self.margin is None or other.margin is None else self.margin + other.margin
        return Amount(self.value + other.value, margin)

    def __mul__(self, factor: float) -> "Amount":
        return Amount(self.value * factor, None if self.margin is None else self.margin * factor)


@dataclass(frozen=True, slots=True)
class AnsweredRequest:
    """One answered request: characters sent, tokens as the server counted them, seconds of its last call."""

    characters: int
    tokens_in: int
    tokens_out: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Remaining:
    """What is to ask: `rows` requests of `characters` in all, of the `requests` that the base needs."""

    requests: int
    rows: int
    characters: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What asking takes. `seconds` is None of batch jobs; `bound_by` names the setting that decides it."""

    tokens_in: Amount
    tokens_out: Amount
    seconds: Amount | None = None
    bound_by: str = ""


@dataclass(frozen=True, slots=True)
class Bill:
    """Dollars; None: not known, or not to pay. `on_demand` and `batch` are the tokens at either price, `endpoint` the hours of
    an endpoint of one's own, `emr` the workers, where EMR reaches the lake. `model` is what completions.mode makes of the
    first three, `total` this and `emr`. `affordable`: the rows that completions.max_spend pays for.
    """

    on_demand: Amount | None
    batch: Amount | None
    endpoint: Amount | None
    vcpu_hours: Amount | None
    gb_hours: Amount | None
    emr: Amount | None
    model: Amount | None
    total: Amount | None
    affordable: int | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the completions stage would take; `use` and `bill` are None when there is nothing to ask, or no answer to go by.

    `sampled` answers were gone by, `asked_now` of them asked for this.
    """

    model: str
    mode: Literal["realtime", "batch"]
    requests: int
    to_ask: int
    sampled: int = 0
    asked_now: int = 0
    use: Usage | None = None
    bill: Bill | None = None


def estimate(conf: Config, left: Remaining, seen: Sequence[AnsweredRequest], asked_now: int = 0) -> Estimate:
    """Tell what the requests `left` take, from what those `seen` took. Fewer than batch.min_records are asked in real time."""
    asking, model = conf.completions, conf.teacher.model
    mode = "realtime" if left.rows < asking.batch.min_records else asking.mode
    if not (left.rows and seen):
        return Estimate(model, mode, left.requests, left.rows, len(seen), asked_now)
    sent, written = tokens_in(seen, left), _sum([row.tokens_out for row in seen], left.rows)
    seconds, bound_by = asking_time(asking, left.rows, seen, sent + written)
    use = Usage(sent, written) if mode == "batch" else Usage(sent, written, seconds, bound_by)
    return Estimate(model, mode, left.requests, left.rows, len(seen), asked_now, use, bill(conf, mode, left.rows, use))


def tokens_in(seen: Sequence[AnsweredRequest], left: Remaining) -> Amount:
    """Extrapolate prompt tokens by the ratio of characters."""
    characters = sum(row.characters for row in seen)
    ratio = sum(row.tokens_in for row in seen) / characters
    scale = left.characters / left.rows / (characters / len(seen))
    off = [row.tokens_in - ratio * row.characters for row in seen]
    return Amount(ratio * left.characters, _margin(off, left.rows, scale))


def asking_time(conf: Completions, rows: int, seen: Sequence[AnsweredRequest], tokens: Amount) -> tuple[Amount, str]:
    """Return the seconds that asking takes, and the setting that makes it so: all limits hold, the slowest decides."""
    calls = _sum([row.seconds for row in seen], max(rows, conf.in_flight))
    limits = {"in_flight": calls * (1 / conf.in_flight)}
    if conf.requests_per_second:
        limits["requests_per_second"] = Amount(rows / conf.requests_per_second)
    if conf.tokens_per_minute:
        limits["tokens_per_minute"] = tokens * (60 / conf.tokens_per_minute)
    slowest = max(limits, key=lambda name: limits[name].value)
    return limits[slowest], slowest


def bill(conf: Config, mode: str, rows: int, use: Usage) -> Bill:
    """Price what asking takes."""
    price = conf.price
    free = Amount(0) if conf.teacher.kind in LOCAL_KINDS else None
    on_demand = _priced(use, price.input_price, price.output_price) or free
    batch = _priced(use, price.batch_input_price, price.batch_output_price)
    hours = use.seconds * (1 / 3600) if use.seconds else None
    endpoint = hours * price.hourly_price if hours and price.hourly_price else None
    vcpu_hours, gb_hours, emr = _emr(conf, hours)
    model = batch if mode == "batch" else _all(on_demand, endpoint)
    total = _all(model, emr) if model else None
    return Bill(
        on_demand, batch, endpoint, vcpu_hours, gb_hours, emr, model, total, affordable(conf.completions, rows, model)
    )


def affordable(conf: Completions, rows: int, model: Amount | None) -> int | None:
    """Return how many of the rows completions.max_spend pays for, None when there is no limit or no price."""
    if not conf.max_spend or model is None:
        return None
    return rows if model.value <= conf.max_spend else math.floor(rows * conf.max_spend / model.value)


def _emr(conf: Config, hours: Amount | None) -> tuple[Amount | None, Amount | None, Amount | None]:
    """Return vCPU-hours, GB-hours and dollars; none for a lake in a folder, which EMR does not reach, and of batch jobs."""
    if hours is None or "://" not in conf.lake.root:
        return None, None, None
    vcpus, memory = conf.emr.vcpus, conf.emr.memory_gb
    running, hourly = hours + Amount(EMR_STARTUP_SECONDS / 3600), conf.emr.dollars(vcpus, memory)
    return running * vcpus, running * memory, running * hourly if hourly else None


def _priced(use: Usage, price_in: float | None, price_out: float | None) -> Amount | None:
    """Return the dollars of all tokens at prices a million, None when there is no price."""
    if not (price_in or price_out):
        return None
    return use.tokens_in * ((price_in or 0) / 1e6) + use.tokens_out * ((price_out or 0) / 1e6)


def _all(*parts: Amount | None) -> Amount | None:
    """Add those that are known, None when none is."""
    known = [part for part in parts if part is not None]
    return sum(known[1:], known[0]) if known else None


def _sum(values: Sequence[float], rows: int) -> Amount:
    """Extrapolate a mean to the sum over `rows` others."""
    mean = statistics.fmean(values)
    return Amount(mean * rows, _margin([value - mean for value in values], rows, 1))


def _margin(off: Sequence[float], rows: int, scale: float) -> float | None:
    """Return how far the sum over `rows` others may be off: by the error of the mean (`scale`: how much larger the others are)
    and by the spread of the others themselves. `off`: what each value seen is off by.
    """
    freedom = len(off) - 1
    if not freedom:
        return None
    student = T_VALUES[freedom - 1] if freedom <= len(T_VALUES) else 1.96 + 2.4 / freedom
    spread = math.sqrt(sum(value * value for value in off) / freedom)
    return student * spread * math.sqrt((rows * scale) ** 2 / len(off) + rows)
