"""Request -> Reply: the only door to a model.

`serving` starts what an endpoint needs on this machine (embedded, fake) for the time of a run; `connect` opens a client,
once per task. A client never raises for a request: a failed request is a Reply with its class, so that a row keeps its
reason. To add an endpoint: a module with a class that has `ask` and `close`, a kind in config, a case in `connect`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from raft_spark.config import Endpoint
from raft_spark.endpoints.base import Client


def connect(conf: Endpoint, connections: int, timeout_seconds: float) -> Client:
    """Open a client with a pool of `connections`; a call is given up after `timeout_seconds`."""
    # a client loads what it needs, no other
    if conf.kind == "sagemaker":
        from raft_spark.endpoints.aws import SageMakerClient  # noqa: PLC0415 - see above

        return SageMakerClient(conf, connections, timeout_seconds)
    if conf.kind == "bedrock":
        from raft_spark.endpoints.aws import BedrockClient  # noqa: PLC0415 - see above

        return BedrockClient(conf, connections, timeout_seconds)
    from raft_spark.endpoints.openai import OpenAIClient  # noqa: PLC0415 - see above

    return OpenAIClient(conf, connections, timeout_seconds)


@contextmanager
def serving(conf: Endpoint) -> Iterator[Endpoint]:
    """Yield `conf` with an address that answers; a server of our own runs until the block ends.

    Raises EndpointError when the server cannot be started.
    """
    if conf.kind not in {"embedded", "fake"} or conf.url:
        yield conf
        return
    from raft_spark.endpoints.local import process  # noqa: PLC0415 - only a run that serves needs it

    with process.start_server(conf) as url:
        yield conf.model_copy(update={"url": url})
