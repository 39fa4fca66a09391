"""(template, values) -> one HTML page that loads no other file.

Text of rows is untrusted: it reaches a page only through jinja2's escaping, and the page's policy allows no script.
jinja2 is imported when a page is written, because EMR does not have it.
"""

from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

STYLE = "page.css"


def render(template: str, values: Mapping[str, Any], filters: Mapping[str, Callable[..., str]]) -> str:
    """Fill a template of templates/. Raises jinja2.UndefinedError when it uses a name that `values` does not have."""
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415 - EMR does not have it

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(filters)
    return environment.from_string(_read_resource(template)).render(style=_read_resource(STYLE), **values)


def _read_resource(name: str) -> str:
    return resources.files("raft_spark.monitoring").joinpath("templates", name).read_text(encoding="utf-8")
