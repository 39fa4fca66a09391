"""Define the types of single settings: their ranges, and checks whose messages say what would be right.

A check takes the value from the file and returns the value of the Config. Pydantic collects its ValueError, and `messages`
puts the setting's name and value before a text that starts with "it must", else the name alone.
"""

import os
import re
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

OFFICIAL_TEST = "pubmedqa-test"  # the value of articles.holdout that names PubMedQA's 500 test questions


class Section(BaseModel):
    """The base of all sections: frozen, without unknown keys, without conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _check_source(text: str) -> str:
    """Check the form of articles.source; whether the source exists is checked when it is read."""
    if not text or "://" in text or text.startswith("~"):
        return _check_root(text)
    if text.startswith("sample:") and not re.fullmatch(r"sample:[1-9]\d{0,8}", text):
        msg = "it must be sample:N with N from 1 to 999999999"
        raise ValueError(msg)
    if text.startswith("hf:") and not re.fullmatch(r"hf:[\w.-]+/[\w.-]+/[\w.-]+", text):
        msg = "it must be hf:OWNER/NAME/CONFIG, for example hf:qiaojin/PubMedQA/pqa_artificial"
        raise ValueError(msg)
    return text


def _check_path(text: str) -> str:
    """Accept a path on the disk or in a bucket; "" is the value that is not set."""
    return text and _check_root(text)


def _check_root(text: str) -> str:
    """Accept a folder or an S3 prefix, without its trailing slash; ~ becomes the home folder."""
    if not text or ("://" in text and not re.match(r"s3a?://[a-z0-9][a-z0-9.-]+(/|$)", text)):
        msg = "it must be a folder or s3://bucket/prefix"
        raise ValueError(msg)
    text = os.path.expanduser(text)  # noqa: PTH111 - Path raises for a user that does not exist
    return text.rstrip("/") if len(text) > 1 else text


def _check_url(text: str) -> str:
    """Accept an http(s) URL without a user name and password, since settings are logged and stored."""
    text = text.strip()
    if not text:
        return text
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or re.search(r"\s", text):
        msg = "it must be an address such as http://127.0.0.1:8000/v1"
        raise ValueError(msg)
    if parts.username or parts.password:
        msg = "holds a user name or password; remove it, and give the name of the variable that holds the key as api_key_env"
        raise ValueError(msg)
    if parts.query or parts.fragment:
        msg = "has a ? or a #; it must end before, and an endpoint of kind openai has what follows in its setting query"
        raise ValueError(msg)
    return text.rstrip("/")


def base_url_problem(url: str) -> str:
    """Return why a URL is not the base URL of an OpenAI server, to which a route is added; "" when it is."""
    path = urlsplit(url).path
    base = re.sub(r"(/chat)?/completions/?$|/v1(?=/v1(/|$))", "", path)
    return f"has the url {url}; it must be the base URL, such as {url.replace(path, base, 1)}" if base != path else ""


def _check_variable(text: str) -> str:
    """Accept the name of an environment variable. The message does not repeat another value, which may be the key itself."""
    if not re.fullmatch(r"([A-Za-z_][A-Za-z0-9_]*)?", text):
        msg = "is no name of an environment variable; it must name the one that holds the key, never be the key"
        raise ValueError(msg)
    return text


def _check_spark(settings: dict[str, str]) -> dict[str, str]:
    """Refuse settings of Spark that hold a secret: the names that spark.redaction.regex matches, and API keys."""
    for key in settings:
        if re.search(r"secret|password|token|(access|api)[._-]?key", key, re.IGNORECASE):
            msg = (
                f"must not hold {key!r}, because settings are stored with each version; pass it to spark-submit, "
                "or use AWS's credential chain"
            )
            raise ValueError(msg)
    return settings


def _check_tags(tags: dict[str, str]) -> dict[str, str]:
    """Refuse tags that EMR Serverless would not accept, by the patterns of TagKey and TagValue in its API."""
    most = 190  # EMR Serverless accepts 200; raft-spark adds some
    allowed = r"[A-Za-z0-9 /_.:=+@-]"
    bad = [
        key
        for key, value in tags.items()
        if not (re.fullmatch(f"{allowed}{{1,128}}", key) and re.fullmatch(f"{allowed}{{0,256}}", value))
    ]
    if bad or len(tags) > most:
        msg = f"it must be at most {most} tags with letters, digits, spaces and /_.:=+@- only, unlike {', '.join(bad) or len(tags)}"
        raise ValueError(msg)
    return tags


def _check_metadata(metadata: dict[str, str]) -> dict[str, str]:
    """Refuse request metadata that Bedrock would not accept, by the patterns of RequestMetadata in its API."""
    allowed = r"[a-zA-Z0-9\s:_@$#=/+,.-]"
    for name, value in metadata.items():
        if not (re.fullmatch(f"{allowed}{{1,256}}", name) and re.fullmatch(f"{allowed}{{0,256}}", value)):
            msg = (
                f"has the entry {name!r}; name and value must have at most 256 letters, digits, spaces and :_@$#=/+,.-"
            )
            raise ValueError(msg)
    if "key" in metadata:
        msg = (
            "has the entry 'key'; it must have another name, because raft-spark sends the key of each request under it"
        )
        raise ValueError(msg)
    return metadata


def unfit_as_tags(metadata: dict[str, str]) -> list[str]:
    """Return the names of request metadata that Bedrock does not accept as tags of batch jobs."""
    allowed = r"[a-zA-Z0-9\s._:/=+@-]"
    return [
        name
        for name, value in metadata.items()
        if not (re.fullmatch(f"{allowed}{{1,128}}", name) and re.fullmatch(f"{allowed}{{0,256}}", value))
    ]


def _matching(pattern: str, example: str) -> AfterValidator:
    """Return a check for text that matches `pattern`; "" passes, as the value that is not set yet."""

    def check(text: str) -> str:
        if text and not re.fullmatch(pattern, text):
            msg = f"it must be {example}"
            raise ValueError(msg)
        return text

    return AfterValidator(check)


def without_duplicates(names: tuple[Any, ...]) -> tuple[Any, ...]:
    """Keep the first of equal names."""
    return tuple(dict.fromkeys(names))


def _sorted_numbers(numbers: tuple[int, ...]) -> tuple[int, ...]:
    """Sort numbers and drop duplicates."""
    return tuple(sorted(set(numbers)))


def split_list(given: object) -> object:
    """Accept `a,b` and a single value as lists, as in `--set completions.retry=bad_request,filtered`."""
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
    AfterValidator(without_duplicates),
    BeforeValidator(split_list),
]
RetryReasons = Annotated[
    tuple[RetryReason, ...], Field(strict=False), AfterValidator(without_duplicates), BeforeValidator(split_list)
]
Method = Literal["random", "bm25", "mesh", "embedding"]
METHODS: tuple[Method, ...] = get_args(Method)  # how distractors are found; random is the first
Condition = Literal["with", "without", "retrieved", "alone", "closed"]
Conditions = Annotated[
    tuple[Condition, ...],
    Field(strict=False, min_length=1),
    AfterValidator(without_duplicates),
    BeforeValidator(split_list),
]
Students = Annotated[
    tuple[str, ...],
    Field(strict=False, min_length=1),
    AfterValidator(without_duplicates),
    BeforeValidator(split_list),
]
DistractorCounts = Annotated[
    tuple[Annotated[int, Field(ge=1, le=100, strict=False)], ...],
    Field(strict=False, min_length=1),
    AfterValidator(_sorted_numbers),
    BeforeValidator(split_list),
]
Temperatures = Annotated[
    tuple[Annotated[Temperature, Field(strict=False)], ...],
    Field(strict=False, min_length=1, max_length=10),
    BeforeValidator(split_list),
]
S3Prefix = Annotated[
    str,
    _matching(
        r"s3://[a-z0-9][a-z0-9.-]+(/[A-Za-z0-9_./=-]*)?", "s3://bucket/prefix with letters, digits and _./=- only"
    ),
]
RoleArn = Annotated[
    str,
    _matching(
        r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+",
        "the ARN of a role, such as arn:aws:iam::123456789012:role/NAME",
    ),
]
ApplicationId = Annotated[str, _matching(r"[0-9a-z]{1,64}", "the id of an application, such as 00fabc123def4567")]
ReleaseLabel = Annotated[
    str,
    _matching(
        r"emr-spark-8\.\d{1,2}\.\d{1,2}|emr-7\.1\d\.\d{1,2}",
        "a release label emr-spark-8.N.N, or emr-7.N.N from 7.10.0 on",
    ),
]
CatalogName = Annotated[
    str, _matching(r"[a-z][a-z0-9_]{0,62}", "a name of lowercase letters, digits and _, such as raft_spark")
]
LogGroup = Annotated[
    str, _matching(r"[._/#A-Za-z0-9-]{1,512}", "the name of a log group, such as /emr-serverless/raft-spark")
]
RemoteWrite = Annotated[
    str,
    _matching(
        r"https://aps-workspaces\.[a-z0-9-]+\.amazonaws(\.[0-9A-Za-z]{2,4})+/workspaces/[-_.0-9A-Za-z]{1,100}/api/v1/remote_write",
        "an address such as https://aps-workspaces.REGION.amazonaws.com/workspaces/ID/api/v1/remote_write",
    ),
]
Region = Annotated[str, _matching(r"[a-z]{2}(-[a-z]+)+-\d", "a region, such as us-east-1")]
InstanceType = Annotated[
    str, _matching(r"ml\.[a-z0-9-]+\.[a-z0-9]+", "an instance type of SageMaker, such as ml.g5.2xlarge")
]
ContainerImage = Annotated[
    str,
    _matching(
        r"[a-z0-9][a-z0-9.-]+\.[a-z]+/[\w./-]+(:[\w.-]+)?(@sha256:[0-9a-f]{64})?",
        "an image such as REGISTRY/REPOSITORY:TAG",
    ),
]
RequestMetadata = Annotated[dict[str, str], AfterValidator(_check_metadata)]
Tags = Annotated[dict[str, str], AfterValidator(_check_tags)]
StorageRoot = Annotated[str, AfterValidator(_check_root)]
StoragePath = Annotated[str, AfterValidator(_check_path)]
ArticlesSource = Annotated[str, AfterValidator(_check_source)]
SparkSettings = Annotated[dict[str, str], AfterValidator(_check_spark)]
Url = Annotated[str, AfterValidator(_check_url)]
VariableName = Annotated[str, AfterValidator(_check_variable)]
