"""TOML files and `--set` -> one frozen Config: conf/default.toml, then each file, then each `--set`; the last wins.

conf/default.toml is the reference page of every setting and the only place of a default; `sections` says which values are
allowed. What reads settings takes their types from here.
"""

import argparse
import functools
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from pydantic import ValidationError

from raft_spark.config import messages
from raft_spark.config.models import Config
from raft_spark.errors import ConfigError


def from_argv(argv: Sequence[str]) -> Config:
    """Settle the settings of a job from its arguments: `[CONF.toml ...] [--set section.key=value ...]`."""
    parser = argparse.ArgumentParser(description="Settings: CONF.toml ... --set section.key=value ...")
    parser.add_argument("files", nargs="*", metavar="CONF.toml", help="settings on top of conf/default.toml")
    parser.add_argument("--set", action="append", default=[], dest="assignments", metavar="section.key=value")
    arguments = parser.parse_intermixed_args(argv)
    return load(arguments.files, arguments.assignments)


def load(
    files: Iterable[str] = (), assignments: Iterable[str] = (), overrides: Mapping[str, object] | None = None
) -> Config:
    """Settle default.toml, then `files`, then `assignments` (each `section.key=value`), then `overrides` (values by
    `section.key`), in this order.

    Raises ConfigError that names each wrong key, its value, what is allowed and the known keys.
    """
    layers = [_parse_file(folder() / "default.toml"), *(_parse_file(_find_file(file)) for file in files)]
    layers += [_parse_assignment(assignment) for assignment in assignments]
    layers += [_parse_override(key, value) for key, value in (overrides or {}).items()]
    merged: dict[str, Any] = functools.reduce(_merge, layers)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(
            "\n".join(messages.sentence(dict(problem), Config.model_json_schema()) for problem in error.errors())
        ) from error


def folder() -> Path:
    """Return the folder conf/: beside the package in a checkout, inside it when installed."""
    package = Path(__file__).parents[1]
    return next(path for path in (package / "conf", package.parent / "conf") if (path / "default.toml").is_file())


def _find_file(file: str) -> Path:
    """Take a path as it is; a mere NAME or conf/NAME else from the conf/ that came with the package."""
    path = Path(file)
    candidates = (path, folder() / path.name) if str(path.parent) in {".", "conf"} else (path,)
    return next((candidate for candidate in candidates if candidate.is_file()), path)


def _parse_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(sorted(found.name for found in folder().glob("*.toml")))
        msg = f"{path} cannot be read ({error.strerror}); give a TOML file, or one that came with the package: {known}"
        raise ConfigError(msg) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"{path} is not TOML: {error}"
        raise ConfigError(msg) from error


def _parse_assignment(assignment: str) -> dict[str, Any]:
    """Read one `section.key=value`; a value that is no TOML is text, so that quotes are needed for numbers only."""
    key, equals, value = assignment.partition("=")
    for text in (assignment, f"{key}={json.dumps(value, ensure_ascii=False)}"):
        try:
            parsed = tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            continue
        if equals and all(isinstance(section, dict) for section in parsed.values()):
            return parsed
    msg = f"--set {assignment!r} is not section.key=value, for example --set base.distractors=4"
    raise ConfigError(msg)


def _parse_override(key: str, value: object) -> dict[str, Any]:
    """Put a value under its key, which is written as in TOML: {"base.seed": 7} -> {"base": {"seed": 7}}."""
    try:
        outline = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError as error:
        msg = f"the override {key!r} is not section.key, for example base.distractors"
        raise ConfigError(msg) from error
    return _set_leaf(outline, str(value) if isinstance(value, PurePath) else value)


def _set_leaf(outline: Mapping[str, Any], value: object) -> dict[str, Any]:
    """Put a value at the only leaf of nested dictionaries."""
    return {key: _set_leaf(below, value) if isinstance(below, dict) else value for key, below in outline.items()}


def _merge(under: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `over` on `under`, key by key; tables are merged, everything else replaced."""
    both = dict(under)
    for key, value in over.items():
        below = both.get(key)
        both[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return both
