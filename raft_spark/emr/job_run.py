"""Settings, job, release -> the arguments of StartJobRun, without network and without chance.

`raft-spark emr submit` sends them, and prints them with --dry-run; Airflow and the schedule of the stack send what was
printed. They contain the settings, so that the cluster needs no settings file.
"""

import hashlib
import json
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raft_spark import config
from raft_spark.config import Config
from raft_spark.emr import validation, worker_sizes
from raft_spark.emr.release import Release
from raft_spark.errors import ConfigError

PYTHON = "python3.11"  # the default of emr-7.x is 3.9
IDENTITY = "raft-spark:identity"  # the tag with the digest of the arguments: equal for two runs of the same
INITIAL_EXECUTORS = 3  # EMR's default, which has to be lowered when max_executors is less
MAX_ARGUMENTS, MAX_CHARACTERS = 1024, 102_400  # StartJobRun's limits
SECTIONS_NOT_SENT = frozenset({"spark", "emr"})  # they become parameters of spark-submit and of StartJobRun


def build(conf: Config, job: str, arguments: Sequence[str], release: Release) -> dict[str, Any]:
    """Return the arguments of boto3's start_job_run without clientToken (see `client_token`).

    `arguments` are passed to the job after the settings. Raises ConfigError with every problem of the settings.
    """
    check(conf, job)
    problems = list(validation.release_problems(job, release))
    if problems:
        raise ConfigError("\n".join(problems))
    document = {
        "applicationId": conf.emr.application_id,
        "executionRoleArn": conf.emr.role_arn,
        "name": f"raft-spark-{job}",
        "mode": "BATCH",
        "executionTimeoutMinutes": conf.emr.timeout_minutes,
        "retryPolicy": {"maxAttempts": conf.emr.attempts},
        **({"flexExecution": {"enabled": True}} if conf.emr.flex else {}),
        **_monitoring(conf.emr),
        "jobDriver": {"sparkSubmit": _spark_submit(conf, job, arguments, release)},
    }
    tags = {"raft-spark:job": job, "raft-spark:release": release.name, IDENTITY: _digest(document)}
    return {**document, "tags": {**conf.emr.tags, **tags}}


def check(conf: Config, job: str) -> None:
    """Raise ConfigError with every problem of the settings."""
    problems = validation.problems(conf, job)
    if problems:
        raise ConfigError("\n".join(problems))


def client_token(document: Mapping[str, Any], last: str) -> str:
    """Return the clientToken: equal for equal documents until a later run than `last` (a run's id) has ended."""
    return _digest([document["tags"][IDENTITY], last])


def _spark_submit(conf: Config, job: str, arguments: Sequence[str], release: Release) -> dict[str, Any]:
    settings = [f"--set={assignment}" for assignment in assignments(conf)]
    properties = spark_settings(conf, job, release)
    parameters = " ".join(f"--conf {_quoted(f'{key}={value}')}" for key, value in properties.items())
    for what, count, limit in (
        ("settings that are not the defaults", len(settings) + len(arguments), MAX_ARGUMENTS),
        ("characters of Spark's settings", len(parameters), MAX_CHARACTERS),
    ):
        if count > limit:
            msg = f"there are {count:,} {what}; StartJobRun takes at most {limit:,}"
            raise ConfigError(msg)
    return {
        "entryPoint": f"{release_uri(conf, release)}/jobs/{job}.py",
        "entryPointArguments": [*settings, *arguments],
        "sparkSubmitParameters": parameters,
    }


def _quoted(word: str) -> str:
    """Quote a word for a shell, but not for the # of an archive, which Amazon's examples do not quote either."""
    return word if re.fullmatch(r"[\w.]+=[A-Za-z0-9_@%+=:,./#-]*", word, re.ASCII) else shlex.quote(word)


def assignments(conf: Config) -> list[str]:
    """Return each setting that is not as in conf/default.toml as `section.key=value`, for `--set`."""
    default, settings = dict(_leaves(_explicit_settings(config.load()))), _leaves(_explicit_settings(conf))
    return [_assignment(key, value) for key, value in settings if key not in default or default[key] != value]


def _explicit_settings(conf: Config) -> dict[str, Any]:
    return conf.model_dump(mode="json", exclude_unset=True, exclude=set(SECTIONS_NOT_SENT))


def _leaves(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value below a table with its dotted key, without None, which TOML cannot express."""
    for name, value in table.items():
        key = above + (name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name))
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{key}.")
        elif value is not None:
            yield key, value


def _assignment(key: str, value: object) -> str:
    """Return `key=value` in TOML; a plain word is not quoted, so that no shell on the way can misread the quotes."""
    is_word = isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_./:@+-]+", value) and '"' not in key
    if is_word:
        try:
            tomllib.loads(f"word = {value}")
        except tomllib.TOMLDecodeError:
            return f"{key}={value}"
    return f"{key}={_toml(value)}"


def _toml(value: object) -> str:
    """Return a JSON value as TOML: as JSON but for tables, and one character that TOML wants escaped."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(name)} = {_toml(part)}" for name, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def spark_settings(conf: Config, job: str, release: Release) -> dict[str, str]:
    """Return Spark's properties: worker sizes, Python and the release's archives, then [spark].

    Raises ConfigError when [spark] sets one of the others.
    """
    emr, factor = conf.emr, worker_sizes.overhead_factor(conf.spark)
    first = str(min(INITIAL_EXECUTORS, emr.max_executors))
    sizes = {
        "spark.driver.cores": f"{emr.driver_cores}",
        "spark.driver.memory": f"{worker_sizes.heap_mb(emr.driver_memory_gb, factor)}m",
        "spark.executor.cores": f"{emr.executor_cores}",
        "spark.executor.memory": f"{worker_sizes.heap_mb(emr.executor_memory_gb, factor)}m",
        "spark.emr-serverless.driver.disk": f"{emr.disk_gb}G",
        "spark.emr-serverless.executor.disk": f"{emr.disk_gb}G",
        "spark.executor.instances": first,
        "spark.dynamicAllocation.enabled": "true",
        "spark.dynamicAllocation.initialExecutors": first,
        "spark.dynamicAllocation.maxExecutors": f"{emr.max_executors}",
    }
    derived = sizes | _python_settings(conf, job, release)
    conflicts = sorted((derived.keys() | {"spark.master", "spark.submit.deployMode"}) & conf.spark.keys())
    if conflicts:
        msg = f"[spark] has {', '.join(conflicts)}, which EMR or raft-spark sets; remove it; [emr] sets the sizes of workers"
        raise ConfigError(msg)
    return derived | conf.spark


def _python_settings(conf: Config, job: str, release: Release) -> dict[str, str]:
    """Return the settings by which driver and executors find Python and the packages of the release."""
    archives = release.archives(conf.emr.architecture, with_hub=validation.needs_hub(conf, job))
    path = ":".join(f"./{folder}" for folder in archives)
    return {
        "spark.archives": ",".join(
            f"{release_uri(conf, release)}/{file}#{folder}" for folder, file in archives.items()
        ),
        "spark.emr-serverless.driverEnv.PYSPARK_PYTHON": PYTHON,
        "spark.emr-serverless.driverEnv.PYSPARK_DRIVER_PYTHON": PYTHON,
        "spark.executorEnv.PYSPARK_PYTHON": PYTHON,
        "spark.emr-serverless.driverEnv.PYTHONPATH": path,
        "spark.executorEnv.PYTHONPATH": path,
    }


def release_uri(conf: Config, release: Release) -> str:
    """Return the S3 URI of the release, uploaded or not."""
    return f"{conf.emr.code.rstrip('/')}/{release.name}"


def _monitoring(emr: config.Emr) -> dict[str, Any]:
    """Return where logs and metrics go; EMR stores logs itself when nothing is set."""
    monitoring: dict[str, Any] = {}
    if emr.logs:
        monitoring["s3MonitoringConfiguration"] = {"logUri": f"{emr.logs.rstrip('/')}/"}
    if emr.log_group:
        monitoring["cloudWatchLoggingConfiguration"] = {"enabled": True, "logGroupName": emr.log_group}
    if emr.prometheus_url:
        monitoring["prometheusMonitoringConfiguration"] = {"remoteWriteUrl": emr.prometheus_url}
    return {"configurationOverrides": {"monitoringConfiguration": monitoring}} if monitoring else {}


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
