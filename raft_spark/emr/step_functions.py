"""The document of a run -> the same as Step Functions takes it: what the state machine of emr/stack.yaml reads when it starts.

    python -m raft_spark.emr.step_functions < document.json > refresh.json

Names begin with a capital there (botocore's model says what is a name and what a person's own key), and every name that the state
machine hands on must be there, since a path that leads nowhere ends an execution.
"""

import json
import sys
from collections.abc import Mapping
from typing import Any

from botocore.model import Shape
from botocore.session import Session

from raft_spark.errors import ConfigError

# As EMR does it without a word: the integration of Step Functions is older than these, and it repeats runs by itself.
UNSAID: Mapping[str, Any] = {"mode": "BATCH", "retryPolicy": {"maxAttempts": 1}}
EMPTY: Mapping[str, Any] = {"configurationOverrides": {}, "tags": {}}


def parameters(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what startJobRun.sync is given. Raises ConfigError for what it cannot be given."""
    if document.get("flexExecution", {}).get("enabled"):
        raise ConfigError(
            "emr.flex is true; Step Functions starts no flexible run: set it to false for a scheduled refresh"
        )
    repeated = document.get("retryPolicy", UNSAID["retryPolicy"])["maxAttempts"]
    if repeated != 1:
        msg = f"emr.attempts is {repeated}; a scheduled refresh is repeated by Step Functions (Attempts of the stack): set it to 1"
        raise ConfigError(msg)
    said = {name: value for name, value in document.items() if name not in {*UNSAID, "flexExecution", "clientToken"}}
    model = Session().get_service_model("emr-serverless")
    capital: dict[str, Any] = _capital({**EMPTY, **said}, model.operation_model("StartJobRun").input_shape)
    return capital


def _capital(value: Any, shape: Shape) -> Any:  # noqa: ANN401 - JSON
    match shape.type_name:
        case "structure":
            return {f"{name[0].upper()}{name[1:]}": _capital(part, shape.members[name]) for name, part in value.items()}
        case "list":
            return [_capital(part, shape.member) for part in value]
    return value


def main() -> None:
    """Read a document as `raft-spark emr submit --dry-run` prints it, write it anew; exit with 2 and a sentence for none."""
    try:
        told = parameters(json.load(sys.stdin))
    except ValueError as error:
        sys.exit(_refused(f"standard input holds no document: {error}"))
    except ConfigError as error:
        sys.exit(_refused(str(error)))
    sys.stdout.write(json.dumps(told, indent=1) + "\n")


def _refused(sentence: str) -> int:
    sys.stderr.write(f"ConfigError: {sentence}\n")
    return ConfigError.exit_status


if __name__ == "__main__":
    main()
