"""Columns of a file -> all that is wrong with them, as a sentence: the columns that the articles need and may have.

A column's type is put in words that hold for Parquet and JSON alike. A column inside of `context` is named `context.NAME`.
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
    "long_answer": "text",
}
OPTIONAL = {"final_decision": "text", "context.labels": TEXT_LIST, "context.meshes": TEXT_LIST}
OTHER_LIST = "a list of other values"
NULL = "null"  # of which nothing is known but that it holds no value
DOCS_SECTION = 'docs/dataset.md, "Input schema"'
_KINDS = {
    "an integer": [pa.types.is_integer],
    "text": [
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_binary,
        pa.types.is_large_binary,
    ],
    "a table": [pa.types.is_struct],
    "a decimal number": [pa.types.is_floating],
    "true or false": [pa.types.is_boolean],
}
MAX_LISTED = 20  # columns that a message lists

Columns = Mapping[str, str]  # the type of each column, in words


def parquet_columns(schema: pa.Schema) -> Columns:
    """Return the columns of a Parquet file."""
    columns = {field.name: _kind(field.type) for field in schema}
    if columns.get("context") == "a table":
        columns |= {f"context.{field.name}": _kind(field.type) for field in schema.field("context").type}
    return columns


def record_columns(record: Mapping[str, Any]) -> Columns:
    """Return the columns of a line of JSON."""
    nested = record.get("context")
    below = {f"context.{name}": value for name, value in nested.items()} if isinstance(nested, dict) else {}
    return {name: _kind_of_value(value) for name, value in {**record, **below}.items()}


def problem(columns: Columns, needed: Columns = REQUIRED) -> str:
    """Return all that is wrong with the columns in one sentence, "" when nothing is."""
    missing = [name for name in needed if name not in columns]
    if "context" in missing or columns.get("context") not in ("a table", None):
        missing = [name for name in missing if name != "context.contexts"]  # one fault is named once
    wrong = [
        f"{name} is {columns[name]} and must be {kind}"
        for name, kind in {**needed, **OPTIONAL}.items()
        if columns.get(name, NULL) not in (kind, NULL)
    ]
    found = [f"it has no column {', '.join(missing)}"] * bool(missing) + wrong
    if not found:
        return ""
    return f"{'; '.join(found)}. It has {_listed(columns)}. Needed: {_listed(needed)}; optional: {_listed(OPTIONAL)} ({DOCS_SECTION})"


def _listed(columns: Columns) -> str:
    listed = [f"{name} ({kind})" for name, kind in columns.items()]
    more = [f"and {len(listed) - MAX_LISTED} more"] if len(listed) > MAX_LISTED else []
    return ", ".join([*listed[:MAX_LISTED], *more]) or "no column"


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_dictionary(kind):
        return _kind(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return TEXT_LIST if _kind(kind.value_type) in ("text", NULL) else OTHER_LIST
    return next((words for words, are in _KINDS.items() if any(is_one(kind) for is_one in are)), str(kind))


def _kind_of_value(value: Any) -> str:  # noqa: ANN401 - JSON may hold anything
    if isinstance(value, list):
        return TEXT_LIST if all(isinstance(each, str | None) for each in value) else OTHER_LIST
    kinds: dict[type, str] = {bool: "true or false", int: "an integer", float: "a decimal number", str: "text"}
    return {**kinds, dict: "a table", type(None): NULL}[type(value)]
