"""A template of this package and what it tells -> one HTML page, which needs nothing but itself.

All text of rows is a stranger's: it reaches a page through jinja2's escaping alone, and the page allows no script at all.
jinja2 is imported when a page is written: EMR does not carry it.
"""

from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

STYLE = "page.css"


def render(template: str, told: Mapping[str, Any], filters: Mapping[str, Callable[..., str]]) -> str:
    """Fill a template; one that names what `told` lacks is an error."""
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415 - EMR does not carry it

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(filters)
    return environment.from_string(_read_resource(template)).render(style=_read_resource(STYLE), **told)


def _read_resource(name: str) -> str:
    return resources.files("raft_spark.monitoring").joinpath("templates", name).read_text(encoding="utf-8")
