"""Settings, a job and a release -> the document that StartJobRun takes. Pure: nothing is contacted, nothing is random.

It is made here and nowhere else: `raft-spark emr submit` sends it, with --dry-run prints it, and Airflow or a schedule sends what was
printed. Settings travel in it, so that no settings file has to be found on the cluster.
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

PYTHON = "python3.11"  # named, since emr-7.x takes 3.9 otherwise
IDENTITY = "raft-spark:identity"  # the tag that tells two runs of the same thing
STARTING = 3  # executors, before any is asked for; EMR's own number, written down since max_executors may be less
MOST_ARGUMENTS, MOST_CHARACTERS = 1024, 102_400  # of the API's model
ELSEWHERE = frozenset({"spark", "emr"})  # sections that become parameters of spark-submit and of the run itself


def build(conf: Config, job: str, arguments: Sequence[str], release: Release) -> dict[str, Any]:
    """Return the arguments of boto3's start_job_run, all but clientToken (see `token`); `arguments` follow the settings.

    Raises ConfigError with everything that is wrong with the settings.
    """
    trouble = validation.problems(conf, job, release)
    if trouble:
        raise ConfigError("\n".join(trouble))
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
    own = {"raft-spark:job": job, "raft-spark:release": release.name, IDENTITY: _digest(document)}
    return {**document, "tags": {**conf.emr.tags, **own}}


def token(document: Mapping[str, Any], last: str) -> str:
    """Return the clientToken: the same for the same document as long as no run of it has ended since `last`, a run's id."""
    return _digest([document["tags"][IDENTITY], last])


def _spark_submit(conf: Config, job: str, arguments: Sequence[str], release: Release) -> dict[str, Any]:
    settings = [f"--set={assignment}" for assignment in assignments(conf)]
    given = spark(conf, job, release)
    parameters = " ".join(f"--conf {_quoted(f'{key}={value}')}" for key, value in given.items())
    for what, found, most in (
        ("settings that are not the defaults", len(settings) + len(arguments), MOST_ARGUMENTS),
        ("characters of Spark's settings", len(parameters), MOST_CHARACTERS),
    ):
        if found > most:
            msg = f"{found:,} {what} are more than StartJobRun takes, {most:,}"
            raise ConfigError(msg)
    return {
        "entryPoint": f"{at(conf, release)}/jobs/{job}.py",
        "entryPointArguments": [*settings, *arguments],
        "sparkSubmitParameters": parameters,
    }


def _quoted(word: str) -> str:
    """Quote as a shell needs it: not for the # of an archive, which Amazon's own examples leave bare."""
    return word if re.fullmatch(r"[\w.]+=[A-Za-z0-9_@%+=:,./#-]*", word, re.ASCII) else shlex.quote(word)


def assignments(conf: Config) -> list[str]:
    """Return each setting that is not as in conf/default.toml as `section.key=value`, for `--set`."""
    default, own = dict(_leaves(_given(config.load()))), _leaves(_given(conf))
    return [_assigned(key, value) for key, value in own if key not in default or default[key] != value]


def _given(conf: Config) -> dict[str, Any]:
    return conf.model_dump(mode="json", exclude_unset=True, exclude=set(ELSEWHERE))


def _leaves(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value below a table with its dotted key; what is not set has none, as TOML has no word for it."""
    for name, value in table.items():
        key = above + (name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name))
        if isinstance(value, dict):
            yield from _leaves(value, f"{key}.")
        elif value is not None:
            yield key, value


def _assigned(key: str, value: object) -> str:
    """Write `key=value`; plain words stand without quotes, so that nothing on the way can take offence at them."""
    is_word = isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_./:@+-]+", value) and '"' not in key
    if is_word:
        try:
            tomllib.loads(f"word = {value}")
        except tomllib.TOMLDecodeError:
            return f"{key}={value}"
    return f"{key}={_toml(value)}"


def _toml(value: object) -> str:
    """Write a JSON value as TOML, which differs by one character that it wants escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def spark(conf: Config, job: str, release: Release) -> dict[str, str]:
    """Return Spark's settings: those of the workers, of Python and of the release, then those of [spark]."""
    emr, factor = conf.emr, worker_sizes.factor(conf.spark)
    first = str(min(STARTING, emr.max_executors))
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
    ours = sizes | _python(conf, job, release)
    twice = sorted((ours.keys() | {"spark.master", "spark.submit.deployMode"}) & conf.spark.keys())
    if twice:
        msg = f"[spark] has {', '.join(twice)}, which EMR or raft-spark sets; sizes of workers are those of [emr]"
        raise ConfigError(msg)
    return ours | conf.spark


def _python(conf: Config, job: str, release: Release) -> dict[str, str]:
    """Return the settings by which driver and executors find Python and the packages of the release."""
    archives = release.archives(conf.emr.architecture, with_hub=validation.needs_hub(conf, job))
    path = ":".join(f"./{folder}" for folder in archives)
    return {
        "spark.archives": ",".join(f"{at(conf, release)}/{file}#{folder}" for folder, file in archives.items()),
        "spark.emr-serverless.driverEnv.PYSPARK_PYTHON": PYTHON,
        "spark.emr-serverless.driverEnv.PYSPARK_DRIVER_PYTHON": PYTHON,
        "spark.executorEnv.PYSPARK_PYTHON": PYTHON,
        "spark.emr-serverless.driverEnv.PYTHONPATH": path,
        "spark.executorEnv.PYTHONPATH": path,
    }


def at(conf: Config, release: Release) -> str:
    """Return where the release's objects are, or will be."""
    return f"{conf.emr.code.rstrip('/')}/{release.name}"


def _monitoring(emr: config.Emr) -> dict[str, Any]:
    """Say where logs and metrics go; what is not said is as EMR does it, which keeps logs itself."""
    told: dict[str, Any] = {}
    if emr.logs:
        told["s3MonitoringConfiguration"] = {"logUri": f"{emr.logs.rstrip('/')}/"}
    if emr.log_group:
        told["cloudWatchLoggingConfiguration"] = {"enabled": True, "logGroupName": emr.log_group}
    if emr.prometheus_url:
        told["prometheusMonitoringConfiguration"] = {"remoteWriteUrl": emr.prometheus_url}
    return {"configurationOverrides": {"monitoringConfiguration": told}} if told else {}


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
