"""Define the sections of the settings: their keys, the values that each may have, and the rules between settings.

conf/default.toml documents each setting. A Config is frozen and safe to log: it names secrets and never holds them.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from raft_spark.config import templates
from raft_spark.config.fields import (
    METHODS,
    ApplicationId,
    ArticlesSource,
    CatalogName,
    Count,
    FormatNames,
    GateAction,
    LogGroup,
    Method,
    Money,
    ReleaseLabel,
    RemoteWrite,
    RequestMetadata,
    RetryReasons,
    RoleArn,
    S3Prefix,
    Seconds,
    Section,
    Share,
    SparkSettings,
    StoragePath,
    StorageRoot,
    Tags,
    Temperature,
    Temperatures,
    Url,
    VariableName,
    base_url_problem,
    unfit_as_tags,
)
from raft_spark.config.prices import price_names
from raft_spark.config.sending import HeaderName, Headers, Query, RequestSettings
from raft_spark.config.student import Evaluation, Hosting, Training
from raft_spark.errors import ConfigError

Codec = Literal["tgi", "lmi", "openai", "converse", "llama", "titan"]
CODECS: Mapping[str, tuple[Codec, ...]] = {
    "sagemaker": ("tgi", "lmi", "openai"),
    "bedrock": ("converse", "llama", "openai", "titan"),
}
BATCH_KINDS = ("bedrock", "openai", "sagemaker")  # kinds of endpoints with batch inference
EMBEDDING_KINDS = ("openai", "bedrock", "fake")  # kinds of endpoints that embed texts
EMBEDDING_CODEC = "titan"  # the only one of Bedrock that does
LOCAL_KINDS = frozenset({"embedded", "fake"})  # kinds of endpoints that run on the machines of the job
OPENAI_FILE_MB = 200  # the largest input of a batch job
ASYNC_RECORDS = 10_000  # of a job at an asynchronous endpoint, whose records are calls
BUILT_IN_MODEL = "SmolLM2-135M-Instruct.Q4_1"  # the embedded model
TEXT_CODECS = frozenset(
    {"tgi", "lmi", "llama"}
)  # codecs that send one text, not messages, so completions.template must be a text layout


class Lake(Section):
    """Where the tables are stored, and how long their versions are kept."""

    root: StorageRoot
    format: Literal["parquet", "iceberg"]
    catalog: CatalogName
    namespace: CatalogName
    file_mb: Annotated[int, Field(ge=1, le=2048)]
    row_group_rows: Annotated[int, Field(ge=1, le=1_000_000)]
    branch: Annotated[str, Field(pattern=r"^([a-z0-9][A-Za-z0-9._-]{0,63})?$", examples=["trial-1"])]
    keep_versions: Annotated[int, Field(ge=1, le=10_000)]
    keep_days: Annotated[float, Field(ge=0, le=36_500, allow_inf_nan=False)]
    sweep_after_hours: Annotated[float, Field(ge=0, le=8760, allow_inf_nan=False)]
    lease_seconds: Annotated[float, Field(ge=1, le=3600, allow_inf_nan=False)]
    lease_wait_minutes: Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
    s3_endpoint: Url
    s3_region: str


class Articles(Section):
    """Which articles are read, and how they are divided into splits."""

    source: ArticlesSource
    limit: Annotated[int, Field(ge=0)]
    sample_seed: Annotated[int, Field(ge=0, le=2**63 - 1)]
    validation_share: Share
    test_share: Share
    holdout: StoragePath
    max_quarantined_share: Share
    max_passages: Annotated[int, Field(ge=1, le=10_000)]
    max_text_chars: Annotated[int, Field(ge=100, le=10_000_000)]

    @model_validator(mode="after")
    def _leaves_training_rows(self) -> "Articles":
        total = self.validation_share + self.test_share
        if total >= 1:
            msg = f"articles.validation_share + articles.test_share is {total:g}; it must be below 1, so that training rows are left"
            raise ValueError(msg)
        return self


class Retrieval(Section):
    """Which of the passages that a retriever finds may be distractors, and how much it looks up."""

    window: Annotated[int, Field(ge=1, le=1000)]
    max_score: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
    max_similarity: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
    postings: Annotated[int, Field(ge=0, le=1_000_000_000)]
    endpoint: str


class Base(Section):
    """How distractors are drawn."""

    distractors: Annotated[int, Field(ge=0, le=100)]
    oracle_share: Share
    variants: Literal["one", "both"]
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)]
    absent: Literal["stand_in", "singles", "nothing"]
    strategy: Literal["auto", "broadcast", "join"]
    broadcast_limit_mb: Annotated[int, Field(ge=0, le=1_000_000)]
    distractors_from: Mapping[Method, Share]
    retrieval: Retrieval

    @model_validator(mode="after")
    def _shares_fit(self) -> "Base":
        total = math.fsum(self.distractors_from.values())
        if total > 1 or ("random" in self.distractors_from and not math.isclose(total, 1)):
            most = "sum to 1" if "random" in self.distractors_from else "be at most 1 together"
            msg = f"base.distractors_from has shares that sum to {total:g}; they must {most}"
            raise ValueError(msg)
        return self

    @property
    def distractor_shares(self) -> Mapping[Method, float]:
        """Return the share of every method in base.distractors_from, in a fixed order."""
        found: dict[Method, float] = {name: self.distractors_from.get(name, 0.0) for name in METHODS[1:]}
        return {"random": max(0.0, 1 - math.fsum(found.values())), **found}

    @property
    def embedder(self) -> str:
        """The name of the endpoint that embeds texts, "" if no distractor is found by embeddings."""
        return self.retrieval.endpoint if self.distractors_from.get("embedding") else ""


class Batch(Section):
    """How large batch jobs are, and how their state is polled."""

    min_records: Annotated[int, Field(ge=1, le=1_000_000)]
    max_records: Annotated[int, Field(ge=1, le=10_000_000)]
    max_file_mb: Annotated[int, Field(ge=1, le=1_000_000)]
    poll_seconds: Seconds
    timeout_hours: Annotated[int, Field(ge=24, le=168)]


class Completions(RequestSettings):
    """What the teacher model is asked, how often and how fast."""

    endpoint: str
    style: Literal["answer", "cot", "finding"]
    prompts: templates.Prompts
    passage_marks: templates.PassageMarks
    decision: bool
    template: Literal["chat", "llama3"]
    temperature: Temperature
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
    max_new_tokens: Annotated[int, Field(ge=1, le=100_000)]
    in_flight: Count
    attempts: Annotated[int, Field(ge=1, le=100)]
    timeout_seconds: Seconds
    min_timeout_seconds: Seconds
    deadline_seconds: Seconds
    silent_seconds: Seconds
    flush_seconds: Seconds
    max_failed_share: Share
    mode: Literal["realtime", "batch"]
    requests_per_second: Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
    tokens_per_minute: Annotated[int, Field(ge=0)]
    max_spend: Money
    max_minutes: Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
    retry: RetryReasons
    again_temperatures: Temperatures
    reuse_truncated: bool
    batch: Batch

    @model_validator(mode="after")
    def _has_words_for_its_style(self) -> "Completions":
        if isinstance(self.prompts, str):
            try:
                templates.shipped(self.prompts, self.style)
            except ConfigError as error:
                raise ValueError(str(error)) from error
        elif self.style not in self.prompts:
            msg = f"completions.prompts has words for {', '.join(self.prompts)}; it must have them for style {self.style!r}"
            raise ValueError(msg)
        try:
            templates.mark_passages(self._own_words, *self._marks)
        except ValidationError as error:
            problem = error.errors()[0]["msg"].removeprefix("Value error, ")
            msg = f"completions.passage_marks is {self.passage_marks!r}, with which a prompt of completions.prompts {problem}"
            raise ValueError(msg) from error
        return self

    @property
    def words(self) -> templates.PromptTemplate:
        """The words of the prompts, by completions.prompts, completions.style and completions.passage_marks."""
        if self.passage_marks == "template":
            return self._own_words
        return templates.mark_passages(self._own_words, *self._marks)

    @property
    def _own_words(self) -> templates.PromptTemplate:
        return (
            templates.shipped(self.prompts, self.style) if isinstance(self.prompts, str) else self.prompts[self.style]
        )

    @property
    def _marks(self) -> tuple[templates.PassageMarks, templates.PassageMarks]:
        return self.passage_marks_of("teacher"), self.passage_marks_of("student")

    @property
    def cites_passages(self) -> bool:
        """Whether a chain of thought may cite passages by their numbers."""
        return self.passage_marks == "numbers" and self.style == "cot"

    def passage_marks_of(self, reader: templates.Reader) -> templates.PassageMarks:
        """Return the marks between the passages of a prompt; the teacher's are the template's, unless it may cite."""
        return self.passage_marks if reader == "student" or self.cites_passages else "template"

    @property
    def retry_temperatures(self) -> tuple[float, ...]:
        """Return the temperatures at which a request is sent again when the dataset would reject its answer."""
        others = dict.fromkeys(each for each in self.again_temperatures if each != self.temperature)
        return tuple(others) if "ungrounded" in self.retry else ()


class DatasetGate(Section):
    """What each check of an answer does with a row that fails it."""

    truncated: GateAction
    refusal: GateAction
    quote: GateAction
    citation: GateAction
    answer: GateAction
    decision: GateAction
    turn: GateAction
    length: GateAction
    language: GateAction


class Dataset(Section):
    """What the dataset contains, and in which formats."""

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
    max_rejected_share: Share
    language: Annotated[str, Field(pattern=r"^[a-z]{2,3}$", examples=["en"])]
    gate: DatasetGate

    @model_validator(mode="after")
    def _finds_every_final_answer(self) -> "Dataset":
        uses_answer_only = "answer_only" in self.formats or self.absent_answer == "answer_only"
        if uses_answer_only and self.gate.answer != "reject":
            msg = (
                f"dataset.gate.answer is {self.gate.answer!r}; it must be 'reject' with answer_only in dataset.formats or "
                "dataset.absent_answer, which takes the final answer out of each chain of thought"
            )
            raise ValueError(msg)
        return self


class Endpoint(RequestSettings):
    """One [endpoints.NAME] section: a model and how it is reached. Only `kind` is required."""

    kind: Literal["openai", "sagemaker", "bedrock", "embedded", "fake"]
    url: Url = ""
    model: str = ""
    api_key_env: VariableName = ""
    api_key_secret: str = ""
    ca_bundle: str = ""
    api_key_header: HeaderName = "Authorization"
    headers: Headers = Field(default={})
    query: Query = Field(default={})
    region: Annotated[str, Field(pattern=r"^([a-z]{2}(-[a-z]+)+-\d)?$", examples=["eu-west-1"])] = ""
    endpoint_name: Annotated[
        str, Field(pattern=r"^([a-zA-Z0-9](-*[a-zA-Z0-9]){0,62})?$", examples=["llama-3-1-8b"])
    ] = ""
    inference_component: str = ""
    codec: Literal["", Codec] = ""
    route: Annotated[str, Field(pattern=r"^(/[!-~]{0,500})?$", examples=["/v1/completions"])] = ""
    service_tier: Literal["", "priority", "default", "flex", "reserved"] = ""
    request_metadata: RequestMetadata = Field(default={}, max_length=15)
    role_arn: Annotated[
        str, Field(pattern=r"^(arn:[a-z-]+:iam::\d{12}:role/.+)?$", examples=["arn:aws:iam::123456789012:role/NAME"])
    ] = ""
    batch_folder: Annotated[
        str, Field(pattern=r"^(s3://[a-z0-9][a-z0-9.-]+(/.*)?)?$", examples=["s3://bucket/prefix"])
    ] = ""
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
    def _fill_in(cls, fields: object) -> object:
        """Fill in the default codec of the kind, and as `model` the name of what is called.

        The loader names the model of an embedded endpoint with `weights`.
        """
        if not isinstance(fields, dict):
            return fields
        default: str = CODECS.get(str(fields.get("kind")), ("",))[0]
        if fields.get("kind") == "bedrock" and "titan-embed" in str(fields.get("model")):
            default = EMBEDDING_CODEC
        names = (fields.get(name) for name in ("model", "inference_component", "endpoint_name"))
        model = next(filter(None, names), "")
        if not model and fields.get("kind") == "embedded" and not fields.get("weights"):
            model = BUILT_IN_MODEL
        return {**fields, "codec": fields.get("codec") or default, "model": model}

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> "Endpoint":
        needed = {"openai": ("url", "model"), "sagemaker": ("endpoint_name",), "bedrock": ("model",)}.get(self.kind, ())
        if not all(getattr(self, name) for name in needed):
            msg = f"needs {' and '.join(needed)}, as every endpoint of kind {self.kind}"
            raise ValueError(msg)
        codecs = CODECS.get(self.kind, ("",))
        if self.codec not in codecs:
            right = f"must have codec {' or '.join(codecs)}" if any(codecs) else "has no codec"
            msg = f"has codec {self.codec!r}; an endpoint of kind {self.kind} {right}"
            raise ValueError(msg)
        if self.kind == "openai" and (problem := base_url_problem(self.url)):
            raise ValueError(problem)
        if self.api_key_env and self.api_key_secret:
            msg = "has both api_key_env and api_key_secret; give one of them"
            raise ValueError(msg)
        if self.kind != "openai" and (self.headers or self.query or self.api_key_header != "Authorization"):
            msg = "has headers, query or api_key_header, which only an endpoint of kind openai sends; remove them"
            raise ValueError(msg)
        if problem := self.problem(self.codec):
            raise ValueError(problem)
        return self


class Price(Section):
    """The prices of a model or an instance in dollars, with their source and date; 0 is not known."""

    input_price: Money = 0
    output_price: Money = 0
    batch_input_price: Money | None = None
    batch_output_price: Money | None = None
    hourly_price: Money = 0
    source: str = ""
    date: str = ""

    def dollars(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Return the price of these tokens in dollars; prices are dollars per million tokens."""
        return (prompt_tokens * self.input_price + completion_tokens * self.output_price) / 1_000_000

    @property
    def is_known(self) -> bool:
        """Return whether the price of an hour or of a token is known."""
        return bool(self.hourly_price or self.input_price or self.output_price)


class Emr(Section):
    """The application, the workers and the limits of a run on EMR Serverless, and the prices of workers in dollars."""

    application_id: ApplicationId
    role_arn: RoleArn
    code: S3Prefix
    logs: S3Prefix
    label: ReleaseLabel
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
    arm64_vcpu_hour: Money
    arm64_gb_hour: Money
    disk_gb_hour: Money
    source: str
    date: str

    @property
    def vcpus(self) -> int:
        """The vCPUs that a run may use at once, in its driver and all executors."""
        return self.driver_cores + self.max_executors * self.executor_cores

    @property
    def memory_gb(self) -> int:
        """The memory that a run may use at once, in GB, in its driver and all executors."""
        return self.driver_memory_gb + self.max_executors * self.executor_memory_gb

    @property
    def billed_disk_gb(self) -> int:
        """The disk of one worker that is billed, in GB: 20 GB are free."""
        return self.disk_gb - 20

    def dollars(self, vcpu_hours: float, gb_hours: float, disk_gb_hours: float) -> float:
        """Return the price of workers in dollars, with the disk that is billed; 0 when a price is unknown."""
        is_arm = self.architecture == "arm64"
        vcpu_hour, gb_hour = (self.arm64_vcpu_hour, self.arm64_gb_hour) if is_arm else (self.vcpu_hour, self.gb_hour)
        if not (vcpu_hour and gb_hour):
            return 0.0
        return vcpu_hours * vcpu_hour + gb_hours * gb_hour + disk_gb_hours * self.disk_gb_hour


class Refresh(Section):
    """The bounds that new versions must keep for a refresh to publish them."""

    max_withdrawn_share: Share
    max_changed_share: Share
    max_quarantined_share: Share
    max_rejected_share: Share
    max_tell: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)]
    max_learned_tell: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)]


class Log(Section):
    """The format of log lines."""

    format: Literal["text", "json"]


class Config(Section):
    """All settings of a run."""

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
    spark: SparkSettings

    @model_validator(mode="after")
    def _defines_the_teacher(self) -> "Config":
        if self.completions.endpoint not in self.endpoints:
            known = ", ".join(sorted(self.endpoints))
            msg = f"completions.endpoint is {self.completions.endpoint!r}; it must name one of [endpoints.*]: {known}"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _fits_the_teacher(self) -> "Config":
        name, teacher = self.completions.endpoint, self.teacher
        if teacher.codec in TEXT_CODECS and self.completions.template == "chat":
            msg = (
                f"completions.template is 'chat'; it must be 'llama3', because codec {teacher.codec!r} of endpoints.{name} "
                "sends one text, not messages"
            )
            raise ValueError(msg)
        if self.completions.mode == "batch" and teacher.kind not in BATCH_KINDS:
            msg = f"completions.mode is 'batch'; endpoints.{name} must have kind {', '.join(map(repr, BATCH_KINDS))}"
            raise ValueError(msg)
        if self.completions.mode == "batch" and teacher.kind == "bedrock" and not teacher.role_arn:
            msg = f"completions.mode is 'batch'; endpoints.{name} must have role_arn, the role of Bedrock's batch jobs"
            raise ValueError(msg)
        if self.completions.mode == "batch" and (unfit := unfit_as_tags(teacher.request_metadata)):
            msg = (
                f"completions.mode is 'batch'; endpoints.{name}.request_metadata becomes tags of the batch jobs, so {unfit[0]!r} "
                "must have letters, digits, spaces and ._:/=+@- only, in name and value, and at most 128 letters in its name"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _can_send_what_is_set(self) -> "Config":
        if problem := self.teacher_requests.problem(self.teacher.codec):
            msg = f"completions, with endpoints.{self.completions.endpoint}: {problem}"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _can_embed(self) -> "Config":
        name, share = self.base.retrieval.endpoint, self.base.distractors_from.get("embedding")
        if not name and share:
            msg = (
                f"base.distractors_from has embedding = {share:g}; base.retrieval.endpoint must name the [endpoints.NAME] that "
                "embeds questions and passages"
            )
            raise ValueError(msg)
        if name and name not in self.endpoints:
            known = ", ".join(sorted(self.endpoints))
            msg = f"base.retrieval.endpoint is {name!r}; it must name one of [endpoints.*]: {known}"
            raise ValueError(msg)
        if name and (kind := self.endpoints[name].kind) not in EMBEDDING_KINDS:
            msg = (
                f"base.retrieval.endpoint is {name!r}, of kind {kind!r}, which cannot embed; its kind must be "
                f"{', '.join(map(repr, EMBEDDING_KINDS))}"
            )
            raise ValueError(msg)
        if name and kind == "bedrock" and (codec := self.endpoints[name].codec) != EMBEDDING_CODEC:
            msg = f"base.retrieval.endpoint is {name!r}, of codec {codec!r}; endpoints.{name}.codec must be {EMBEDDING_CODEC!r}"
            raise ValueError(msg)
        writers = {
            "completions.endpoint": [self.completions.endpoint],
            "evaluation.students": self.evaluation.students,
            "evaluation.judge": [self.evaluation.judge],
        }
        for key, names in writers.items():
            for each in names:
                if each in self.endpoints and self.endpoints[each].codec == EMBEDDING_CODEC:
                    msg = f"{key} names {each}, whose codec {EMBEDDING_CODEC!r} embeds texts; it must be one that writes answers"
                    raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _fits_an_asynchronous_teacher(self) -> "Config":
        name, teacher, price = self.completions.endpoint, self.teacher, self.price
        if not self.is_asynchronous:
            return self
        if teacher.inference_component:
            msg = f"completions.mode is 'batch'; endpoints.{name}.inference_component must be empty, because asynchronous endpoints have none"
            raise ValueError(msg)
        if "ungrounded" in self.completions.retry:
            msg = (
                "completions.retry has 'ungrounded', which asks in real time; it must not with completions.mode = 'batch' and "
                f"endpoints.{name} of kind 'sagemaker', because an asynchronous endpoint takes no calls in real time"
            )
            raise ValueError(msg)
        if self.completions.max_spend and not (price.input_price or price.output_price):
            msg = (
                f"completions.max_spend is {self.completions.max_spend:g}; it must be 0 with completions.mode = 'batch' and "
                f"endpoints.{name} of kind 'sagemaker', which costs by the hour: completions.max_minutes and the endpoint's "
                "automatic scaling limit it"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _has_original_answers(self) -> "Config":
        if self.dataset.answer == "original" and self.completions.style != "answer":
            msg = (
                f"completions.style is {self.completions.style!r}; it must be 'answer' with dataset.answer = 'original', because "
                "articles hold plain answers"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _has_words_without_thoughts(self) -> "Config":
        section = self.completions
        is_missing = not isinstance(section.prompts, str) and "answer" not in section.prompts
        if section.style == "cot" and "answer_only" in self.dataset.formats and is_missing:
            msg = (
                "dataset.formats has answer_only, whose prompts have the words of style 'answer'; completions.prompts must "
                "be a folder with cot.toml and answer.toml"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _defines_the_students(self) -> "Config":
        named = {
            "students": self.evaluation.students,
            "judge": [self.evaluation.judge] if self.evaluation.judge else [],
        }
        for key, names in named.items():
            unknown = sorted({*names} - {*self.endpoints})
            if unknown:
                known = ", ".join(sorted(self.endpoints))
                msg = f"evaluation.{key} names {', '.join(unknown)}; each must be one of [endpoints.*]: {known}"
                raise ValueError(msg)
            for name in names:
                if (codec := self.endpoints[name].codec) in TEXT_CODECS:
                    msg = (
                        f"evaluation.{key} names {name}, whose codec {codec!r} sends one text; an evaluation sends messages, "
                        "so the codec must be another one"
                    )
                    raise ValueError(msg)
        students = {name: self.endpoints[name] for name in self.evaluation.students}
        by_model = {student.model: name for name, student in students.items()}
        for name, student in students.items():
            if by_model[student.model] != name:
                msg = (
                    f"evaluation.students names endpoints.{name} and endpoints.{by_model[student.model]}, which have the same "
                    f"model {student.model!r}; give each its own `model`, because answers are stored by it"
                )
                raise ValueError(msg)
        return self

    @property
    def teacher(self) -> Endpoint:
        """The endpoint that writes the completions."""
        return self.endpoints[self.completions.endpoint]

    @property
    def teacher_requests(self) -> Completions:
        """The completions section with what its endpoint adds to each request, leaves out or renames; its own come first."""
        return self.completions.model_copy(update=self.completions.over(self.teacher))

    @property
    def is_asynchronous(self) -> bool:
        """Whether the teacher is an asynchronous endpoint of SageMaker, which takes no calls in real time."""
        return self.completions.mode == "batch" and self.teacher.kind == "sagemaker"

    @property
    def batch_limits(self) -> Batch:
        """The size of a batch job: completions.batch, within what the teacher's kind of service takes."""
        given = self.completions.batch
        limits = {
            "openai": {"max_file_mb": min(given.max_file_mb, OPENAI_FILE_MB)},
            "sagemaker": {
                "min_records": 1,
                "max_records": min(given.max_records, ASYNC_RECORDS),
            },  # no calls for the rest
        }
        return given.model_copy(update=limits.get(self.teacher.kind, {}))

    @property
    def price(self) -> Price:
        """The teacher's prices: those of its endpoint, else those of [prices] for its model."""
        return self.price_of(self.completions.endpoint)

    def price_of(self, name: str) -> Price:
        """Return the prices of an endpoint: its own, else those of [prices] for its model."""
        endpoint = self.endpoints[name]
        given = endpoint.model_dump(include=set(Price.model_fields), exclude_none=True)
        known = (self.prices[model] for model in price_names(endpoint.model) if model in self.prices)
        return next(known, Price()).model_copy(update=given)

    @property
    def is_price_known(self) -> bool:
        """Return whether the teacher has a price, or costs nothing because it runs on the machines of the job."""
        return self.teacher.kind in LOCAL_KINDS or self.price.is_known

    def unpriced(self, names: Iterable[str]) -> str:
        """Return why completions.max_spend cannot limit the requests to these endpoints, "" if it can."""
        if not self.completions.max_spend:
            return ""
        asked = list(names)
        if unlimited := [name for name in asked if not self._has_limit(name)]:
            return (
                f"completions.max_spend is {self.completions.max_spend:g}, and leave_out has max_tokens for endpoints."
                f"{unlimited[0]}, so nothing bounds what one answer costs; remove it from leave_out (rename gives it "
                "another name), or set max_spend = 0"
            )
        missing = [f"endpoints.{name} ({self.endpoints[name].model})" for name in asked if not self._can_limit(name)]
        if not missing:
            return ""
        return (
            f"completions.max_spend is {self.completions.max_spend:g}, and the price of {', '.join(missing)} is unknown, so "
            "nothing would stop the run; set its input_price and output_price (dollars per million tokens) or "
            "hourly_price, or max_spend = 0"
        )

    def _has_limit(self, name: str) -> bool:
        """Return whether each request to an endpoint has a limit of tokens, or costs nothing by the token."""
        endpoint = self.endpoints[name]
        sent = self.teacher_requests if name == self.completions.endpoint else endpoint
        is_by_token = endpoint.kind not in LOCAL_KINDS and not self.price_of(name).hourly_price
        return "max_tokens" not in sent.leave_out or not is_by_token

    def _can_limit(self, name: str) -> bool:
        """Return whether the dollars of all requests to an endpoint can be counted; a price of 0 must be its own."""
        endpoint, price = self.endpoints[name], self.price_of(name)
        tokens = price.input_price or endpoint.input_price == 0
        if name != self.base.embedder:  # which answers with a vector
            tokens = tokens and (price.output_price or endpoint.output_price == 0)
        return endpoint.kind in LOCAL_KINDS or bool(price.hourly_price) or bool(tokens and price.is_known)

    def check_max_spend(self, names: Iterable[str] | None = None) -> None:
        """Raise ConfigError if max_spend is set and the price of an endpoint is unknown, by default of those that a dataset needs."""
        asked = [self.completions.endpoint] if self.dataset.answer == "completion" else []
        asked += [self.base.embedder] if self.base.embedder else []
        if problem := self.unpriced(asked if names is None else names):
            raise ConfigError(problem)

    def settings(self) -> dict[str, Any]:
        """Return every setting as a JSON value, as stored with each version."""
        return self.model_dump(mode="json")
