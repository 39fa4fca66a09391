"""What GetApplication says of an application -> what a run there cannot do, and what a person should know before it starts."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from raft_spark.config import Config
from raft_spark.emr import validation

Application = Mapping[str, Any]  # as GetApplication returns it


def problems(application: Application, conf: Config) -> list[str]:
    """Return a sentence for each reason why a run would fail or wait for ever."""
    name, emr = f"application {conf.emr.application_id}", conf.emr
    runs = (application["releaseLabel"], _architecture(application))
    found = []
    if runs != (emr.label, emr.architecture):
        found.append(
            f"{name} runs {' on '.join(runs)}, the settings say {emr.label} on {emr.architecture}; "
            "set emr.label and emr.architecture, or take another application"
        )
    if application["type"].lower() != "spark":
        found.append(f"{name} is of type {application['type']}; the jobs need one of type Spark")
    if application["state"] == "TERMINATED":
        found.append(f"{name} is deleted")
    if application["state"] == "STOPPED" and not application.get("autoStartConfiguration", {}).get("enabled", True):
        found.append(f"{name} is stopped and does not start with a run: aws emr-serverless start-application")
    found += [
        f"{name} may use {most} {unit} and a driver with one executor take {least}"
        for unit, most, least, _ in _limits(application, conf)
        if least > most
    ]
    return found


def notes(application: Application, conf: Config, job: str) -> list[str]:
    """Return what does not keep a run from starting."""
    found = [
        f"note: the application may use {most:,} {unit}, and the settings ask for {asked:,}: there will be fewer executors"
        for unit, most, least, asked in _limits(application, conf)
        if least <= most < asked
    ]
    outside = list(_outside(conf, job))
    if outside and not application.get("networkConfiguration", {}).get("subnetIds"):
        found.append(
            f"note: the application has no subnets, and a run without reaches S3 and Secrets Manager but not {', '.join(outside)}; "
            "give it subnets with a NAT gateway or VPC endpoints"
        )
    return found


def _architecture(application: Application) -> str:
    """Return it as the settings name it; EMR does not say it where it is the usual one."""
    return str(application.get("architecture", "X86_64")).lower()


def _limits(application: Application, conf: Config) -> Iterator[tuple[str, int, int, int]]:
    """Yield what the application is limited in: unit, what it may use, what a driver and one executor take, what is asked for."""
    emr, most = conf.emr, application.get("maximumCapacity", {})
    for unit, key, driver, executor in (
        ("vCPUs", "cpu", emr.driver_cores, emr.executor_cores),
        ("GB of memory", "memory", emr.driver_memory_gb, emr.executor_memory_gb),
        ("GB of disk", "disk", emr.disk_gb, emr.disk_gb),
    ):
        told = re.match(r"\d+", most.get(key) or "")
        if told:
            yield unit, int(told[0]), driver + executor, driver + emr.max_executors * executor


def _outside(conf: Config, job: str) -> Iterator[str]:
    """Yield what the job asks beyond the services that every run reaches."""
    if "source" in validation.uses(job) and conf.articles.source.startswith("hf:"):
        yield "the Hugging Face hub"
    yield from (f"the endpoint {name} ({conf.endpoints[name].kind})" for name in validation.asks_model(conf, job))
