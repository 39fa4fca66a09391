"""SageMaker and Bedrock on loopback, as far as raft-spark asks them to host: every request is held against botocore's model.

SageMaker takes a target in a header; what is made goes through the states that a test lays out, one a look, and stays in the last.
Bedrock takes paths; an import job's states likewise, and its model is there when it is Completed.
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
    born: float = field(default_factory=time.time)


@dataclass
class Service:
    """What a test lays out, and what was asked."""

    url: str = ""
    states: dict[str, tuple[str, ...]] = field(default_factory=dict)  # kind -> of the next that is made
    things: dict[tuple[str, str], Thing] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    illegal: list[str] = field(default_factory=list)
    scaling: dict[str, dict[str, Any]] = field(default_factory=dict)
    trainings: dict[str, dict[str, Any]] = field(default_factory=dict)
    refuses: dict[str, str] = field(default_factory=dict)  # operation -> the code it is refused with

    def names(self, kind: str) -> list[str]:
        return [name for known, name in self.things if known == kind]

    def made(self, kind: str, name: str, sent: dict[str, Any]) -> Thing:
        if (kind, name) in self.things:
            raise RefusedError("ValidationException", f"Cannot create already existing {kind} {name}")
        return self.things.setdefault((kind, name), Thing(sent, list(self.states.get(kind, ("InService",)))))

    def look(self, kind: str, name: str) -> Thing:
        thing = self.things.get((kind, name))
        if thing is None:
            raise RefusedError("ValidationException", f'Could not find {kind} "{name}".')
        return thing

    def stepped(self, kind: str, name: str) -> str:
        """Return the state, and go one on; what is Deleting is gone after its last look."""
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
            return {f"{kind}": [self.told(kind[:-1], name) for name in self.names(kind[:-1])]}
        name = sent[f"{kind}Name"]
        if verb == "Create":
            self.made(kind, name, sent)
            return {f"{kind}Arn": arn(kind, name)}
        if verb == "Delete":
            return self.deleted(kind, name)
        self.look(kind, name)
        state = self.stepped(kind, name) if kind in STATED else ""
        told = (
            self.told(kind, name)
            if (kind, name) in self.things
            else {f"{kind}Name": name, f"{kind}Arn": arn(kind, name)}
        )
        return {**told, **({f"{kind}Status": state} if state else {})}

    def told(self, kind: str, name: str) -> dict[str, Any]:
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
            "CreationTime": thing.born,
            "LastModifiedTime": thing.born,
            **more,
        }

    def deleted(self, kind: str, name: str) -> dict[str, Any]:
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

    # Application Auto Scaling: what is registered, and its policies

    def autoscaling(self, operation: str, sent: dict[str, Any]) -> dict[str, Any]:
        self.illegal += aws_model.found("application-autoscaling", operation, sent)
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
                self.illegal += aws_model.found("bedrock", "CreateModelImportJob", sent)
                job = f"{len(self.names('Job')) + 1:012d}"
                self.states.setdefault("Job", ("Completed",))
                self.made("Job", job, sent)
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
        state = self.stepped("Job", name) if steps else thing.states[0]
        if steps and state == "Completed" and ("Imported", name) not in self.things:
            self.made("Imported", name, thing.sent)
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
        self.illegal += aws_model.found("sagemaker", operation, sent)
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
