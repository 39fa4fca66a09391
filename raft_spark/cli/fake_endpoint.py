"""Define the options and the body of `raft-spark fake-endpoint`, which serves the fake endpoint until Ctrl-C."""

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

BATCH_SETTINGS = "--set completions.mode=batch --set completions.batch.poll_seconds=1"
BATCH_ROLE = "--set endpoints.mine.role_arn=arn:aws:iam::123456789012:role/any"


def options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the option --port and one option for each field of ServerOptions to a command."""
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
    help_text = "Port to listen on; 0 = any free port."
    return click.option("--port", type=click.IntRange(0, 65535), default=0, show_default=True, help=help_text)(function)


def run(port: int, settings: Mapping[str, object]) -> None:
    """Serve until Ctrl-C.

    Raises ConfigError for a wrong option, EndpointError when a package is missing or the port is in use.
    """
    server_options = _server_options(settings)
    process.check_installed("fake")
    from raft_spark.endpoints.fake import app

    try:
        listener = process.listen(port)
    except OSError as error:
        msg = f"cannot listen on port {port} of 127.0.0.1 ({error.strerror}); --port 0 chooses a free port"
        raise EndpointError(msg) from error
    click.echo(welcome(listener.getsockname()[1], server_options.container))
    server = threading.Thread(target=process.run_server, args=(app.application(server_options), listener), daemon=True)
    try:
        server.start()
        server.join()
    except KeyboardInterrupt:
        click.echo()


def _server_options(settings: Mapping[str, object]) -> ServerOptions:
    try:
        return ServerOptions.model_validate(settings)
    except ValidationError as error:
        schema = ServerOptions.model_json_schema()
        raise ConfigError("\n".join(messages.sentence(dict(problem), schema) for problem in error.errors())) from error


def welcome(port: int, container: str) -> str:
    """Return the first lines on the terminal: the address, and the settings that use it."""
    base = f"http://127.0.0.1:{port}"
    lines = [
        f"The fake endpoint listens at {base} with the APIs of three services. Ctrl-C stops it. To use it, add to a run:\n"
    ]
    for kind, words in ENDPOINT_SETTINGS.items():
        assignments = words.format(base=base, container=container).split()
        sets = [f"endpoints.mine.{assignment}" for assignment in assignments] + ["completions.endpoint=mine"]
        sets += (
            ["completions.template=llama3"] if kind == "sagemaker" else []
        )  # TGI and LMI take one text, not messages
        lines.append(f"{kind}:\n  {' '.join(f'--set {word}' for word in sets)}\n")
    lines.append(f"each in batch mode, with the lake in a local folder: the same, and\n  {BATCH_SETTINGS}")
    lines.append(f"and for bedrock\n  {BATCH_ROLE}\n")
    lines.append("sagemaker and bedrock also need credentials, any: AWS_ACCESS_KEY_ID=fake AWS_SECRET_ACCESS_KEY=fake")
    lines.append(f'Faults:  curl {base}/behave -d \'{{"status": 429, "share": 0.1}}\'     Counts:  curl {base}/calls')
    return "\n".join(lines)
