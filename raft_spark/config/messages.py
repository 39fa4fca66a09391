"""pydantic's errors -> sentences: the setting, its value, what is allowed, the known settings."""

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

TYPES = {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "true or false"}


def explain(error: ValidationError, settings: Mapping[str, Any]) -> str:
    """Return a line for each problem of pydantic's error; `settings` is the JSON schema of all settings.

    A problem of a list is left out when one of its values has a problem, which is its cause.
    """
    problems = error.errors()
    causes = [
        problem
        for problem in problems
        if not any(other["loc"][:-1] == problem["loc"] for other in problems if other["loc"])
    ]
    return "\n".join(sentence(dict(problem), settings) for problem in causes)


def sentence(problem: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Return one problem as a sentence."""
    path = [str(part) for part in problem["loc"]]
    key, schema = ".".join(path), _schema(settings, path)
    value = json.dumps(problem["input"], default=str)
    if problem["type"] == "extra_forbidden":
        known = sorted(_schema(settings, path[:-1]).get("properties", {}))
        similar = difflib.get_close_matches(path[-1], known, n=1)
        hint = f" (did you mean {similar[0]}?)" if similar else ""
        section = f"[{'.'.join(path[:-1])}] has the settings" if path[1:] else "the sections are"
        return f"{key} is not a setting{hint}; {section}: {', '.join(known)}"
    if problem["type"] == "missing":
        return f"{key} is missing; it must be {_allowed(schema)}"
    if problem["type"] == "value_error":
        return _with_key(key, value, str(problem["ctx"]["error"]))
    return f"{key} is {value}; it must be {_allowed(schema)}"


def _with_key(key: str, value: str, reason: str) -> str:
    """Complete the reason that a check gives, unless it names the setting itself, as those about several settings do."""
    if reason.startswith("it must"):
        return f"{key} is {value}; {reason}"
    return reason if not key or reason.startswith(f"{key}.") else f"{key} {reason}"


def _schema(settings: Mapping[str, Any], path: Sequence[str]) -> Mapping[str, Any]:
    """Return the JSON schema of one setting."""
    here = settings
    for part in path:
        here = here.get("properties", {}).get(part) or here.get("items") or here.get("additionalProperties") or {}
        here = settings["$defs"][here["$ref"].rpartition("/")[2]] if "$ref" in here else here
    return here


def _allowed(schema: Mapping[str, Any]) -> str:
    """Return the allowed values of a setting in words, from its JSON schema."""
    if "enum" in schema or "const" in schema:
        return "one of " + ", ".join(str(value) or '""' for value in schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema:
        return " or ".join(_allowed(one) for one in schema["anyOf"] if one.get("type") != "null")
    if "items" in schema:
        most = f" to {schema['maxItems']}" if "maxItems" in schema else " or more"
        return f"a list of {schema.get('minItems', 0)}{most}, each {_allowed(schema['items'])}"
    name = TYPES.get(schema.get("type", ""), "a table of settings")
    return f"{name} such as {schema['examples'][0]}" if "examples" in schema else f"{name}{_range(schema)}"


def _range(schema: Mapping[str, Any]) -> str:
    low, high, above = schema.get("minimum"), schema.get("maximum"), schema.get("exclusiveMinimum")
    if above is not None:
        return f" above {above}, at most {high}" if high is not None else f" above {above}"
    if low is not None:
        return f" in {low}..{high}" if high is not None else f", {low} or more"
    return ""
