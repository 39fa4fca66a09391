"""GetApplication's answer, settings -> the reasons why a run would fail there, and notes to read before it starts."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from raft_spark.config import Config
from raft_spark.emr import validation

Application = Mapping[str, Any]  # as GetApplication returns it


def problems(application: Application, conf: Config) -> list[str]:
    """Return a sentence for each reason why a run would fail or wait for ever."""
    name, emr = f"application {conf.emr.application_id}", conf.emr
    actual = (application["releaseLabel"], _architecture(application))
    found = []
    if actual != (emr.label, emr.architecture):
        found.append(
            f"{name} runs {' on '.join(actual)}, the settings say {emr.label} on {emr.architecture}; "
            "set emr.label and emr.architecture, or name another application in emr.application_id"
        )
    if application["type"].lower() != "spark":
        found.append(f"{name} is of type {application['type']}; the jobs need an application of type Spark")
    if application["state"] == "TERMINATED":
        found.append(f"{name} is deleted; name another one in emr.application_id")
    if application["state"] == "STOPPED" and not application.get("autoStartConfiguration", {}).get("enabled", True):
        found.append(
            f"{name} is stopped and its automatic start is off; start it with: aws emr-serverless start-application"
        )
    found += [
        f"{name} may use {most} {unit}, but a driver with one executor needs {least}"
        for unit, most, least, _ in _limits(application, conf)
        if least > most
    ]
    return found


def notes(application: Application, conf: Config, job: str) -> list[str]:
    """Return what slows a run down or may fail later, but does not keep it from starting."""
    found = [
        f"note: the application may use {most:,} {unit}, and the settings ask for {wanted:,}: there will be fewer executors"
        for unit, most, least, wanted in _limits(application, conf)
        if least <= most < wanted
    ]
    services = list(_internet_services(conf, job))
    if services and not application.get("networkConfiguration", {}).get("subnetIds"):
        found.append(
            "note: the application has no subnets; without them a run reaches S3 and Secrets Manager, "
            f"but not {', '.join(services)}; give it subnets with a NAT gateway or VPC endpoints"
        )
    return found


def _architecture(application: Application) -> str:
    """Return the architecture as the settings spell it; EMR leaves it out for the default, X86_64."""
    return str(application.get("architecture", "X86_64")).lower()


def _limits(application: Application, conf: Config) -> Iterator[tuple[str, int, int, int]]:
    """Yield each limit of the application: unit, maximum, need of a driver and one executor, need of all workers."""
    emr, capacity = conf.emr, application.get("maximumCapacity", {})
    for unit, key, driver, executor in (
        ("vCPUs", "cpu", emr.driver_cores, emr.executor_cores),
        ("GB of memory", "memory", emr.driver_memory_gb, emr.executor_memory_gb),
        ("GB of disk", "disk", emr.disk_gb, emr.disk_gb),
    ):
        number = re.match(r"\d+", capacity.get(key) or "")
        if number:
            yield unit, int(number[0]), driver + executor, driver + emr.max_executors * executor


def _internet_services(conf: Config, job: str) -> Iterator[str]:
    """Yield the services of a job that a run in an application without subnets cannot reach."""
    if "source" in validation.uses(job) and conf.articles.source.startswith("hf:"):
        yield "the Hugging Face hub"
    yield from (f"the endpoint {name} ({conf.endpoints[name].kind})" for name in validation.endpoints_of(conf, job))
