"""Define the settings of what is sent to a model: fields of the body, headers, the query, the place of the system text.

A section that has them is a RequestSettings: [completions], for the teacher, and each [endpoints.NAME]. Sources of the
names: the APIs' references as in endpoints/codecs.py; for Converse a test compares with botocore's model.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from raft_spark.common.nested import merge
from raft_spark.config.fields import Section, split_list, without_duplicates

SAMPLING = ("temperature", "top_p", "max_tokens")  # the parameters of every request, by their OpenAI names
CONVERSE_FIELDS = (
    "additionalModelRequestFields",
    "additionalModelResponseFieldPaths",
    "guardrailConfig",
    "inferenceConfig",
    "outputConfig",
    "performanceConfig",
)
LIMITS = (
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "max_new_tokens",
    "max_gen_len",
    "inferenceConfig.maxTokens",
)
_OWNED: Mapping[str, str] = {  # fields that other settings make, or on which the reading of an answer depends
    **dict.fromkeys(LIMITS, "the limit of an answer is completions.max_new_tokens, and `rename` gives it another name"),
    **dict.fromkeys(("model", "modelId"), "the model is that of the endpoint"),
    **dict.fromkeys(("messages", "prompt", "inputs", "system"), "raft-spark writes the prompt"),
    **dict.fromkeys(("stream", "stream_options"), "raft-spark reads whole answers"),
    **dict.fromkeys(("n", "best_of"), "raft-spark stores one answer for each request"),
    "requestMetadata": "request_metadata of the endpoint sets it",
    "serviceTier": "service_tier of the endpoint sets it",
}
_SECRET = re.compile(
    r"secret|password|auth|cookie|credential|signature|(access|api|subscription)[._-]?key|(^|[-_])key$|token$"
)
_OWN_HEADERS = frozenset(
    {"content-type", "content-length", "host", "idempotency-key", "connection", "transfer-encoding", "accept-encoding"}
)


def _check_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """Accept fields of a body: values of JSON, and no field that belongs to another setting."""
    for path, value in _leaves(fields):
        if reason := _OWNED.get(path) or _OWNED.get(path.partition(".")[0]):
            msg = f"must not have {path!r}: {reason}"
            raise ValueError(msg)
        if re.search(r"api[._-]?key|secret|password|authorization", path, re.IGNORECASE):
            msg = (
                f"must not have {path!r}, because settings are stored with each version; a key is named by api_key_env"
            )
            raise ValueError(msg)
        if not isinstance(value, str | bool | int | float) or (isinstance(value, float) and not math.isfinite(value)):
            msg = f"has {path!r} = {value}; it must be text, a finite number, true or false, a list or a table of these"
            raise ValueError(msg)
    return fields


def _leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Yield each value below tables and lists with its dotted path, empty ones as text."""
    if isinstance(value, dict | list | tuple) and value:
        parts = value.items() if isinstance(value, dict) else ((str(number), part) for number, part in enumerate(value))
        for name, part in parts:
            yield from _leaves(part, f"{path}.{name}" if path else name)
    elif path:
        yield path, json.dumps(value) if isinstance(value, dict | list | tuple) else value


def _check_renames(names: dict[str, str]) -> dict[str, str]:
    """Accept new names for the parameters of every request, each another one."""
    for old, new in names.items():
        if old not in SAMPLING:
            msg = f"has {old!r}; it must rename some of {', '.join(SAMPLING)}"
            raise ValueError(msg)
        is_owned = new in _OWNED and not (old == "max_tokens" and new in LIMITS)
        if is_owned or not re.fullmatch(r"[A-Za-z_][\w.-]{0,99}", new) or (new in SAMPLING and new != old):
            msg = (
                f"gives {old} the name {new!r}; it must be a name that the server knows, such as max_completion_tokens"
            )
            raise ValueError(msg)
    if len({*names.values()}) < len(names):
        msg = "gives two parameters one name; it must give each its own"
        raise ValueError(msg)
    return names


def _check_headers(headers: dict[str, str]) -> dict[str, str]:
    """Accept headers that hold no secret, since settings are logged and stored. The message repeats no value."""
    for name, value in headers.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}", name) or name.lower() in _OWN_HEADERS:
            msg = f"has {name!r}, which is no header of the user's; raft-spark or HTTP sets it, or it is no valid name"
            raise ValueError(msg)
        if _SECRET.search(name.lower()):
            msg = (
                f"has {name!r}; settings are stored, so no header may hold a key: name its variable as api_key_env, and "
                "the header as api_key_header"
            )
            raise ValueError(msg)
        if not re.fullmatch(r"[ -~]{0,4000}", value) or value != value.strip():
            msg = f"has {name!r}, whose value must be printable ASCII in one line, without blanks at its ends"
            raise ValueError(msg)
    return headers


def _check_query(query: dict[str, str]) -> dict[str, str]:
    """Accept parameters of the URL that hold no secret. The message repeats no value."""
    for name in query:
        if not name or _SECRET.search(name.lower()) or name.lower() in {"code", "sig"}:
            msg = f"has {name!r}; settings are stored, so no parameter of the URL may hold a key: it must go into a header, see api_key_env"
            raise ValueError(msg)
    return query


BodyFields = Annotated[dict[str, Any], AfterValidator(_check_fields)]
LeftOut = Annotated[
    tuple[Literal["temperature", "top_p", "max_tokens", "do_sample", "details", "return_full_text"], ...],
    Field(strict=False),
    AfterValidator(without_duplicates),
    BeforeValidator(split_list),
]
Renames = Annotated[dict[str, str], AfterValidator(_check_renames)]
Headers = Annotated[dict[str, str], AfterValidator(_check_headers)]
Query = Annotated[dict[str, str], AfterValidator(_check_query)]
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,99}$", examples=["api-key"])]


class RequestSettings(Section):
    """What a request has in addition, leaves out or names otherwise, and where its system text goes."""

    parameters: BodyFields = Field(default={})
    leave_out: LeftOut = ()
    rename: Renames = Field(default={})
    system: Literal["", "system", "user"] = ""

    def over(self, lower: "RequestSettings") -> dict[str, Any]:
        """Return the fields of `lower` overridden by these."""
        return {
            "parameters": merge(lower.parameters, self.parameters),
            "leave_out": tuple(dict.fromkeys((*lower.leave_out, *self.leave_out))),
            "rename": {**lower.rename, **self.rename},
            "system": self.system or lower.system,
        }

    def problem(self, codec: str) -> str:
        """Return what does not fit together, or does not fit the protocol; "" if all does."""
        if both := sorted({*self.leave_out} & {*self.rename}):
            return f"leave_out and rename both name {both[0]}; it must be in one of them"
        if taken := sorted({*self.rename.values()} & {*self.parameters}):
            return f"rename and parameters both make the field {taken[0]}; it must be in one of them"
        if codec != "converse":
            return ""
        if self.rename:
            return "rename is set; Converse has fixed names, so it must be empty"
        unknown = [name for name in self.parameters if name not in CONVERSE_FIELDS]
        if unknown:
            return (
                f"parameters has {unknown[0]!r}; Converse takes {', '.join(CONVERSE_FIELDS)}, and what only the model "
                "knows must be a table below additionalModelRequestFields"
            )
        return ""
