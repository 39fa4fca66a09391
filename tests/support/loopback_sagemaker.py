"""Serve SageMaker and Bedrock on loopback, as far as hosting needs them; validate requests by botocore's service models.

SageMaker names the operation in a header. A resource passes through the states that a test gives it, one state a
Describe call, and stays in the last. Bedrock names the operation in the path. An import job passes through its states
likewise, and its model exists once the job is Completed.
"""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from support import aws_model

ACCOUNT = "us-east-1:123456789012"
STATED = {"Endpoint", "InferenceComponent"}


class RefusedError(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Thing:
    sent: dict[str, Any]
    states: list[str]
    created: float = field(default_factory=time.time)


@dataclass
class Service:
    """The behaviour that a test sets, and the calls that were made."""

    url: str = ""
    states: dict[str, tuple[str, ...]] = field(default_factory=dict)  # kind -> the states of the next resource
    things: dict[tuple[str, str], Thing] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)
    scaling: dict[str, dict[str, Any]] = field(default_factory=dict)
    trainings: dict[str, dict[str, Any]] = field(default_factory=dict)
    refuses: dict[str, str] = field(default_factory=dict)  # operation -> the error code of its refusal

    def names(self, kind: str) -> list[str]:
        return [name for known, name in self.things if known == kind]

    def add(self, kind: str, name: str, sent: dict[str, Any]) -> Thing:
        if (kind, name) in self.things:
            raise RefusedError("ValidationException", f"Cannot create already existing {kind} {name}")
        return self.things.setdefault((kind, name), Thing(sent, list(self.states.get(kind, ("InService",)))))

    def look(self, kind: str, name: str) -> Thing:
        thing = self.things.get((kind, name))
        if thing is None:
            raise RefusedError("ValidationException", f'Could not find {kind} "{name}".')
        return thing

    def next_state(self, kind: str, name: str) -> str:
        """Return the state and pass to the next; a resource that is Deleting disappears after its last state."""
        thing = self.look(kind, name)
        state = thing.states[0]
        if len(thing.states) > 1:
            thing.states.pop(0)
        elif state == "Deleting":
            del self.things[kind, name]
        return state

    # SageMaker

    def sagemaker(self, operation: str, sent: dict[str, Any]) -> dict[str, Any]:
        verb, kind = re.fullmatch(r"(Create|Describe|Delete|List)(\w+)", operation).groups()
        if operation == "ListTags":
            kind, name = sent["ResourceArn"].rpartition(":")[2].split("/")
            return {"Tags": self.look(kind, name).sent.get("Tags", [])}
        if kind in {"TrainingJob", "TrainingJobs"}:
            return self.training(verb, sent)
        if verb == "List":
            return {f"{kind}": [self.description(kind[:-1], name) for name in self.names(kind[:-1])]}
        name = sent[f"{kind}Name"]
        if verb == "Create":
            self.add(kind, name, sent)
            return {f"{kind}Arn": arn(kind, name)}
        if verb == "Delete":
            return self.delete(kind, name)
        self.look(kind, name)
        state = self.next_state(kind, name) if kind in STATED else ""
        told = (
            self.description(kind, name)
            if (kind, name) in self.things
            else {f"{kind}Name": name, f"{kind}Arn": arn(kind, name)}
        )
        return {**told, **({f"{kind}Status": state} if state else {})}

    def description(self, kind: str, name: str) -> dict[str, Any]:
        thing = self.look(kind, name)
        more = {"FailureReason": "no capacity in this zone"} if thing.states[0] == "Failed" else {}
        if kind == "Endpoint":
            more["ProductionVariants"] = [{"VariantName": "AllTraffic", "CurrentInstanceCount": 1}]
        if kind == "InferenceComponent":
            more["RuntimeConfig"] = {"CurrentCopyCount": 1, "DesiredCopyCount": 1}
        return {
            **{key: value for key, value in thing.sent.items() if key not in {"Tags", "RuntimeConfig"}},
            f"{kind}Arn": arn(kind, name),
            **({f"{kind}Status": thing.states[0]} if kind in STATED else {}),
            "CreationTime": thing.created,
            "LastModifiedTime": thing.created,
            **more,
        }

    def delete(self, kind: str, name: str) -> dict[str, Any]:
        thing = self.look(kind, name)
        if kind == "Endpoint" and thing.states[0] == "Creating":
            raise RefusedError("ValidationException", f"Cannot delete in-progress endpoint {name}")
        if kind == "Endpoint" and ("InferenceComponent", name) in self.things:
            raise RefusedError("ValidationException", "Endpoint hosts inference components")
        if kind in STATED:
            thing.states = ["Deleting"]
        else:
            del self.things[kind, name]
        return {}

    def training(self, verb: str, sent: dict[str, Any]) -> dict[str, Any]:
        if verb == "List":
            return {
                "TrainingJobSummaries": [job for name, job in self.trainings.items() if sent["NameContains"] in name]
            }
        return self.trainings[sent["TrainingJobName"]]

    # Application Auto Scaling: the scalable target and its policies

    def autoscaling(self, operation: str, sent: dict[str, Any]) -> dict[str, Any]:
        self.invalid += aws_model.problems("application-autoscaling", operation, sent)
        if operation == "DeregisterScalableTarget":
            if not self.scaling:
                raise RefusedError("ObjectNotFoundException", "No scalable target found")
            self.scaling.clear()
            return {}
        name = sent.get("PolicyName", "target")
        self.scaling[name] = sent
        return {"PolicyARN": arn("policy", name, "autoscaling"), "Alarms": []} if "PolicyName" in sent else {}

    # Bedrock

    def bedrock(self, method: str, path: str, sent: dict[str, Any]) -> dict[str, Any]:  # noqa: PLR0911 - a case a path
        kind, _, rest = path.strip("/").partition("/")
        name = rest.rpartition("/")[2]
        match method, kind, bool(rest):
            case "POST", "model-import-jobs", _:
                self.asked.append("CreateModelImportJob")
                self.invalid += aws_model.problems("bedrock", "CreateModelImportJob", sent)
                job = f"{len(self.names('Job')) + 1:012d}"
                self.states.setdefault("Job", ("Completed",))
                self.add("Job", job, sent)
                return {"jobArn": arn("model-import-job", job, "bedrock")}
            case "GET", "model-import-jobs", False:
                return {"modelImportJobSummaries": [self.job(job) for job in reversed(self.names("Job"))]}
            case "GET", "model-import-jobs", True:
                return self.job(name, steps=True)
            case "POST", "listTagsForResource", _:
                return {"tags": self.look("Imported", sent["resourceARN"].rpartition("/")[2]).sent["importedModelTags"]}
            case "GET", "imported-models", False:
                return {"modelSummaries": [self.model(model) for model in self.names("Imported")]}
            case "GET", "imported-models", True:
                return self.model(name)
        self.asked.append("DeleteImportedModel")
        self.look("Imported", name)
        del self.things["Imported", name]
        return {}

    def job(self, name: str, *, steps: bool = False) -> dict[str, Any]:
        thing = self.look("Job", name)
        state = self.next_state("Job", name) if steps else thing.states[0]
        if steps and state == "Completed" and ("Imported", name) not in self.things:
            self.add("Imported", name, thing.sent)
        return {
            "jobArn": arn("model-import-job", name, "bedrock"),
            "jobName": thing.sent["jobName"],
            "importedModelName": thing.sent["importedModelName"],
            "importedModelArn": arn("imported-model", name, "bedrock"),
            "status": state,
            "failureMessage": "the role cannot read the bucket" if state == "Failed" else "",
            "creationTime": "2026-11-01T00:00:00Z",
        }

    def model(self, name: str) -> dict[str, Any]:
        return {
            "modelArn": arn("imported-model", name, "bedrock"),
            "modelName": self.look("Imported", name).sent["importedModelName"],
            "instructSupported": True,
            "modelArchitecture": "llama",
            "creationTime": "2026-11-01T00:00:00Z",
            "customModelUnits": {"customModelUnitsPerModelCopy": 2, "customModelUnitsVersion": "v1.0"},
        }

    def answer(self, method: str, path: str, target: str, sent: dict[str, Any]) -> dict[str, Any]:
        if not target:
            return self.bedrock(method, path, sent)
        door, _, operation = target.partition(".")
        self.asked.append(operation)
        if door == "AnyScaleFrontendService":
            return self.autoscaling(operation, sent)
        self.invalid += aws_model.problems("sagemaker", operation, sent)
        if operation in self.refuses:
            raise RefusedError(self.refuses[operation], "you may not")
        return self.sagemaker(operation, sent)


def arn(kind: str, name: str, service: str = "sagemaker") -> str:
    return f"arn:aws:{service}:{ACCOUNT}:{kind}/{name}"


@contextmanager
def serving() -> Iterator[Service]:
    """Serve until the block ends."""
    service = Service()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            sent = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or "{}")
            parts = urlsplit(self.path)
            sent |= {key: values[0] for key, values in parse_qs(parts.query).items()}
            status, kind = 200, ""
            try:
                told = service.answer(self.command, unquote(parts.path), self.headers.get("X-Amz-Target", ""), sent)
            except RefusedError as error:
                status, kind, told = 400, error.code, {"__type": error.code, "message": str(error)}
            body = json.dumps(told).encode()
            self.send_response(status)
            if kind:
                self.send_header("x-amzn-ErrorType", kind)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_DELETE = _answer  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    service.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
