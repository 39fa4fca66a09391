"""What one value of the settings may be: types with their ranges, and checks that say what would be right.

A check takes a value as it was written and returns it as it is kept; pydantic turns its ValueError into a finding.
"""

import hashlib
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


class Section(BaseModel):
    """A section of the settings: frozen, nothing unknown, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _check_source(text: str) -> str:
    """Refuse a source that cannot be one, before anything starts."""
    if not text or "://" in text:
        return _check_root(text)
    if text.startswith("sample:") and not re.fullmatch(r"sample:[1-9]\d{0,8}", text):
        msg = "it must be sample:N with N from 1 to 999999999"
        raise ValueError(msg)
    if text.startswith("hf:") and not re.fullmatch(r"hf:[\w.-]+/[\w.-]+/[\w.-]+", text):
        msg = "it must be hf:OWNER/NAME/CONFIG, for example hf:qiaojin/PubMedQA/pqa_artificial"
        raise ValueError(msg)
    return text


def _check_root(text: str) -> str:
    """Refuse a lake on a file system that nobody here can write."""
    if not text or ("://" in text and not re.match(r"s3a?://[a-z0-9][a-z0-9.-]+(/|$)", text)):
        msg = "it must be a folder or s3://bucket/prefix"
        raise ValueError(msg)
    return text.rstrip("/") if len(text) > 1 else text


def _check_url(text: str) -> str:
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


def _check_variable(text: str) -> str:
    """Refuse what is no variable's name: most likely it is the key itself, so it is not repeated."""
    if not re.fullmatch(r"([A-Za-z_][A-Za-z0-9_]*)?", text):
        msg = "is no name of an environment variable; it must name the one that holds the key, never be the key"
        raise ValueError(msg)
    return text


def _check_spark(settings: dict[str, str]) -> dict[str, str]:
    """Refuse a secret in Spark's own settings; the words are those of spark.redaction.regex, and API keys."""
    for key in settings:
        if re.search(r"secret|password|token|(access|api)[._-]?key", key, re.IGNORECASE):
            msg = f"must not hold {key!r}: settings are stored; give it to spark-submit, or use AWS's own chain"
            raise ValueError(msg)
    return settings


def _check_tags(tags: dict[str, str]) -> dict[str, str]:
    """Refuse tags that EMR Serverless does not take; the characters are those of its API's TagKey and TagValue."""
    most = 190  # of 200, some are raft-spark's own
    allowed = r"[A-Za-z0-9 /_.:=+@-]"
    bad = [
        key
        for key, value in tags.items()
        if not (re.fullmatch(f"{allowed}{{1,128}}", key) and re.fullmatch(f"{allowed}{{0,256}}", value))
    ]
    if bad or len(tags) > most:
        msg = f"it must be at most {most} tags of letters, digits, spaces and /_.:=+@-, unlike {', '.join(bad) or len(tags)}"
        raise ValueError(msg)
    return tags


def model_name_of_file(path: str) -> str:
    """Name a model by its file: the name and the first digits of its SHA-256. Refuses a file that is not there."""
    try:
        with Path(path).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        msg = f"has weights {path!r}, which cannot be read ({error.strerror}); it must name a GGUF file"
        raise ValueError(msg) from error
    return f"{Path(path).stem}-{digest[:12]}"


def _matching(pattern: str, example: str) -> AfterValidator:
    """Return a check that refuses what does not look like the example; "" is nothing yet, and stands."""

    def checked(text: str) -> str:
        if text and not re.fullmatch(pattern, text):
            msg = f"it must be {example}"
            raise ValueError(msg)
        return text

    return AfterValidator(checked)


def _without_duplicates(names: tuple[Any, ...]) -> tuple[Any, ...]:
    """Take what is named twice once."""
    return tuple(dict.fromkeys(names))


def _sorted_numbers(numbers: tuple[int, ...]) -> tuple[int, ...]:
    """Put numbers in order, each once."""
    return tuple(sorted(set(numbers)))


def _split_list(given: object) -> object:
    """Take `a,b` for a list, and `a` for a list of one, as `--set completions.retry=bad_request,filtered` gives them."""
    if isinstance(given, str):
        return [each.strip() for each in given.split(",") if each.strip()]
    return [given] if isinstance(given, int | float) else given


Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Money = Annotated[float, Field(ge=0, allow_inf_nan=False)]  # dollars
Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
GateAction = Literal["off", "flag", "reject"]
RetryReason = Literal["bad_request", "filtered", "empty", "ungrounded"]
FormatName = Literal[
    "messages",
    "prompt_completion",
    "answer_only",
    "preference",
    "notebook",
    "jumpstart",
    "bedrock",
    "alpaca",
    "sharegpt",
]
FormatNames = Annotated[
    tuple[FormatName, ...],
    Field(strict=False, min_length=1),
    AfterValidator(_without_duplicates),
    BeforeValidator(_split_list),
]
RetryReasons = Annotated[
    tuple[RetryReason, ...], Field(strict=False), AfterValidator(_without_duplicates), BeforeValidator(_split_list)
]
Condition = Literal["with", "without", "alone", "closed"]
Conditions = Annotated[
    tuple[Condition, ...],
    Field(strict=False, min_length=1),
    AfterValidator(_without_duplicates),
    BeforeValidator(_split_list),
]
Students = Annotated[
    tuple[str, ...],
    Field(strict=False, min_length=1),
    AfterValidator(_without_duplicates),
    BeforeValidator(_split_list),
]
DistractorCounts = Annotated[
    tuple[Annotated[int, Field(ge=1, le=100, strict=False)], ...],
    Field(strict=False, min_length=1),
    AfterValidator(_sorted_numbers),
    BeforeValidator(_split_list),
]
Temperatures = Annotated[
    tuple[Annotated[Temperature, Field(strict=False)], ...],
    Field(strict=False, min_length=1, max_length=10),
    BeforeValidator(_split_list),
]
S3Prefix = Annotated[
    str, _matching(r"s3://[a-z0-9][a-z0-9.-]+(/[A-Za-z0-9_./=-]*)?", "s3://bucket/prefix, of letters, digits and _./=-")
]
RoleArn = Annotated[
    str, _matching(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+", "as arn:aws:iam::123456789012:role/NAME")
]
ApplicationId = Annotated[str, _matching(r"[0-9a-z]{1,64}", "the id of an application, as 00fabc123def4567")]
ReleaseLabel = Annotated[
    str, _matching(r"emr-spark-8\.\d{1,2}\.\d{1,2}|emr-7\.1\d\.\d{1,2}", "emr-spark-8.N.N or emr-7.N.N from 7.10.0 on")
]
CatalogName = Annotated[
    str, _matching(r"[a-z][a-z0-9_]{0,62}", "a name of lowercase letters, digits and _, as raft_spark")
]
LogGroup = Annotated[
    str, _matching(r"[._/#A-Za-z0-9-]{1,512}", "the name of a log group, as /emr-serverless/raft-spark")
]
RemoteWrite = Annotated[
    str,
    _matching(
        r"https://aps-workspaces\.[a-z0-9-]+\.amazonaws(\.[0-9A-Za-z]{2,4})+/workspaces/[-_.0-9A-Za-z]{1,100}/api/v1/remote_write",
        "as https://aps-workspaces.REGION.amazonaws.com/workspaces/ID/api/v1/remote_write",
    ),
]
Region = Annotated[str, _matching(r"[a-z]{2}(-[a-z]+)+-\d", "a region, as us-east-1")]
InstanceType = Annotated[
    str, _matching(r"ml\.[a-z0-9-]+\.[a-z0-9]+", "an instance type of SageMaker, as ml.g5.2xlarge")
]
ContainerImage = Annotated[
    str,
    _matching(r"[a-z0-9][a-z0-9.-]+\.[a-z]+/[\w./-]+(:[\w.-]+)?(@sha256:[0-9a-f]{64})?", "as REGISTRY/REPOSITORY:TAG"),
]
Tags = Annotated[dict[str, str], AfterValidator(_check_tags)]
StorageRoot = Annotated[str, AfterValidator(_check_root)]
ArticlesSource = Annotated[str, AfterValidator(_check_source)]
SparkSettings = Annotated[dict[str, str], AfterValidator(_check_spark)]
Url = Annotated[str, AfterValidator(_check_url)]
VariableName = Annotated[str, AfterValidator(_check_variable)]
