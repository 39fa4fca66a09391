"""Serve EMR Serverless on loopback, as far as raft-spark uses it: one application, whose runs take a test's states.

POST   /applications/A/jobruns              start; calls with the same clientToken start one run
GET    /applications/A/jobruns[/R]          list, or get a run, which then passes to its next state
DELETE /applications/A/jobruns/R            cancel
GET    /applications/A/jobruns/R/dashboard
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

ACCOUNT = "arn:aws:emr-serverless:us-east-1:123456789012:/applications"
LABEL = "emr-spark-8.1.0"


@dataclass
class Run:
    """A run: the request that started it, and its states; each GetJobRun removes one until the last."""

    id: str
    sent: dict[str, Any]
    states: list[str]
    created_at: float = field(default_factory=time.time)
    attempt: int = 1

    def told(self) -> dict[str, Any]:
        state = self.states[0]
        used = {"vCPUHour": 2.0, "memoryGBHour": 8.0, "storageGBHour": 0.5}
        return {
            **{name: self.sent[name] for name in ("name", "tags", "retryPolicy", "jobDriver") if name in self.sent},
            "id": self.id,
            "jobRunId": self.id,
            "applicationId": "00f1abcdefgh2345",
            "arn": f"{ACCOUNT}/00f1abcdefgh2345/jobruns/{self.id}",
            "createdBy": "arn:aws:iam::123456789012:user/someone",
            "createdAt": self.created_at,
            "updatedAt": self.created_at + 90,
            "executionRole": self.sent.get("executionRoleArn", ""),
            "state": state,
            "stateDetails": "Job failed, please check the logs" if state == "FAILED" else f"it is {state}",
            "releaseLabel": LABEL,
            "attempt": self.attempt,
            **({"billedResourceUtilization": used} if state in {"SUCCESS", "FAILED"} else {}),
        }


@dataclass
class Service:
    """The behaviour that a test sets, and the calls that were made."""

    url: str = ""
    states: tuple[str, ...] = ("SUCCESS",)  # of the next run
    application: dict[str, Any] = field(default_factory=dict)  # fields that replace those of the usual answer
    is_listing: bool = True  # False: new runs are not listed yet
    refuses: dict[str, int] = field(default_factory=dict)  # method -> the number of calls that get status 500
    runs: dict[str, Run] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def start(self, sent: dict[str, Any]) -> dict[str, Any]:
        token = sent.pop("clientToken")
        run_id = self.tokens.setdefault(token, f"00frun{len(self.runs) + 1}")
        self.runs.setdefault(run_id, Run(run_id, sent, list(self.states)))
        return {"applicationId": "00f1abcdefgh2345", "jobRunId": run_id, "arn": f"{ACCOUNT}/a/jobruns/{run_id}"}

    def look(self, run_id: str) -> dict[str, Any]:
        run = self.runs[run_id]
        told = run.told()
        if len(run.states) > 1:
            run.states.pop(0)
        return {"jobRun": told}

    def cancel(self, run_id: str) -> dict[str, Any]:
        self.runs[run_id].states = ["CANCELLING", "CANCELLED"]
        return {"applicationId": "00f1abcdefgh2345", "jobRunId": run_id}

    def about(self) -> dict[str, Any]:
        return {
            "application": {
                "applicationId": "00f1abcdefgh2345",
                "arn": f"{ACCOUNT}/00f1abcdefgh2345",
                "releaseLabel": LABEL,
                "type": "Spark",
                "state": "STARTED",
                "createdAt": 0,
                "updatedAt": 0,
                "networkConfiguration": {"subnetIds": ["subnet-1"]},
            }
            | self.application
        }

    def answer(self, method: str, path: str, sent: dict[str, Any]) -> dict[str, Any] | None:
        self.asked.append(f"{method} {path}")
        run_id = (re.search(r"/jobruns/(\w+)", path) or [None, ""])[1]
        found: dict[str, Any] | None = None
        match method, path.rpartition("/")[2]:
            case "POST", "jobruns":
                found = self.start(sent)
            case "GET", "jobruns":
                found = {"jobRuns": [run.told() for run in self.runs.values() if self.is_listing]}
            case "GET", "dashboard":
                found = {"url": f"https://p-{run_id}.emrappui.example/"}
            case "GET", _ if run_id in self.runs:
                found = self.look(run_id)
            case "DELETE", _ if run_id in self.runs:
                found = self.cancel(run_id)
            case "GET", _ if not run_id:
                found = self.about()
        return found


@contextmanager
def serving() -> Iterator[Service]:
    """Serve until the block ends."""
    service = Service()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            sent = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or "{}")
            broken = service.refuses.get(self.command, 0)
            service.refuses[self.command] = max(0, broken - 1)
            found = None if broken else service.answer(self.command, self.path.partition("?")[0], sent)
            status = 500 if broken else 200 if found is not None else 404
            error = {"message": "there is none"} if status != 200 else {}
            body = json.dumps(found or error).encode()
            self.send_response(status)
            if error:
                kind = "InternalServerException" if broken else "ResourceNotFoundException"
                self.send_header("x-amzn-ErrorType", kind)
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
