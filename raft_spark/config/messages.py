"""One of pydantic's findings -> a sentence: the key, its value, what is allowed, what is known."""

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any


def sentence(problem: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Turn one of pydantic's findings into: key, value, what is right."""
    path = [str(part) for part in problem["loc"]]
    key, schema = ".".join(path), _schema(settings, path)
    value = json.dumps(problem["input"], default=str)
    if problem["type"] == "extra_forbidden":
        known = sorted(_schema(settings, path[:-1]).get("properties", {}))
        near = difflib.get_close_matches(path[-1], known, n=1)
        where = f"[{'.'.join(path[:-1])}] knows" if path[1:] else "the sections are"
        return f"{key} is not a setting{f' (did you mean {near[0]}?)' if near else ''}; {where}: {', '.join(known)}"
    if problem["type"] == "missing":
        return f"{key} is missing; it must be {_allowed(schema)}"
    if problem["type"] == "value_error":
        reason = str(problem["ctx"]["error"])
        return f"{key} is {value}; {reason}" if reason.startswith("it must") else f"{key} {reason}".lstrip()
    return f"{key} is {value}; it must be {_allowed(schema)}"


def _schema(settings: Mapping[str, Any], path: Sequence[str]) -> Mapping[str, Any]:
    """Walk the settings' JSON schema to the key."""
    here = settings
    for part in path:
        here = here.get("properties", {}).get(part) or here.get("items") or here.get("additionalProperties") or {}
        here = settings["$defs"][here["$ref"].rpartition("/")[2]] if "$ref" in here else here
    return here


def _allowed(schema: Mapping[str, Any]) -> str:
    """Say in words which values a setting takes, from its JSON schema."""
    if "enum" in schema or "const" in schema:
        return "one of " + ", ".join(map(str, schema.get("enum", [schema.get("const")])))
    if "items" in schema:
        return f"a list, each {_allowed(schema['items'])}, at least {schema.get('minItems', 0)} long"
    names = {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "true or false"}
    name = names.get(schema.get("type", ""), "a table of settings")
    low, high = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
    if low is None:
        return name
    within = "above" if "exclusiveMinimum" in schema else "in"
    return f"{name} {within} {low}..{'' if high is None else high}"
