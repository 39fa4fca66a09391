"""columns of a file -> all faults in one sentence: the columns that articles require, and the optional ones.

The words for a column's type are the same for Parquet and JSON. A column inside `context` is named `context.NAME`.
"""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

TEXT_LIST = "a list of texts"
REQUIRED = {
    "pubid": "an integer",
    "question": "text",
    "context": "a table",
    "context.contexts": TEXT_LIST,
}
OPTIONAL = {"long_answer": "text", "final_decision": "text", "context.labels": TEXT_LIST, "context.meshes": TEXT_LIST}
OTHER_LIST = "a list of other values"
NULL = "null"  # the type of a column without values
DOCS_SECTION = 'docs/dataset.md, "Input schema"'
IS_TEXT = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
)
IS_LIST = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)
_KINDS = {
    "an integer": [pa.types.is_integer, lambda kind: pa.types.is_decimal(kind) and kind.scale == 0],
    "text": IS_TEXT,
    "a table": [pa.types.is_struct],
    "a decimal number": [pa.types.is_floating],
    "true or false": [pa.types.is_boolean],
}
TEXT_IDS = ". Turn text ids into integers, for example with int.from_bytes(hashlib.sha256(id.encode()).digest()[:7])"
MAX_LISTED = 20  # columns that a message lists

Columns = Mapping[str, str]  # the type of each column, in words


def parquet_columns(schema: pa.Schema) -> Columns:
    """Return the columns of a Parquet file."""
    columns = {field.name: _kind(field.type) for field in schema}
    if columns.get("context") == "a table":
        columns |= {f"context.{field.name}": _kind(field.type) for field in schema.field("context").type}
    return columns


def record_columns(record: Mapping[str, Any]) -> Columns:
    """Return the columns of a JSON record."""
    nested = record.get("context")
    below = {f"context.{name}": value for name, value in nested.items()} if isinstance(nested, dict) else {}
    return {name: _kind_of_value(value) for name, value in {**record, **below}.items()}


def problem(columns: Columns, required: Columns = REQUIRED) -> str:
    """Return all faults of the columns in one sentence, or "" if there is none."""
    missing = [name for name in required if name not in columns]
    if "context" in missing or columns.get("context") not in ("a table", None):
        missing = [name for name in missing if name != "context.contexts"]  # one fault is reported once
    wrong_types = [
        f"{name} is {columns[name]} and must be {kind}"
        for name, kind in {**required, **OPTIONAL}.items()
        if columns.get(name, NULL) not in (kind, NULL)
    ]
    faults = [f"it has no column {', '.join(missing)}"] * bool(missing) + wrong_types
    if not faults:
        return ""
    hint = TEXT_IDS if columns.get("pubid") == "text" else ""
    return f"{'; '.join(faults)}{hint}. It has {_list(columns)}. Needed: {_list(required)}; optional: {_list(OPTIONAL)} ({DOCS_SECTION})"


def _list(columns: Columns) -> str:
    texts = [f"{name} ({kind})" for name, kind in columns.items()]
    more = [f"and {len(texts) - MAX_LISTED} more"] if len(texts) > MAX_LISTED else []
    return ", ".join([*texts[:MAX_LISTED], *more]) or "no column"


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_dictionary(kind):
        return _kind(kind.value_type)
    if any(is_list(kind) for is_list in IS_LIST):
        return TEXT_LIST if _kind(kind.value_type) in ("text", NULL) else OTHER_LIST
    return next((words for words, are in _KINDS.items() if any(is_one(kind) for is_one in are)), str(kind))


def _kind_of_value(value: Any) -> str:  # noqa: ANN401 - JSON may hold anything
    if is_missing(value):
        return NULL
    if isinstance(value, list):
        return TEXT_LIST if all(isinstance(each, str | None) for each in value) else OTHER_LIST
    kinds: dict[type, str] = {bool: "true or false", int: "an integer", float: "a decimal number", str: "text"}
    return {**kinds, dict: "a table"}[type(value)]


def is_missing(value: Any) -> bool:  # noqa: ANN401 - a source may hold anything
    """Say whether a value is null, or the NaN that pandas writes for it."""
    return value is None or (isinstance(value, float) and value != value)  # noqa: PLR0124 - NaN differs from itself
