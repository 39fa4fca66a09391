"""usage of some answers -> tokens, time and dollars of the remaining requests. Plain values, without Spark.

Prompt tokens are proportional to the characters of the request; completion tokens are extrapolated from the mean. A
margin is half the width of a 95 % prediction interval for the sum over all remaining requests, by Student's t: it is
wide if few answers are known.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from raft_spark.config import LOCAL_KINDS, Completions, Config

T_VALUES = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)  # two-sided 95 %, from 1 degree of freedom
EMR_STARTUP_SECONDS = 120.0  # that EMR's workers run before and after the requests


@dataclass(frozen=True, slots=True)
class Amount:
    """A number and half the width of its 95 % interval; the margin is None if a single answer is known."""

    value: float
    margin: float | None = 0.0

    def __add__(self, other: "Amount") -> "Amount":
        margin = None if self.margin is None or other.margin is None else self.margin + other.margin
        return Amount(self.value + other.value, margin)

    def __mul__(self, factor: float) -> "Amount":
        return Amount(self.value * factor, None if self.margin is None else self.margin * factor)


@dataclass(frozen=True, slots=True)
class AnsweredRequest:
    """Usage of one answered request: characters sent, tokens as the server counted them, seconds of its last call."""

    characters: int
    tokens_in: int
    tokens_out: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Remaining:
    """Requests without an answer: their number `rows`, their `characters`; `requests` are all of the base."""

    requests: int
    rows: int
    characters: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Expected usage of the remaining requests.

    `seconds` is None for batch jobs; `bound_by` names the setting that limits the speed.
    """

    tokens_in: Amount
    tokens_out: Amount
    seconds: Amount | None = None
    bound_by: str = ""


@dataclass(frozen=True, slots=True)
class Bill:
    """Expected dollars; None if the price is unknown or does not apply.

    `on_demand` and `batch` are the tokens at either price, `endpoint` the hours of an endpoint with an hourly price.
    `model` is the sum of these that completions.mode implies, `emr` the EMR workers (for a lake on S3; in batch mode the
    most that the driver may cost), `total` both together. `affordable` is the number of requests that completions.max_spend pays for.
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
    """Expected usage and cost of the completions stage; without remaining requests or known answers `use` is None.

    It is based on `sampled` answers; `asked_now` of them were requested for this estimate.
    """

    model: str
    mode: Literal["realtime", "batch"]
    requests: int
    to_ask: int
    sampled: int = 0
    asked_now: int = 0
    use: Usage | None = None
    bill: Bill | None = None


def estimate(conf: Config, remaining: Remaining, answered: Sequence[AnsweredRequest], asked_now: int = 0) -> Estimate:
    """Extrapolate from answered requests to the remaining ones. Fewer than batch.min_records are asked in real time."""
    completions, model, rows = conf.completions, conf.teacher.model, remaining.rows
    mode = "realtime" if rows < conf.batch_limits.min_records else completions.mode
    if not (rows and answered):
        return Estimate(model, mode, remaining.requests, rows, len(answered), asked_now)
    prompt, completion = tokens_in(answered, remaining), _extrapolate([row.tokens_out for row in answered], rows)
    seconds, bound_by = asking_time(completions, rows, answered, prompt + completion)
    usage = Usage(prompt, completion) if mode == "batch" else Usage(prompt, completion, seconds, bound_by)
    cost = bill(conf, mode, rows, usage)
    return Estimate(model, mode, remaining.requests, rows, len(answered), asked_now, usage, cost)


def tokens_in(answered: Sequence[AnsweredRequest], remaining: Remaining) -> Amount:
    """Extrapolate prompt tokens by the ratio of characters."""
    characters = sum(row.characters for row in answered)
    ratio = sum(row.tokens_in for row in answered) / characters
    scale = remaining.characters / remaining.rows / (characters / len(answered))
    residuals = [row.tokens_in - ratio * row.characters for row in answered]
    return Amount(ratio * remaining.characters, _margin(residuals, remaining.rows, scale))


def asking_time(
    conf: Completions, rows: int, answered: Sequence[AnsweredRequest], tokens: Amount
) -> tuple[Amount, str]:
    """Return the seconds that `rows` requests take, and the setting that limits them: the slowest of all limits."""
    calls = _extrapolate([row.seconds for row in answered], max(rows, conf.in_flight))
    limits = {"in_flight": calls * (1 / conf.in_flight)}
    if conf.requests_per_second:
        limits["requests_per_second"] = Amount(rows / conf.requests_per_second)
    if conf.tokens_per_minute:
        limits["tokens_per_minute"] = tokens * (60 / conf.tokens_per_minute)
    slowest = max(limits, key=lambda name: limits[name].value)
    return limits[slowest], slowest


def bill(conf: Config, mode: str, rows: int, usage: Usage) -> Bill:
    """Return the dollars of `rows` requests with this usage."""
    price = conf.price
    free = Amount(0) if conf.teacher.kind in LOCAL_KINDS else None
    on_demand = _token_dollars(usage, price.input_price, price.output_price) or free
    batch = _token_dollars(usage, price.batch_input_price, price.batch_output_price)
    hours = usage.seconds * (1 / 3600) if usage.seconds else None
    endpoint = hours * price.hourly_price if hours and price.hourly_price else None
    vcpu_hours, gb_hours, emr = _emr(conf, mode, hours)
    model = batch if mode == "batch" else _sum_known(on_demand, endpoint)
    total = _sum_known(model, emr) if model else None
    return Bill(
        on_demand, batch, endpoint, vcpu_hours, gb_hours, emr, model, total, affordable(conf.completions, rows, model)
    )


def affordable(conf: Completions, rows: int, model: Amount | None) -> int | None:
    """Return how many of the rows completions.max_spend pays for, None without a limit or a price."""
    if not conf.max_spend or model is None:
        return None
    return rows if model.value <= conf.max_spend else math.floor(rows * conf.max_spend / model.value)


def _emr(conf: Config, mode: str, hours: Amount | None) -> tuple[Amount | None, Amount | None, Amount | None]:
    """Return vCPU-hours, GB-hours and dollars; None for a local lake, which EMR cannot read.

    For batch jobs these are the most that the driver may use alone: Spark releases the executors while it waits.
    """
    if "://" not in conf.lake.root:
        return None, None, None
    emr, size = conf.emr, (conf.emr.vcpus, conf.emr.memory_gb, 1 + conf.emr.max_executors)
    if mode == "batch":
        hours = Amount(conf.completions.batch.timeout_hours)
        size = (emr.driver_cores, emr.driver_memory_gb, 1)
    vcpus, memory, workers = size
    if hours is None:
        return None, None, None
    running, hourly = (
        hours + Amount(EMR_STARTUP_SECONDS / 3600),
        emr.dollars(vcpus, memory, emr.billed_disk_gb * workers),
    )
    return running * vcpus, running * memory, running * hourly if hourly else None


def _token_dollars(usage: Usage, price_in: float | None, price_out: float | None) -> Amount | None:
    """Return the dollars of all tokens at prices per million tokens, None without a price."""
    if not (price_in or price_out):
        return None
    return usage.tokens_in * ((price_in or 0) / 1e6) + usage.tokens_out * ((price_out or 0) / 1e6)


def _sum_known(*amounts: Amount | None) -> Amount | None:
    """Add the amounts that are known, None if none is."""
    known = [amount for amount in amounts if amount is not None]
    return sum(known[1:], known[0]) if known else None


def _extrapolate(values: Sequence[float], rows: int) -> Amount:
    """Extrapolate the mean of some values to the sum over `rows` others."""
    mean = statistics.fmean(values)
    return Amount(mean * rows, _margin([value - mean for value in values], rows, 1))


def _margin(residuals: Sequence[float], rows: int, scale: float) -> float | None:
    """Return half the width of the 95 % prediction interval for the sum over `rows` others; None for one value.

    Two errors add up: that of the estimated mean, times `scale` (how much larger the others are), and the spread of
    the others themselves. `residuals` are the known values less their estimates.
    """
    freedom = len(residuals) - 1
    if not freedom:
        return None
    t = T_VALUES[freedom - 1] if freedom <= len(T_VALUES) else 1.96 + 2.4 / freedom
    spread = math.sqrt(sum(residual * residual for residual in residuals) / freedom)
    return t * spread * math.sqrt((rows * scale) ** 2 / len(residuals) + rows)
