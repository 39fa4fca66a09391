"""A request against the model that botocore has of its service: names, types, lengths, ranges, patterns, choices."""

import functools
import re
from collections.abc import Iterator
from typing import Any

import botocore.session
from botocore.model import ServiceModel, Shape
from botocore.validate import ParamValidator

BEYOND = (r"\uD800\uDC00-\uDBFF\uDFFF", r"\U00010000-\U0010FFFF")  # as Java writes it, in halves


@functools.cache
def model(service: str) -> ServiceModel:
    """Return a service's model; reading SageMaker's takes a second."""
    return botocore.session.get_session().get_service_model(service)


def found(service: str, operation: str, request: dict[str, Any]) -> list[str]:
    """Return what is not legal."""
    shape = model(service).operation_model(operation).input_shape
    return [*broken(request, shape), *filter(None, [ParamValidator().validate(request, shape).generate_report()])]


def broken(value: Any, shape: Shape, path: str = "document") -> Iterator[str]:
    """Yield what breaks a length, range, pattern or choice of the model; ParamValidator looks at types and names alone."""
    about = shape.metadata
    size = value if shape.type_name in {"integer", "long"} else len(value) if hasattr(value, "__len__") else 1
    if not about.get("min", size) <= size <= about.get("max", size):
        yield f"{path}: {size} is not in {about.get('min')}..{about.get('max')}"
    if "pattern" in about and not re.fullmatch(_of_python(about["pattern"]), value):
        yield f"{path}: {value!r} is not {about['pattern']}"
    if value not in about.get("enum", [value]):
        yield f"{path}: {value!r} is none of {about['enum']}"
    for name, member, below in inside(value, shape):
        yield from broken(member, below, f"{path}.{name}")


def inside(value: Any, shape: Shape) -> Iterator[tuple[str, Any, Shape]]:
    if shape.type_name == "structure":
        yield from ((name, member, shape.members[name]) for name, member in value.items() if name in shape.members)
    elif shape.type_name == "list":
        yield from (("[]", member, shape.member) for member in value)
    elif shape.type_name == "map":
        yield from (("key", name, shape.key) for name in value)
        yield from ((name, member, shape.value) for name, member in value.items())


def _of_python(pattern: str) -> str:
    """Write Java's names of kinds of characters as Python's, which are a little wider."""
    return (
        pattern.replace(r"\p{L}", r"\w")
        .replace(r"\p{Z}", r"\s")
        .replace(r"\p{N}", r"\d")
        .replace(r"\p{Print}", "[ -~]")
        .replace(*BEYOND)
    )
