"""A StartJobRun document -> the spark-submit that does the same on this machine, and what it does not do.

The document is the only source: what is not named here goes to spark-submit as it stands, and a field that is not known
is an error. What EMR Serverless does itself is done by hand: driverEnv becomes the driver's environment, and archives are
unpacked into the folder that the driver starts in. What only EMR reads is left out, with its reason.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DRIVER_ENV = "spark.emr-serverless.driverEnv."
EMR_ONLY = {
    "spark.emr-serverless.": "read by EMR Serverless alone: disks, capacity, its own allocation",
    "spark.aws.": "a service of EMR's, there is none here",
}
FIELDS = {
    "applicationId": "no application here: a cluster on loopback",
    "executionRoleArn": "no role here: made-up keys in the environment of driver and executors",
    "clientToken": "EMR's guard against a document that is sent twice",
    "name": "shown by the console only",
    "tags": "for the bill only",
    "mode": "batch, as every job here",
    "executionTimeoutMinutes": "a rehearsal has a limit of its own",
    "retryPolicy": "a rehearsal kills and starts again itself",
    "flexExecution": "what machines cost; there is one",
    "executionIamPolicy": "no role here",
    "configurationOverrides": "logs stay in the rehearsal's folder; the properties of spark-defaults are kept",
}
PLAYED = {"jobDriver"}


@dataclass(frozen=True)
class Command:
    """What starts a driver: spark-submit's words with entry point and arguments last, the environment variables that it
    gets, the archives to unpack into its folder (name -> address), and what was left out of the document, with reasons.
    """

    words: tuple[str, ...]
    environment: Mapping[str, str]
    archives: Mapping[str, str]
    left_out: Mapping[str, str]


def command(document: Mapping[str, Any], additions: Mapping[str, str]) -> Command:
    """Derive the command; `additions` are settings that this machine needs. Raises ValueError where they contradict."""
    asked = document["jobDriver"]["sparkSubmit"]
    flags, own = parsed(asked.get("sparkSubmitParameters", ""))
    settings = _overrides(document) | own
    left_out = _fields_left_out(document) | {key: reason for key in settings if (reason := _emr_only(key))}
    kept = {key: value for key, value in settings.items() if not key.startswith(DRIVER_ENV) and key not in left_out}
    if twice := sorted({key for key in kept if kept[key] != additions.get(key, kept[key])}):
        msg = (
            f"the document sets {', '.join(twice)}, and the rehearsal needs another value: it would not be the same job"
        )
        raise ValueError(msg)
    confs = [word for key, value in (kept | dict(additions)).items() for word in ("--conf", f"{key}={value}")]
    words = (*flags, *confs, asked["entryPoint"], *asked.get("entryPointArguments", ()))
    environment = {key.removeprefix(DRIVER_ENV): value for key, value in settings.items() if key.startswith(DRIVER_ENV)}
    return Command(words, environment, archives(kept.get("spark.archives", "")), left_out)


def parsed(parameters: str) -> tuple[list[str], dict[str, str]]:
    """Split sparkSubmitParameters into the settings of its --conf and all other words."""
    flags, settings, words = [], {}, iter(shlex.split(parameters))
    for word in words:
        if word == "--conf":
            key, _, value = next(words).partition("=")
            settings[key] = value
        else:
            flags.append(word)
    return flags, settings


def _overrides(document: Mapping[str, Any]) -> dict[str, str]:
    """Return what the application's spark-defaults would be; --conf stands over it."""
    listed = document.get("configurationOverrides", {}).get("applicationConfiguration", [])
    return {
        key: value
        for one in listed
        if one["classification"] == "spark-defaults"
        for key, value in one["properties"].items()
    }


def _fields_left_out(document: Mapping[str, Any]) -> dict[str, str]:
    if unknown := sorted(set(document) - set(FIELDS) - PLAYED):
        msg = f"the document has {', '.join(unknown)}; say in {__name__}.FIELDS what becomes of it in a rehearsal"
        raise ValueError(msg)
    return {field: reason for field, reason in FIELDS.items() if field in document}


def _emr_only(key: str) -> str:
    if key.startswith(DRIVER_ENV):
        return ""
    return next((reason for prefix, reason in EMR_ONLY.items() if key.startswith(prefix)), "")


def archives(listed: str) -> dict[str, str]:
    """Take spark.archives apart: address#name, separated by commas."""
    pairs = (archive.partition("#") for archive in listed.split(",") if archive)
    return {name or address.rpartition("/")[2]: address for address, _, name in pairs}
