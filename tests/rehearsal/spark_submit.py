"""Arguments of StartJobRun -> the spark-submit command that does the same on this machine, and the omitted parts.

These arguments are the only input. A Spark property that is not named here goes to spark-submit unchanged; an unknown field
is an error. The rehearsal does what EMR Serverless does itself: driverEnv becomes the driver's environment, and archives are
unpacked into the driver's working folder. What only EMR reads is omitted, with the reason.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DRIVER_ENV = "spark.emr-serverless.driverEnv."
EMR_ONLY = {
    "spark.emr-serverless.": "read by EMR Serverless only: disks, capacity, its own allocation",
    "spark.aws.": "a service of EMR",
}
FIELDS = {
    "applicationId": "the rehearsal starts a cluster on loopback",
    "executionRoleArn": "driver and executors get made-up keys in their environment",
    "clientToken": "only protects against a second submission",
    "name": "only shown in the console",
    "tags": "only used in bills",
    "mode": "every job is a batch job",
    "executionTimeoutMinutes": "the rehearsal has its own limit",
    "retryPolicy": "the rehearsal kills and restarts drivers itself",
    "flexExecution": "only changes the price",
    "executionIamPolicy": "there is no role",
    "configurationOverrides": "logs are written to the rehearsal's folder; the properties of spark-defaults are used",
}
TRANSLATED = {"jobDriver"}


@dataclass(frozen=True)
class Command:
    """How to start a driver.

    `words` are spark-submit's arguments, with entry point and its arguments last. `archives` (name -> address) are unpacked
    into the driver's folder. `omitted` has the parts of the document that are not used, with reasons.
    """

    words: tuple[str, ...]
    environment: Mapping[str, str]
    archives: Mapping[str, str]
    omitted: Mapping[str, str]


def command(document: Mapping[str, Any], additions: Mapping[str, str]) -> Command:
    """Derive the command; `additions` are properties that this machine needs. Raises ValueError for a contradiction."""
    submit = document["jobDriver"]["sparkSubmit"]
    flags, properties = parse_parameters(submit.get("sparkSubmitParameters", ""))
    settings = _overrides(document) | properties
    omitted = _omitted_fields(document) | {key: reason for key in settings if (reason := _emr_only(key))}
    kept = {key: value for key, value in settings.items() if not key.startswith(DRIVER_ENV) and key not in omitted}
    if conflicts := sorted({key for key in kept if kept[key] != additions.get(key, kept[key])}):
        msg = f"the document sets {', '.join(conflicts)}, and the rehearsal needs another value; it would not run the same job"
        raise ValueError(msg)
    confs = [word for key, value in (kept | dict(additions)).items() for word in ("--conf", f"{key}={value}")]
    words = (*flags, *confs, submit["entryPoint"], *submit.get("entryPointArguments", ()))
    environment = {key.removeprefix(DRIVER_ENV): value for key, value in settings.items() if key.startswith(DRIVER_ENV)}
    return Command(words, environment, archives(kept.get("spark.archives", "")), omitted)


def parse_parameters(parameters: str) -> tuple[list[str], dict[str, str]]:
    """Split sparkSubmitParameters into other flags and the properties of --conf."""
    flags, settings, words = [], {}, iter(shlex.split(parameters))
    for word in words:
        if word == "--conf":
            key, _, value = next(words).partition("=")
            settings[key] = value
        else:
            flags.append(word)
    return flags, settings


def _overrides(document: Mapping[str, Any]) -> dict[str, str]:
    """Return the spark-defaults of the application, which --conf overrides."""
    listed = document.get("configurationOverrides", {}).get("applicationConfiguration", [])
    return {
        key: value
        for entry in listed
        if entry["classification"] == "spark-defaults"
        for key, value in entry["properties"].items()
    }


def _omitted_fields(document: Mapping[str, Any]) -> dict[str, str]:
    if unknown := sorted(set(document) - set(FIELDS) - TRANSLATED):
        msg = f"the document has {', '.join(unknown)}; add to {__name__}.FIELDS how a rehearsal treats it"
        raise ValueError(msg)
    return {field: reason for field, reason in FIELDS.items() if field in document}


def _emr_only(key: str) -> str:
    if key.startswith(DRIVER_ENV):
        return ""
    return next((reason for prefix, reason in EMR_ONLY.items() if key.startswith(prefix)), "")


def archives(listed: str) -> dict[str, str]:
    """Parse spark.archives, `address#name` separated by commas -> {name: address}."""
    pairs = (archive.partition("#") for archive in listed.split(",") if archive)
    return {name or address.rpartition("/")[2]: address for address, _, name in pairs}
