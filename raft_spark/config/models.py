"""The sections of the settings: which keys there are, which values each may take, and which go together.

conf/default.toml says what each is for. A settled Config is frozen and safe to log: it names secrets, it never holds them.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raft_spark.config.fields import (
    Application,
    Count,
    FormatNames,
    GateAction,
    Label,
    LogGroup,
    Money,
    Name,
    Prefix,
    RemoteWrite,
    Retry,
    Role,
    Root,
    Seconds,
    Section,
    Share,
    Source,
    Spark,
    Tags,
    Temperature,
    Temperatures,
    Url,
    Variable,
    named_by_content,
)
from raft_spark.config.student import Evaluation, Hosting, Training

Codec = Literal["tgi", "lmi", "openai", "converse", "llama"]
CODECS: Mapping[str, tuple[Codec, ...]] = {
    "sagemaker": ("tgi", "lmi", "openai"),
    "bedrock": ("converse", "llama", "openai"),
}
BUILT_IN = "SmolLM2-135M-Instruct.Q4_1"  # the embedded model
ONE_TEXT = frozenset({"tgi", "lmi", "llama"})  # codecs that send one text, so completions.template must lay it out


class Lake(Section):
    """Where tables live."""

    root: Root
    format: Literal["parquet", "iceberg"]
    catalog: Name
    namespace: Name
    file_mb: Annotated[int, Field(ge=1, le=2048)]
    row_group_rows: Annotated[int, Field(ge=1, le=1_000_000)]
    branch: Annotated[str, Field(pattern=r"^([a-z0-9][A-Za-z0-9._-]{0,63})?$")]
    keep_versions: Annotated[int, Field(ge=1, le=10_000)]
    keep_days: Annotated[float, Field(ge=0, le=36_500, allow_inf_nan=False)]
    sweep_after_hours: Annotated[float, Field(ge=0, le=8760, allow_inf_nan=False)]
    s3_endpoint: Url
    s3_region: str


class Articles(Section):
    """What is ingested, and into which split."""

    source: Source
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
    variants: Literal["one", "both"]
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
    style: Literal["answer", "cot", "finding"]
    decision: bool
    template: Literal["chat", "llama3"]
    temperature: Temperature
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
    retry: Retry
    again_temperatures: Temperatures
    reuse_truncated: bool
    batch: Batch

    @property
    def retry_temperatures(self) -> tuple[float, ...]:
        """Return the temperatures at which answers that the dataset rejects are asked for again."""
        others = dict.fromkeys(each for each in self.again_temperatures if each != self.temperature)
        return tuple(others) if "ungrounded" in self.retry else ()


class DatasetGate(Section):
    """What becomes of a row that a check finds something in."""

    truncated: GateAction
    refusal: GateAction
    quote: GateAction
    answer: GateAction
    decision: GateAction
    length: GateAction
    language: GateAction


class Dataset(Section):
    """What is published."""

    formats: FormatNames
    file: Literal["jsonl", "parquet"]
    shard_rows: Annotated[int, Field(ge=1, le=10_000_000)]
    answer: Literal["completion", "original"]
    absent_answer: Literal["oracle", "answer_only", "refuse"]
    max_tokens: Annotated[int, Field(ge=0, le=10_000_000)]
    tokenizer: str
    quote_distance: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)]
    min_words: Annotated[int, Field(ge=0, le=100_000)]
    max_words: Annotated[int, Field(ge=0, le=100_000)]
    language: Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]
    gate: DatasetGate

    @model_validator(mode="after")
    def _takes_answers_out_of_thoughts(self) -> "Dataset":
        is_taken = "answer_only" in self.formats or self.absent_answer == "answer_only"
        if is_taken and self.gate.answer != "reject":
            msg = f"gate.answer must be reject, not {self.gate.answer}, where answers stand without their chain of thought (answer_only)"
            raise ValueError(msg)
        return self


class Endpoint(Section):
    """One [endpoints.NAME] section: a model that answers. Only `kind` is required."""

    kind: Literal["openai", "sagemaker", "bedrock", "embedded", "fake"]
    url: Url = ""
    model: str = ""
    api_key_env: Variable = ""
    api_key_secret: str = ""
    region: Annotated[str, Field(pattern=r"^([a-z]{2}(-[a-z]+)+-\d)?$")] = ""
    endpoint_name: Annotated[str, Field(pattern=r"^([a-zA-Z0-9](-*[a-zA-Z0-9]){0,62})?$")] = ""
    inference_component: str = ""
    codec: Codec | Literal[""] = ""
    route: Annotated[str, Field(pattern=r"^(/[!-~]{0,500})?$")] = ""
    service_tier: Literal["", "priority", "default", "flex", "reserved"] = ""
    request_metadata: dict[str, str] = Field(default={}, max_length=15)
    role_arn: Annotated[str, Field(pattern=r"^(arn:[a-z-]+:iam::\d{12}:role/.+)?$")] = ""
    batch_folder: Annotated[str, Field(pattern=r"^(s3://[a-z0-9][a-z0-9.-]+(/.*)?)?$")] = ""
    weights: str = ""
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
        """Fill in the first codec of a kind; and as the model what is called or loaded, so that keys tell models apart."""
        usual = CODECS.get(str(fields.get("kind")), ("",))[0]
        named = (fields.get(name) for name in ("model", "inference_component", "endpoint_name"))
        model = next(filter(None, named), "")
        if not model and fields.get("kind") == "embedded":
            model = named_by_content(str(fields["weights"])) if fields.get("weights") else BUILT_IN
        return {**fields, "codec": fields.get("codec") or usual, "model": model}

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


class Emr(Section):
    """Where and on what workers a run on EMR Serverless goes; what it takes for them, in dollars, with where and when read."""

    application_id: Application
    role_arn: Role
    code: Prefix
    logs: Prefix
    label: Label
    architecture: Literal["x86_64", "arm64"]
    driver_cores: Literal[1, 2, 4, 8, 16]
    driver_memory_gb: Annotated[int, Field(ge=2, le=120)]
    executor_cores: Literal[1, 2, 4, 8, 16]
    executor_memory_gb: Annotated[int, Field(ge=2, le=120)]
    disk_gb: Annotated[int, Field(ge=20, le=200)]
    max_executors: Annotated[int, Field(ge=1, le=10_000)]
    timeout_minutes: Annotated[int, Field(ge=5, le=10_080)]
    attempts: Annotated[int, Field(ge=1, le=10)]
    flex: bool
    log_group: LogGroup
    prometheus_url: RemoteWrite
    tags: Tags
    vcpu_hour: Money
    gb_hour: Money
    source: str
    date: str

    @property
    def vcpus(self) -> int:
        """All that a run may use at once: its driver and all its executors."""
        return self.driver_cores + self.max_executors * self.executor_cores

    @property
    def memory_gb(self) -> int:
        """The same, GB."""
        return self.driver_memory_gb + self.max_executors * self.executor_memory_gb

    def dollars(self, vcpu_hours: float, gb_hours: float) -> float:
        """Return what workers cost, 0 when a price is unknown."""
        return vcpu_hours * self.vcpu_hour + gb_hours * self.gb_hour if self.vcpu_hour and self.gb_hour else 0.0


class Refresh(Section):
    """What a refresh lets pass."""

    max_withdrawn_share: Share
    max_changed_share: Share
    max_quarantined_share: Share
    max_rejected_share: Share
    max_tell: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)]
    max_learned_tell: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)]


class Log(Section):
    """How a run says what it does."""

    format: Literal["text", "json"]


class Config(Section):
    """All settings, settled."""

    lake: Lake
    articles: Articles
    base: Base
    completions: Completions
    dataset: Dataset
    training: Training
    hosting: Hosting
    evaluation: Evaluation
    refresh: Refresh
    log: Log
    endpoints: dict[str, Endpoint]
    prices: dict[str, Price]
    emr: Emr
    spark: Spark

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

    @model_validator(mode="after")
    def _has_the_answers_that_it_publishes(self) -> "Config":
        if self.dataset.answer == "original" and self.completions.style != "answer":
            msg = f"dataset.answer is 'original'; articles hold plain answers, so completions.style must be answer, not {self.completions.style}"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _knows_its_students(self) -> "Config":
        asked = {
            "students": self.evaluation.students,
            "judge": [self.evaluation.judge] if self.evaluation.judge else [],
        }
        for key, names in asked.items():
            unknown = sorted({*names} - {*self.endpoints})
            if unknown:
                known = ", ".join(sorted(self.endpoints))
                msg = f"evaluation.{key} names {', '.join(unknown)}; each must be one of [endpoints.*]: {known}"
                raise ValueError(msg)
            for name in names:
                if (codec := self.endpoints[name].codec) in ONE_TEXT:
                    msg = f"evaluation.{key} names {name}, whose codec {codec!r} sends one text; it is sent messages"
                    raise ValueError(msg)
        students = {name: self.endpoints[name] for name in self.evaluation.students}
        by_model = {student.model: name for name, student in students.items()}
        for name, student in students.items():
            if by_model[student.model] != name:
                msg = f"endpoints.{name} and endpoints.{by_model[student.model]} are students of one model, {student.model!r}; answers are kept by it"
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
