"""an endpoint's settings, why a run ended -> where it asked, and what a person has to change. Used by the stages that ask."""

import re

from raft_spark import config
from raft_spark.monitoring.run_state import Run

AWS_KINDS = frozenset({"sagemaker", "bedrock"})
_KEY = (
    r"api.?key|\bkey\b|unauthori[sz]ed|not authori[sz]ed|authenticat|credential|permission|accessdenied|access to|"
    r"no connected db|status 40[13]|token.{0,20}(?:expired|invalid)|expired.?token|security token"
)
_MODEL = "correct {section}.model, or its address"
# What the reason says -> what to change; the first that fits. {section} is the endpoint's, {key} where its key is set,
# {parameter} what the reason names.
REMEDIES = (
    (r"has not answered", "start the server, or correct [{section}], or lower completions.in_flight if it is too busy"),
    (
        r"quota|billing|balance|credit\b|budget|per.?day|daily|status 402|asks to wait",
        "raise the quota or pay for more, or wait until it is free again",
    ),
    (
        r"context (?:length|window)|too (?:long|large)|maximum.{0,20}(?:tokens|length)",
        "lower completions.max_new_tokens, or take a model with a longer context",
    ),
    (r"max_completion_tokens", "set completions.rename = {{ max_tokens = 'max_completion_tokens' }}"),
    (
        r"max_\w*tokens",
        "lower completions.max_new_tokens, or set its name with completions.rename = {{ max_tokens = '...' }}",
    ),
    (
        r"\b(?:temperature|top_?p)\b",
        "set completions.leave_out = ['{parameter}'] if the model does not take it, else change completions.{parameter}",
    ),
    (
        r"parameter|unsupported value|unrecognized|extra (?:fields|inputs)",
        "change what is sent: parameters, leave_out and rename of [completions] or [{section}]",
    ),
    (r"invalid model name|model\W.{0,60}(?:does not exist|not found)", _MODEL),
    (_KEY, "correct {key}"),
    (r"\bmodel\b|deployment|status 404|not found|does not exist", _MODEL),
    (r"", "correct [{section}]: its address, model and key"),
)


def failure(conf: config.Config, run: Run) -> str:
    """Return why the run failed: the endpoint's words, the address and model that were asked, and what to change."""
    name = conf.completions.endpoint
    where = f"it was asked for model {conf.teacher.model!r} at {address(conf.teacher)}"
    return f"endpoint {name!r} {run.reason}; {where}; {remedy(conf, run.reason)}; {stored(run)}"


def stored(run: Run) -> str:
    """Return what became of the answers when a run ended early."""
    return f"{run.known + run.answered} answers are stored, and a rerun asks only the others"


def address(endpoint: config.Endpoint) -> str:
    """Return where an endpoint is, for a message."""
    if endpoint.url:
        return endpoint.url
    region = f" in {endpoint.region}" if endpoint.region else ""
    if endpoint.kind == "sagemaker":
        return f"SageMaker's endpoint {endpoint.endpoint_name!r}{region}"
    return f"Bedrock{region}" if endpoint.kind == "bedrock" else "a server that the run started"


def remedy(conf: config.Config, reason: str) -> str:
    """Return what to change when the endpoint ends a run for this reason."""
    section = f"endpoints.{conf.completions.endpoint}"
    is_aws = conf.teacher.kind in AWS_KINDS
    key = "the AWS credentials of the workers and their role" if is_aws else f"{section}.api_key_env or api_key_secret"
    found, text = next(
        (found, text) for pattern, text in REMEDIES if (found := re.search(pattern, reason, re.IGNORECASE))
    )
    parameter = "top_p" if found[0].lower().startswith("top") else found[0].lower()
    return text.format(section=section, key=key, parameter=parameter)
