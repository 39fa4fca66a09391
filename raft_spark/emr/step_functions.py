"""Arguments of StartJobRun -> parameters of Step Functions' startJobRun.sync: the input of emr/stack.yaml's state machine.

    python -m raft_spark.emr.step_functions < document.json > refresh.json

Step Functions capitalizes the API's names, but not the keys of maps such as tags; botocore's model tells them apart. Every
name that the state machine reads must be present, because a path without a value fails an execution.
"""

import json
import sys
from collections.abc import Mapping
from typing import Any

from botocore.model import Shape
from botocore.session import Session
from botocore.validate import ParamValidator

from raft_spark.errors import ConfigError

# EMR's defaults, left out because the integration of Step Functions does not know them; it retries runs itself.
MAX_CHARACTERS = 500  # of a message
OMITTED: Mapping[str, Any] = {"mode": "BATCH", "retryPolicy": {"maxAttempts": 1}}
REQUIRED: Mapping[str, Any] = {"configurationOverrides": {}, "tags": {}}


def parameters(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of startJobRun.sync. Raises ConfigError for what are no arguments of StartJobRun, or unsupported."""
    shape = Session().get_service_model("emr-serverless").operation_model("StartJobRun").input_shape
    _check(document, shape)
    if document.get("flexExecution", {}).get("enabled"):
        raise ConfigError(
            "emr.flex is true; Step Functions cannot start flexible runs: set it to false for a scheduled refresh"
        )
    attempts = document.get("retryPolicy", {}).get("maxAttempts", 1)
    if attempts != 1:
        msg = f"emr.attempts is {attempts}; Step Functions repeats a scheduled refresh (the stack's parameter Attempts): set it to 1"
        raise ConfigError(msg)
    arguments = {
        name: value for name, value in document.items() if name not in {*OMITTED, "flexExecution", "clientToken"}
    }
    capitalized: dict[str, Any] = _capitalize_names({**REQUIRED, **arguments}, shape)
    return capitalized


def _check(document: object, shape: Shape) -> None:
    """Raise ConfigError with each part of a document that StartJobRun does not accept."""
    filled = {"clientToken": "0", **document} if isinstance(document, dict) else document  # the SDK adds a token
    report = ParamValidator().validate(filled, shape)
    if report.has_errors():
        found = " ".join(report.generate_report().split())
        msg = f"these are no arguments of StartJobRun, as `raft-spark emr submit --dry-run` prints them: {found[:MAX_CHARACTERS]}"
        raise ConfigError(msg)


def _capitalize_names(value: Any, shape: Shape) -> Any:  # noqa: ANN401 - JSON
    match shape.type_name:
        case "structure":
            return {
                f"{name[0].upper()}{name[1:]}": _capitalize_names(part, shape.members[name])
                for name, part in value.items()
            }
        case "list":
            return [_capitalize_names(part, shape.member) for part in value]
    return value


def main() -> None:
    """Convert the JSON that `raft-spark emr submit --dry-run` prints; exit with status 2 and a sentence when it is none."""
    try:
        converted = parameters(json.load(sys.stdin))
    except (ValueError, RecursionError) as error:
        sys.exit(_refuse(f"standard input is no JSON document: {error}"))
    except ConfigError as error:
        sys.exit(_refuse(str(error)))
    sys.stdout.write(json.dumps(converted, indent=1) + "\n")


def _refuse(sentence: str) -> int:
    sys.stderr.write(f"ConfigError: {sentence}\n")
    return ConfigError.exit_status


if __name__ == "__main__":
    main()
