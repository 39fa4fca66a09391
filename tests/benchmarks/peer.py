"""Requests of one file through bespokelabs-curator, in an environment of its own; prints how many failed, as JSON.

    build/env-peer/bin/python tests/benchmarks/peer.py REQUESTS.jsonl http://127.0.0.1:PORT/v1 IN_FLIGHT FOLDER

A request is {"messages": [...], "parameters": {...}}; all have the same parameters. The settings are the best for it that
its documentation and its code name: as many calls open as asked for, limits a minute that never bind, the shortest pause,
ten attempts (its own number), no display, no telemetry, nothing fetched.
"""

import importlib.util
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("bespokelabs-curator", "aiohttp", "litellm")
NEVER_BINDS = 1_000_000_000

litellm = importlib.util.find_spec("litellm")
tokenizers = Path(litellm.origin).parent / "litellm_core_utils/tokenizers"  # which tiktoken would fetch
os.environ |= {"TIKTOKEN_CACHE_DIR": str(tokenizers), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
os.environ |= {"TELEMETRY_ENABLED": "false", "CURATOR_DISABLE_RICH_DISPLAY": "1"}

from bespokelabs import curator  # noqa: E402 - the environment comes first


class Teacher(curator.LLM):
    """Sends the messages as they are, keeps the text."""

    def prompt(self, row):
        return row["messages"]

    def parse(self, row, response):
        return {"number": row["number"], "completion": response}


def main() -> None:
    """Ask, print."""
    file, url, in_flight, folder = sys.argv[1:]
    requests = [json.loads(line) for line in Path(file).read_text().splitlines()]
    teacher = Teacher(
        model_name="fake",
        backend="openai",
        generation_params=requests[0]["parameters"],
        backend_params={
            "base_url": url,
            "api_key": "none",
            "max_concurrent_requests": int(in_flight),
            "max_requests_per_minute": NEVER_BINDS,
            "max_tokens_per_minute": NEVER_BINDS,
            "seconds_to_pause_on_rate_limit": 1,
            "max_retries": 10,
            "require_all_responses": False,
        },
    )
    rows = [{"number": number, "messages": one["messages"]} for number, one in enumerate(requests)]
    answer = teacher(rows, working_dir=folder)
    failed = len(requests) - len(answer.dataset)
    versions = {package: version(package) for package in PACKAGES}
    sys.stdout.write("\n" + json.dumps({"peer": versions, "failed": failed}) + "\n")


if __name__ == "__main__":
    main()
