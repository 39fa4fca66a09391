"""Settings, job, release -> every problem that would make the run fail on EMR Serverless, without network."""

import ipaddress
from collections.abc import Iterator
from urllib.parse import urlsplit

from raft_spark import config
from raft_spark.config import Config
from raft_spark.config.fields import OFFICIAL_TEST
from raft_spark.emr import worker_sizes
from raft_spark.emr.release import Release
from raft_spark.lake import filesystem
from raft_spark.stages import registry

BATCH_MARGIN = 60  # minutes for what a run does before and after its batch jobs
MAX_TIMEOUT = 10_080  # minutes, of EMR Serverless
REQUIRED = ("application_id", "role_arn", "code")


def uses(job: str) -> set[registry.Use]:
    """Return what the stages of a job use besides tables."""
    return {use for stage in registry.stages_of_job(job) for use in stage.uses}


def needs_hub(conf: Config, job: str) -> bool:
    """Say whether a job needs the Hugging Face packages: to read an hf: source, or to count tokens."""
    reads_hub = "source" in uses(job) and conf.articles.source.startswith("hf:")
    return reads_hub or ("tokenizer" in uses(job) and bool(conf.dataset.tokenizer))


def endpoints_of(conf: Config, job: str) -> dict[str, str]:
    """Return the names of the [endpoints.*] that a job sends requests to, each with the beginning of a sentence on its setting."""
    named = {
        "embedder": {conf.base.embedder: "base.retrieval.endpoint is"},
        "teacher": {conf.completions.endpoint: "completions.endpoint is"},
        "students": {
            **dict.fromkeys(conf.evaluation.students, "evaluation.students has"),
            conf.evaluation.judge: "evaluation.judge is",
        },
    }
    used = uses(job)
    return {name: text for use, names in named.items() if use in used for name, text in names.items() if name}


def problems(conf: Config, job: str) -> list[str]:
    """Return a sentence for each problem of the settings; those that are missing come first."""
    return [
        *_missing_settings(conf),
        *_lake(conf),
        *_workers(conf),
        *(_source(conf) if "source" in uses(job) else ()),
        *(sentence for name, setting in endpoints_of(conf, job).items() for sentence in _endpoint(conf, name, setting)),
        *_timeout(conf, job),
        *filter(None, [conf.unpriced(endpoints_of(conf, job))]),
    ]


def _missing_settings(conf: Config) -> Iterator[str]:
    missing = [f"emr.{name}" for name in REQUIRED if not getattr(conf.emr, name)]
    if missing:
        yield f"{', '.join(missing)} must be set; conf/emr.toml is a template"


def _lake(conf: Config) -> Iterator[str]:
    if not conf.lake.root.startswith("s3://"):
        yield f"lake.root is {conf.lake.root!r}; EMR needs a bucket: s3://bucket/prefix"
    if _is_loopback(conf.lake.s3_endpoint):
        yield f"lake.s3_endpoint is {conf.lake.s3_endpoint!r}, which is this machine and out of EMR's reach"
    if conf.lake.format == "iceberg":
        wanted = (
            "spark.jars",
            *(f"spark.sql.catalog.{conf.lake.catalog}.{key}" for key in ("catalog-impl", "warehouse")),
        )
        missing = [f'spark."{key}"' for key in wanted if key not in conf.spark]
        if missing:
            yield f"lake.format is 'iceberg', so {', '.join(missing)} must be set; conf/emr.toml shows how"


def _workers(conf: Config) -> Iterator[str]:
    emr = conf.emr
    for role, cores, memory in (
        ("driver", emr.driver_cores, emr.driver_memory_gb),
        ("executor", emr.executor_cores, emr.executor_memory_gb),
    ):
        problem = worker_sizes.problem(cores, memory)
        if problem:
            yield f"emr.{role}_memory_gb is {problem}"
    try:
        worker_sizes.overhead_factor(conf.spark)
    except ValueError:
        yield f'spark."{worker_sizes.FACTOR}" is {conf.spark[worker_sizes.FACTOR]!r}; it must be a number between 0 and 1'


def _source(conf: Config) -> Iterator[str]:
    if not conf.articles.source.startswith(("hf:", "sample:", "s3://", "s3a://")):
        yield f"articles.source is {conf.articles.source!r}, a folder of this machine; EMR reads hf:, s3:// and sample: sources"
    if conf.articles.holdout not in {"", OFFICIAL_TEST} and "://" not in conf.articles.holdout:
        yield f"articles.holdout is {conf.articles.holdout!r}, a file of this machine; EMR reads it from s3://bucket/name"


def _endpoint(conf: Config, name: str, setting: str) -> Iterator[str]:
    """Yield the reasons why EMR cannot reach an endpoint; `setting` begins the sentence about its kind."""
    endpoint, key = conf.endpoints[name], f"endpoints.{name}"
    if endpoint.kind in {"embedded", "fake"}:
        yield (
            f"{setting} {name!r}, of kind {endpoint.kind}, which runs on this machine only; "
            "EMR needs an endpoint of kind sagemaker, bedrock or openai"
        )
    if _is_loopback(endpoint.url):
        yield f"{key}.url is {endpoint.url!r}, which is this machine and out of EMR's reach"
    if endpoint.api_key_env:
        yield (
            f"{key}.api_key_env names an environment variable, which EMR's workers do not have; "
            f"store the key in Secrets Manager and set {key}.api_key_secret to the secret's name"
        )


def _timeout(conf: Config, job: str) -> Iterator[str]:
    """EMR would cancel the driver, and nobody would collect what the batch jobs answer later."""
    hours, minutes = conf.completions.batch.timeout_hours, conf.emr.timeout_minutes
    least = min(hours * 60 + BATCH_MARGIN, MAX_TIMEOUT)
    if "teacher" in uses(job) and conf.completions.mode == "batch" and minutes < least:
        yield (
            f"emr.timeout_minutes is {minutes}, but batch jobs may take {hours} hours (completions.batch.timeout_hours); "
            f"set emr.timeout_minutes to at least {least}"
        )


def release_problems(job: str, release: Release) -> Iterator[str]:
    """Yield a sentence for each reason why this raft-spark cannot submit the job from a release."""
    digests = {file.path: file.sha256 for file in release.files}
    if f"jobs/{job}.py" not in digests:
        yield f"release {release.name} has no jobs/{job}.py; build another: raft-spark emr package"
    defaults = filesystem.sha256(config.folder() / "default.toml")  # only settings that differ from it are sent
    if digests.get("conf/default.toml", defaults) != defaults:
        yield f"release {release.name} has another conf/default.toml than this raft-spark; build another: raft-spark emr package"


def _is_loopback(url: str) -> bool:
    """Say whether a URL points to this machine."""
    host = urlsplit(url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    actual = getattr(address, "ipv4_mapped", None) or address
    return bool(actual.is_loopback or actual.is_unspecified)
