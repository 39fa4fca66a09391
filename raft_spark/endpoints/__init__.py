"""Send requests to a model: every call to a teacher, a student or a judge goes through this package.

`serving` starts the server that an endpoint of kind embedded or fake needs, for the duration of a run. `connect` opens
a client, once per task. A client never raises for a request: a failed request is a Reply with an error class, so that a
row keeps its reason. `batch_service_of` gives the batch inference of an endpoint. To add a kind of endpoint, write a
class with `ask` and `close`, add the kind to raft_spark/config/models.py, and add a case to `connect`.

The modules, in the order of a call:

    base                                       Request, Reply, the error classes, Client
    codecs, converse, families                 a request's body in each protocol, what a model takes; an answer's Reply
    embeddings                                 the same for a text's vector
    openai, aws, aws_connection                the clients: which call sends a request, what failed about it
    outgoing                                   the same call, shown by a preview
    api_keys, secrets, credentials             who asks: API keys, AWS credentials
    http, proxies, authorities, aws_service    the way there: connections, proxies, certificates, addresses of AWS
    responses, streams, answer_text            an answer: JSON or a stream, the text without thoughts and left-over tokens
    failures, aws_errors                       how servers and AWS word what failed -> an error class
    batch_service                              the types of batch inference, which these implement:
    openai_batch, openai_files                 OpenAI's batch jobs, the calls about files and jobs
    sagemaker_async, bedrock_batch             asynchronous endpoints of SageMaker, batch jobs of Bedrock
    local, fake                                packages: the servers that a run starts; made-up answers with faults
"""

from collections.abc import Iterator
from contextlib import contextmanager

from raft_spark.config import Completions, Endpoint
from raft_spark.endpoints.base import Client
from raft_spark.endpoints.batch_service import BatchService


def connect(conf: Endpoint, connections: int, timeout_seconds: float) -> Client:
    """Open a client with a pool of `connections`; each call ends after `timeout_seconds`."""
    # import only the client that is used: boto3 alone takes half a second
    if conf.kind == "sagemaker":
        from raft_spark.endpoints.aws import SageMakerClient  # noqa: PLC0415 - see above

        return SageMakerClient(conf, connections, timeout_seconds)
    if conf.kind == "bedrock":
        from raft_spark.endpoints.aws import BedrockClient  # noqa: PLC0415 - see above

        return BedrockClient(conf, connections, timeout_seconds)
    from raft_spark.endpoints.openai import OpenAIClient  # noqa: PLC0415 - see above

    return OpenAIClient(conf, connections, timeout_seconds)


def batch_service_of(conf: Endpoint, completions: Completions) -> BatchService:
    """Return the batch inference of an endpoint; it connects when it is first used."""
    if conf.kind == "openai":
        from raft_spark.endpoints.openai_batch import OpenAIBatches  # noqa: PLC0415 - see above

        return OpenAIBatches(conf, completions)
    if conf.kind == "sagemaker":
        from raft_spark.endpoints.sagemaker_async import SageMakerAsync  # noqa: PLC0415 - see above

        return SageMakerAsync(conf, completions)
    from raft_spark.endpoints.bedrock_batch import BedrockBatches  # noqa: PLC0415 - see above

    return BedrockBatches(conf, completions)


@contextmanager
def serving(conf: Endpoint) -> Iterator[Endpoint]:
    """Yield `conf` with the URL of a server that answers; a server that this function starts ends with the block.

    Raises EndpointError when the server cannot be started.
    """
    if conf.kind not in {"embedded", "fake"} or conf.url:
        yield conf
        return
    from raft_spark.endpoints.local import process  # noqa: PLC0415 - only a run that starts a server needs it

    with process.start_server(conf) as url:
        yield conf.model_copy(update={"url": url})
