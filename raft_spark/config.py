"""TOML files and `--set` -> one frozen Config: conf/default.toml, then each file, then each `--set`; the last wins.

conf/default.toml is the reference page of every setting and the only place of a default. This module says which values
are allowed. The settled configuration is safe to log: it names secrets, it never holds them.
"""

import argparse
import functools
import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from raft_spark import explain
from raft_spark.errors import ConfigError

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Money = Annotated[float, Field(ge=0, allow_inf_nan=False)]  # dollars
Gate = Literal["off", "reject"]
Retried = Literal["throttled", "timeout", "unavailable", "model_error", "bad_request", "filtered"]
Codec = Literal["tgi", "lmi", "openai", "converse", "llama"]
CODECS: Mapping[str, tuple[Codec, ...]] = {
    "sagemaker": ("tgi", "lmi", "openai"),
    "bedrock": ("converse", "llama", "openai"),
}
ONE_TEXT = frozenset({"tgi", "lmi", "llama"})  # codecs that send one text, so completions.template must lay it out
Format = Literal["messages", "prompt_completion", "notebook"]


def _source(text: str) -> str:
    """Refuse a source that cannot be one, before anything starts."""
    if not text or "://" in text:
        return _root(text)
    if text.startswith("sample:") and not re.fullmatch(r"sample:[1-9]\d{0,8}", text):
        msg = "it must be sample:N with N from 1 to 999999999"
        raise ValueError(msg)
    if text.startswith("hf:") and not re.fullmatch(r"hf:[\w.-]+/[\w.-]+/[\w.-]+", text):
        msg = "it must be hf:OWNER/NAME/CONFIG, for example hf:qiaojin/PubMedQA/pqa_artificial"
        raise ValueError(msg)
    return text


def _root(text: str) -> str:
    """Refuse a lake on a file system that nobody here can write."""
    if not text or ("://" in text and not re.match(r"s3a?://[a-z0-9][a-z0-9.-]+(/|$)", text)):
        msg = "it must be a folder or s3://bucket/prefix"
        raise ValueError(msg)
    return text.rstrip("/") if len(text) > 1 else text


def _url(text: str) -> str:
    """Refuse an address that is none, or one that holds a password: settings are logged and stored."""
    if not text:
        return text
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        msg = "it must be an address such as http://127.0.0.1:8000/v1"
        raise ValueError(msg)
    if parts.username or parts.password:
        msg = "holds a name or password; put the name of the variable that holds the key into api_key_env"
        raise ValueError(msg)
    return text.rstrip("/")


def _variable(text: str) -> str:
    """Refuse what is no variable's name: most likely it is the key itself, so it is not repeated."""
    if not re.fullmatch(r"([A-Za-z_][A-Za-z0-9_]*)?", text):
        msg = "is no name of an environment variable; it must name the one that holds the key, never be the key"
        raise ValueError(msg)
    return text


def _spark(settings: dict[str, str]) -> dict[str, str]:
    """Refuse a secret in Spark's own settings; the words are those of spark.redaction.regex."""
    for key in settings:
        if re.search(r"secret|password|token|access[.]?key", key, re.IGNORECASE):
            msg = f"must not hold {key!r}: settings are stored; give it to spark-submit, or use AWS's own chain"
            raise ValueError(msg)
    return settings


def _once(names: tuple[Any, ...]) -> tuple[Any, ...]:
    """Take what is named twice once."""
    return tuple(dict.fromkeys(names))


def _listed(names: object) -> object:
    """Take `a,b` for a list, as `--set completions.retry=throttled,timeout` gives it."""
    return [name.strip() for name in names.split(",") if name.strip()] if isinstance(names, str) else names


class Section(BaseModel):
    """A section of the settings: frozen, nothing unknown, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Lake(Section):
    """Where tables live."""

    root: Annotated[str, AfterValidator(_root)]
    format: Literal["parquet"]
    file_mb: Annotated[int, Field(ge=1, le=2048)]
    row_group_rows: Annotated[int, Field(ge=1, le=1_000_000)]
    sweep_after_hours: Annotated[float, Field(ge=0, le=8760, allow_inf_nan=False)]
    s3_endpoint: Annotated[str, AfterValidator(_url)]
    s3_region: str


class Articles(Section):
    """What is ingested, and into which split."""

    source: Annotated[str, AfterValidator(_source)]
    limit: Annotated[int, Field(ge=0)]
    sample_seed: Annotated[int, Field(ge=0, le=2**63 - 1)]
    validation_share: Share
    test_share: Share
    max_passages: Annotated[int, Field(ge=1, le=10_000)]
    max_text_chars: Annotated[int, Field(ge=100, le=10_000_000)]

    @model_validator(mode="after")
    def _leaves_training_rows(self) -> "Articles":
        if self.validation_share + self.test_share >= 1:
            msg = "leaves no training row: validation_share + test_share must stay below 1"
            raise ValueError(msg)
        return self


class Base(Section):
    """How distractors are drawn."""

    distractors: Annotated[int, Field(ge=0, le=100)]
    oracle_share: Share
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)]
    equal_length: bool
    strategy: Literal["auto", "broadcast", "join"]
    broadcast_limit_mb: Annotated[int, Field(ge=0, le=1_000_000)]


class Batch(Section):
    """How Bedrock's batch jobs are cut and watched."""

    min_records: Annotated[int, Field(ge=1, le=1_000_000)]
    max_records: Annotated[int, Field(ge=1, le=10_000_000)]
    max_file_mb: Annotated[int, Field(ge=1, le=1_000_000)]
    poll_seconds: Seconds
    timeout_hours: Annotated[int, Field(ge=24, le=168)]


class Completions(Section):
    """What is asked of the teacher model, and how fast."""

    endpoint: str
    style: Literal["answer"]
    template: Literal["chat", "llama3"]
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
    max_new_tokens: Annotated[int, Field(ge=1, le=100_000)]
    in_flight: Count
    attempts: Annotated[int, Field(ge=1, le=100)]
    timeout_seconds: Seconds
    deadline_seconds: Seconds
    flush_seconds: Seconds
    max_failed_share: Share
    mode: Literal["realtime", "batch"]
    requests_per_second: Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
    tokens_per_minute: Annotated[int, Field(ge=0)]
    max_spend: Money
    max_minutes: Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
    retry: Annotated[tuple[Retried, ...], Field(strict=False), AfterValidator(_once), BeforeValidator(_listed)]
    reuse_truncated: bool
    batch: Batch


class DatasetGate(Section):
    """What becomes of a row that a check finds."""

    truncated: Gate
    refusal: Gate


class Dataset(Section):
    """What is published."""

    formats: Annotated[tuple[Format, ...], Field(strict=False, min_length=1), AfterValidator(_once)]
    file: Literal["jsonl", "parquet"]
    shard_rows: Annotated[int, Field(ge=1, le=10_000_000)]
    gate: DatasetGate


class Endpoint(Section):
    """One [endpoints.NAME] section: a model that answers. Only `kind` is required."""

    kind: Literal["openai", "sagemaker", "bedrock", "embedded", "fake"]
    url: Annotated[str, AfterValidator(_url)] = ""
    model: str = ""
    api_key_env: Annotated[str, AfterValidator(_variable)] = ""
    api_key_secret: str = ""
    region: Annotated[str, Field(pattern=r"^([a-z]{2}(-[a-z]+)+-\d)?$")] = ""
    endpoint_name: Annotated[str, Field(pattern=r"^([a-zA-Z0-9](-*[a-zA-Z0-9]){0,62})?$")] = ""
    inference_component: str = ""
    codec: Codec | Literal[""] = ""
    route: Annotated[str, Field(pattern=r"^(/[!-~]{0,500})?$")] = ""
    service_tier: Literal["", "priority", "default", "flex", "reserved"] = ""
    request_metadata: Annotated[dict[str, str], Field(max_length=15)] = {}
    role_arn: Annotated[str, Field(pattern=r"^(arn:[a-z-]+:iam::\d{12}:role/.+)?$")] = ""
    batch_folder: Annotated[str, Field(pattern=r"^(s3://[a-z0-9][a-z0-9.-]+(/.*)?)?$")] = ""
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    latency_ms: Annotated[float, Field(ge=0, le=600_000, allow_inf_nan=False)] = 0
    input_price: Money | None = None
    output_price: Money | None = None
    batch_input_price: Money | None = None
    batch_output_price: Money | None = None
    hourly_price: Money | None = None

    @model_validator(mode="before")
    @classmethod
    def _takes_its_usual_codec(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """Fill in the first codec of a kind; and as the model of SageMaker what is called, so that keys tell models apart."""
        usual = CODECS.get(str(fields.get("kind")), ("",))[0]
        named = (fields.get(name) for name in ("model", "inference_component", "endpoint_name"))
        return {**fields, "codec": fields.get("codec") or usual, "model": next(filter(None, named), "")}

    @model_validator(mode="after")
    def _is_whole(self) -> "Endpoint":
        needed = {"openai": ("url", "model"), "sagemaker": ("endpoint_name",), "bedrock": ("model",)}.get(self.kind, ())
        if not all(getattr(self, name) for name in needed):
            msg = f"needs {' and '.join(needed)}, as every endpoint of kind {self.kind}"
            raise ValueError(msg)
        codecs = CODECS.get(self.kind, ("",))
        if self.codec not in codecs:
            msg = f"has codec {self.codec!r}; kind {self.kind} takes {', '.join(filter(None, codecs)) or 'none'}"
            raise ValueError(msg)
        if self.api_key_env and self.api_key_secret:
            msg = "names its key twice: give api_key_env or api_key_secret"
            raise ValueError(msg)
        return self


class Price(Section):
    """What a model or an instance costs, in dollars, with where and when that was read."""

    input_price: Money = 0
    output_price: Money = 0
    batch_input_price: Money | None = None
    batch_output_price: Money | None = None
    hourly_price: Money = 0
    source: str = ""
    date: str = ""

    def dollars(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Return what these tokens cost; the prices are those of a million."""
        return (prompt_tokens * self.input_price + completion_tokens * self.output_price) / 1_000_000


class Log(Section):
    """How a run says what it does."""

    format: Literal["text", "json"]


class Emr(Section):
    """What EMR Serverless takes for its workers, in dollars, with where and when that was read."""

    vcpu_hour: Money
    gb_hour: Money
    source: str
    date: str


class Config(Section):
    """All settings, settled."""

    lake: Lake
    articles: Articles
    base: Base
    completions: Completions
    dataset: Dataset
    endpoints: dict[str, Endpoint]
    prices: dict[str, Price]
    log: Log
    emr: Emr
    spark: Annotated[dict[str, str], AfterValidator(_spark)]

    @model_validator(mode="after")
    def _knows_its_endpoint(self) -> "Config":
        if self.completions.endpoint not in self.endpoints:
            known = ", ".join(sorted(self.endpoints))
            msg = f"completions.endpoint is {self.completions.endpoint!r}; it must name one of [endpoints.*]: {known}"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _asks_as_its_endpoint_can(self) -> "Config":
        name, teacher = self.completions.endpoint, self.teacher
        if teacher.codec in ONE_TEXT and self.completions.template == "chat":
            msg = f"completions.template is 'chat'; endpoints.{name} has codec {teacher.codec!r}, which sends one text: llama3"
            raise ValueError(msg)
        if self.completions.mode == "batch" and (teacher.kind != "bedrock" or not teacher.role_arn):
            msg = f"completions.mode is 'batch'; endpoints.{name} must be of kind bedrock and name the role_arn of the jobs"
            raise ValueError(msg)
        return self

    @property
    def teacher(self) -> Endpoint:
        """The endpoint that writes the completions."""
        return self.endpoints[self.completions.endpoint]

    @property
    def price(self) -> Price:
        """What the teacher costs: its own settings over the price table's entry for its model."""
        own = self.teacher.model_dump(include=set(Price.model_fields), exclude_none=True)
        return self.prices.get(self.teacher.model, Price()).model_copy(update=own)

    def settings(self) -> dict[str, Any]:
        """Return every setting as plain JSON values, to be saved with a table version."""
        return self.model_dump(mode="json")


def from_argv(argv: Sequence[str]) -> Config:
    """Settle the settings of a job from its arguments: `[CONF.toml ...] [--set section.key=value ...]`."""
    parser = argparse.ArgumentParser(description="Settings: CONF.toml ... --set section.key=value ...")
    parser.add_argument("files", nargs="*", metavar="CONF.toml", help="settings on top of conf/default.toml")
    parser.add_argument("--set", action="append", default=[], dest="assignments", metavar="section.key=value")
    arguments = parser.parse_intermixed_args(argv)
    return load(arguments.files, arguments.assignments)


def load(files: Iterable[str] = (), assignments: Iterable[str] = ()) -> Config:
    """Settle default.toml, then `files`, then `assignments` (each `section.key=value`), in this order.

    Raises ConfigError that names each wrong key, its value, what is allowed and the known keys.
    """
    layers = [_parsed(folder() / "default.toml"), *(_parsed(_found(file)) for file in files)]
    layers += [_assigned(assignment) for assignment in assignments]
    merged: dict[str, Any] = functools.reduce(_merged, layers)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(
            "\n".join(explain.sentence(dict(problem), Config.model_json_schema()) for problem in error.errors())
        ) from error


def folder() -> Path:
    """Return the folder conf/: beside the package in a checkout, inside it when installed."""
    package = Path(__file__).parent
    return next(path for path in (package / "conf", package.parent / "conf") if (path / "default.toml").is_file())


def _found(file: str) -> Path:
    """Take a path as it is; a mere NAME or conf/NAME else from the conf/ that came with the package."""
    path = Path(file)
    candidates = (path, folder() / path.name) if str(path.parent) in {".", "conf"} else (path,)
    return next((candidate for candidate in candidates if candidate.is_file()), path)


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(sorted(found.name for found in folder().glob("*.toml")))
        msg = f"{path} cannot be read ({error.strerror}); give a TOML file, or one that came with the package: {known}"
        raise ConfigError(msg) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"{path} is not TOML: {error}"
        raise ConfigError(msg) from error


def _assigned(assignment: str) -> dict[str, Any]:
    """Read one `section.key=value`; a value that is no TOML is text, so that quotes are needed for numbers only."""
    key, equals, value = assignment.partition("=")
    for text in (assignment, f"{key}={json.dumps(value, ensure_ascii=False)}"):
        try:
            parsed = tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            continue
        if equals and all(isinstance(section, dict) for section in parsed.values()):
            return parsed
    msg = f"--set {assignment!r} is not section.key=value, for example --set base.distractors=4"
    raise ConfigError(msg)


def _merged(under: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `over` on `under`, key by key; tables are merged, everything else replaced."""
    both = dict(under)
    for key, value in over.items():
        below = both.get(key)
        both[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return both
