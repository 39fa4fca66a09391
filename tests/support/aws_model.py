"""Validate a request by botocore's service model: names, types, lengths, ranges, patterns, choices."""

import functools
import re
from collections.abc import Iterator
from typing import Any

import botocore.session
from botocore.model import ServiceModel, Shape
from botocore.validate import ParamValidator

BEYOND = (
    r"\uD800\uDC00-\uDBFF\uDFFF",
    r"\U00010000-\U0010FFFF",
)  # Java's surrogate pairs, and the same range in Python


@functools.cache
def model(service: str) -> ServiceModel:
    """Return a service's model; reading SageMaker's takes a second."""
    return botocore.session.get_session().get_service_model(service)


def problems(service: str, operation: str, request: dict[str, Any]) -> list[str]:
    """Return one line for each violation."""
    shape = model(service).operation_model(operation).input_shape
    return [*violations(request, shape), *filter(None, [ParamValidator().validate(request, shape).generate_report()])]


def violations(value: Any, shape: Shape, path: str = "document") -> Iterator[str]:
    """Yield the violations of lengths, ranges, patterns and choices; ParamValidator checks only types and names."""
    about = shape.metadata
    size = value if shape.type_name in {"integer", "long"} else len(value) if hasattr(value, "__len__") else 1
    if not about.get("min", size) <= size <= about.get("max", size):
        yield f"{path}: {size} is not in {about.get('min')}..{about.get('max')}"
    if "pattern" in about and not re.fullmatch(_python_pattern(about["pattern"]), value):
        yield f"{path}: {value!r} is not {about['pattern']}"
    if value not in about.get("enum", [value]):
        yield f"{path}: {value!r} is none of {about['enum']}"
    for name, member, below in members(value, shape):
        yield from violations(member, below, f"{path}.{name}")


def members(value: Any, shape: Shape) -> Iterator[tuple[str, Any, Shape]]:
    if shape.type_name == "structure":
        yield from ((name, member, shape.members[name]) for name, member in value.items() if name in shape.members)
    elif shape.type_name == "list":
        yield from (("[]", member, shape.member) for member in value)
    elif shape.type_name == "map":
        yield from (("key", name, shape.key) for name in value)
        yield from ((name, member, shape.value) for name, member in value.items())


def _python_pattern(pattern: str) -> str:
    """Replace Java's character classes by Python's, which are a little wider."""
    return (
        pattern.replace(r"\p{L}", r"\w")
        .replace(r"\p{Z}", r"\s")
        .replace(r"\p{N}", r"\d")
        .replace(r"[\p{Print}]", r"\p{Print}")
        .replace(r"\p{Print}", "[ -~]")
        .replace(r"\p{ASCII}", r"[\x00-\x7f]")
        .replace(r"\z", r"\Z")
        .replace(*BEYOND)
    )
