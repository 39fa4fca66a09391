"""The fake endpoint in a terminal of its own, until Ctrl-C: the options and the body of `raft-spark fake-endpoint`."""

import threading
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args, get_origin

import click
from pydantic import ValidationError

from raft_spark.config import messages
from raft_spark.endpoints.fake.faults import ServerOptions
from raft_spark.endpoints.local import process
from raft_spark.errors import ConfigError, EndpointError

ENDPOINT_SETTINGS = {
    "openai": "kind=openai url={base}/v1 model=fake",
    "sagemaker": "kind=sagemaker url={base} endpoint_name=fake codec={container} region=us-east-1",
    "bedrock": "kind=bedrock url={base} model=fake region=us-east-1",
}

BATCH_SETTINGS = (
    "--set endpoints.mine.role_arn=arn:aws:iam::123456789012:role/any --set completions.mode=batch "
    "--set completions.batch.poll_seconds=1"
)


def options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the option --port and one for each field of Manner."""
    for name, field in reversed(ServerOptions.model_fields.items()):
        annotation: Any = field.annotation
        kind = click.Choice(get_args(annotation)) if get_origin(annotation) is Literal else annotation
        function = click.option(
            f"--{name.replace('_', '-')}",
            type=kind,
            default=field.default,
            is_flag=annotation is bool,
            show_default=True,
            help=field.description,
        )(function)
    help_text = "Where to listen; 0 = any free port."
    return click.option("--port", type=click.IntRange(0, 65535), default=0, show_default=True, help=help_text)(function)


def run(port: int, settings: Mapping[str, object]) -> None:
    """Answer until Ctrl-C. Raises ConfigError for a wrong setting, EndpointError when a package is missing or the port taken."""
    manner = _server_options(settings)
    process.check_installed("fake")
    from raft_spark.endpoints.fake import app

    try:
        listener = process.listen(port)
    except OSError as error:
        msg = f"cannot listen on port {port} of 127.0.0.1 ({error.strerror}); --port 0 takes any free one"
        raise EndpointError(msg) from error
    click.echo(welcome(listener.getsockname()[1], manner.container))
    answering = threading.Thread(target=process.run_server, args=(app.application(manner), listener), daemon=True)
    try:
        answering.start()
        answering.join()
    except KeyboardInterrupt:
        click.echo()


def _server_options(settings: Mapping[str, object]) -> ServerOptions:
    try:
        return ServerOptions.model_validate(settings)
    except ValidationError as error:
        schema = ServerOptions.model_json_schema()
        raise ConfigError("\n".join(messages.sentence(dict(problem), schema) for problem in error.errors())) from error


def welcome(port: int, container: str) -> str:
    """Say where the endpoint is, and which settings send a run there."""
    base = f"http://127.0.0.1:{port}"
    lines = [
        f"The fake endpoint answers at {base}, as three services. Ctrl-C ends it. One of these sends a run there:\n"
    ]
    for kind, words in ENDPOINT_SETTINGS.items():
        said = words.format(base=base, container=container).split()
        sets = [f"endpoints.mine.{word}" for word in said] + ["completions.endpoint=mine"]
        sets += ["completions.template=llama3"] if kind == "sagemaker" else []  # TGI and LMI are sent one text
        lines.append(f"{kind}:\n  {' '.join(f'--set {word}' for word in sets)}\n")
    lines.append(f"bedrock in batch jobs, with the lake in a folder: the same and\n  {BATCH_SETTINGS}\n")
    lines.append("SageMaker and Bedrock also want credentials, any: AWS_ACCESS_KEY_ID=fake AWS_SECRET_ACCESS_KEY=fake")
    lines.append(f'Trouble:  curl {base}/behave -d \'{{"status": 429, "share": 0.1}}\'     Counts:  curl {base}/calls')
    return "\n".join(lines)
