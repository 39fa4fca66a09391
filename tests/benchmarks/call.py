"""Measure the CPU of one call: our clients of SageMaker, Bedrock and OpenAI, a bare boto3 and a bare urllib3.

    python tests/benchmarks/call.py [--calls 2000] [--rounds 5] [--in-flight 32] [--sentences 60]

The fake endpoint answers in another process, after 50 ms. The clients take turns in this one, each with many threads; a
figure is the median over the rounds of the CPU time of this process for a call, in ms. Print one line of JSON and store it in build/bench/call.json.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ |= {"AWS_ACCESS_KEY_ID": "fake", "AWS_SECRET_ACCESS_KEY": "fake", "AWS_EC2_METADATA_DISABLED": "true"}

import boto3
import urllib3
from botocore.config import Config

from raft_spark import endpoints
from raft_spark.config import Endpoint
from raft_spark.endpoints import codecs, converse
from raft_spark.endpoints.base import Client, Request

PROMISED_MS = 1.7  # at most, for SageMaker and Bedrock
SECONDS = 60.0
Call = Callable[[Request], object]


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=2000, help="of each client in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--in-flight", type=int, default=32, help="calls at once, each in a thread")
    parser.add_argument("--sentences", type=int, default=60, help="of a prompt, with 50 characters each")
    options = parser.parse_args()
    with endpoints.serving(Endpoint(kind="fake", latency_ms=50)) as server:
        url = server.url.removesuffix("/v1")
        calls = {**ours(url, options.in_flight), **bare(url, options.in_flight)}
        rounds = [measure(calls, options) for _ in range(options.rounds)]
    middle = {name: round(statistics.median(one[name] for one in rounds), 2) for name in calls}
    result = {"ms_a_call": middle, "calls": options.calls, "rounds": rounds, "promised_ms": PROMISED_MS}
    kept = Path("build/bench/call.json")
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(result, indent=1))
    sys.stdout.write(json.dumps({name: result[name] for name in ("ms_a_call", "calls", "promised_ms")}) + "\n")
    if broken := [name for name in ("sagemaker", "bedrock") if middle[name] > PROMISED_MS]:
        sys.exit(f"not as promised: {', '.join(broken)}")


def ours(url: str, in_flight: int) -> dict[str, Call]:
    """Return the calls of our clients."""
    made = {
        "sagemaker": Endpoint(kind="sagemaker", endpoint_name="fake", region="us-east-1", url=url),
        "bedrock": Endpoint(kind="bedrock", model="fake", region="us-east-1", url=url),
        "openai": Endpoint(kind="openai", model="fake", url=f"{url}/v1"),
    }
    return {name: answered(endpoints.connect(conf, in_flight, SECONDS)) for name, conf in made.items()}


def answered(client: Client) -> Call:
    """Return a call that fails without an answer."""

    def ask(request: Request) -> object:
        reply = client.ask(request)
        if reply.completion is None:
            raise RuntimeError(reply.error)
        return reply

    return ask


def bare(url: str, in_flight: int) -> dict[str, Call]:
    """Return the same calls by boto3 and by urllib3 alone, which read the body as JSON."""
    settings = Config(max_pool_connections=in_flight)
    sagemaker, bedrock = (
        boto3.client(name, region_name="us-east-1", endpoint_url=url, config=settings)
        for name in ("sagemaker-runtime", "bedrock-runtime")
    )
    pool = urllib3.connection_from_url(url, retries=False, maxsize=in_flight, block=True)

    def invoke(request: Request) -> object:
        body = json.dumps(codecs.generate_body(request))
        answer = sagemaker.invoke_endpoint(EndpointName="fake", ContentType="application/json", Body=body)
        return json.loads(answer["Body"].read())

    def post(request: Request) -> object:
        body = json.dumps(codecs.generate_body(request)).encode()
        headers = {"Content-Type": "application/json"}
        return json.loads(pool.urlopen("POST", "/endpoints/fake/invocations", body=body, headers=headers).data)

    return {
        "boto3_sagemaker": invoke,
        "boto3_bedrock": lambda request: bedrock.converse(modelId="fake", **converse.body(request)),
        "urllib3": post,
    }


def measure(calls: dict[str, Call], options: argparse.Namespace) -> dict[str, float]:
    """Return the CPU of a call of each client, in ms."""
    found = {}
    text = "Of the 45 practices 16 knew how to store vaccines. " * options.sentences
    requests = [Request(f"{index} {text}", "fake", {"max_tokens": 64}) for index in range(options.calls)]
    for name, call in calls.items():
        with ThreadPoolExecutor(options.in_flight) as pool:
            list(pool.map(call, requests[: options.in_flight]))  # opens the connections
            start = time.process_time()
            list(pool.map(call, requests))
            found[name] = round((time.process_time() - start) / options.calls * 1000, 3)
    return found


if __name__ == "__main__":
    main()
