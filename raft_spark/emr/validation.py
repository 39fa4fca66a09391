"""Settings, a job and a release -> what is wrong with them for EMR Serverless, all at once, before anything is uploaded or paid."""

import ipaddress
from collections.abc import Iterator
from urllib.parse import urlsplit

from raft_spark import config
from raft_spark.config import Config
from raft_spark.emr import worker_sizes
from raft_spark.emr.release import Release
from raft_spark.lake import filesystem
from raft_spark.stages import registry

NEEDED = ("application_id", "role_arn", "code")


def uses(job: str) -> set[registry.Use]:
    """Return what the stages of a job read or ask beyond tables."""
    return {use for stage in registry.stages_of_job(job) for use in stage.uses}


def needs_hub(conf: Config, job: str) -> bool:
    """Say whether a job needs the packages of the hub: to read articles there, or to count tokens."""
    reads = "source" in uses(job) and conf.articles.source.startswith("hf:")
    return reads or ("tokenizer" in uses(job) and bool(conf.dataset.tokenizer))


def asks_model(conf: Config, job: str) -> dict[str, str]:
    """Return the name of each of [endpoints.*] that a job asks, with the words of the setting that names it."""
    if "teacher" in uses(job):
        return {conf.completions.endpoint: "completions.endpoint is"}
    if "students" not in uses(job):
        return {}
    students = dict.fromkeys(conf.evaluation.students, "evaluation.students has")
    return students | ({conf.evaluation.judge: "evaluation.judge is"} if conf.evaluation.judge else {})


def problems(conf: Config, job: str, release: Release) -> list[str]:
    """Return a sentence for each."""
    return [
        *_missing(conf),
        *_lake(conf),
        *_workers(conf),
        *(_source(conf) if "source" in uses(job) else ()),
        *(sentence for name, setting in asks_model(conf, job).items() for sentence in _endpoint(conf, name, setting)),
        *_release(job, release),
    ]


def _missing(conf: Config) -> Iterator[str]:
    missing = [f"emr.{name}" for name in NEEDED if not getattr(conf.emr, name)]
    if missing:
        yield f"{', '.join(missing)} must be given; conf/emr.toml is a file to fill in"


def _lake(conf: Config) -> Iterator[str]:
    if not conf.lake.root.startswith("s3://"):
        yield f"lake.root is {conf.lake.root!r}; EMR reaches s3://bucket/prefix"
    if _is_here(conf.lake.s3_endpoint):
        yield f"lake.s3_endpoint is {conf.lake.s3_endpoint!r}, this machine, which EMR does not reach"
    if conf.lake.format == "iceberg":
        wanted = (
            "spark.jars",
            *(f"spark.sql.catalog.{conf.lake.catalog}.{key}" for key in ("catalog-impl", "warehouse")),
        )
        missing = [f'spark."{key}"' for key in wanted if key not in conf.spark]
        if missing:
            yield f"lake.format is 'iceberg', and {', '.join(missing)} must be given; conf/emr.toml shows how"


def _workers(conf: Config) -> Iterator[str]:
    emr = conf.emr
    for role, cores, memory in (
        ("driver", emr.driver_cores, emr.driver_memory_gb),
        ("executor", emr.executor_cores, emr.executor_memory_gb),
    ):
        told = worker_sizes.problems(cores, memory)
        if told:
            yield f"emr.{role}_memory_gb is {told}"
    try:
        worker_sizes.factor(conf.spark)
    except ValueError:
        yield f'spark."{worker_sizes.FACTOR}" is {conf.spark[worker_sizes.FACTOR]!r}; it must be a number between 0 and 1'


def _source(conf: Config) -> Iterator[str]:
    if not conf.articles.source.startswith(("hf:", "sample:", "s3://", "s3a://")):
        yield f"articles.source is {conf.articles.source!r}, a folder of this machine; EMR reads hf:, s3:// and sample:"


def _endpoint(conf: Config, name: str, setting: str) -> Iterator[str]:
    """Say why EMR cannot ask an endpoint, which the words `setting` name."""
    endpoint, key = conf.endpoints[name], f"endpoints.{name}"
    if endpoint.kind in {"embedded", "fake"}:
        yield (
            f"{setting} {name!r}, of kind {endpoint.kind}, which runs on this machine alone; "
            "EMR asks one of kind sagemaker, bedrock or openai"
        )
    if _is_here(endpoint.url):
        yield f"{key}.url is {endpoint.url!r}, this machine, which EMR does not reach"
    if endpoint.api_key_env:
        yield (
            f"{key}.api_key_env names a variable that EMR's workers do not have; "
            f"put the key into Secrets Manager, and the name of its entry into {key}.api_key_secret"
        )


def _release(job: str, release: Release) -> Iterator[str]:
    held = {file.path: file.sha256 for file in release.files}
    if f"jobs/{job}.py" not in held:
        yield f"release {release.name} holds no jobs/{job}.py; make another: raft-spark emr package"
    own = filesystem.sha256(config.folder() / "default.toml")  # what is as there does not travel
    if held.get("conf/default.toml", own) != own:
        yield f"release {release.name} has other defaults in its conf/default.toml than this raft-spark; make another: raft-spark emr package"


def _is_here(url: str) -> bool:
    """Say whether an address is one of this machine."""
    host = urlsplit(url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified
