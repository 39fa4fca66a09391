"""TOML files and `--set` -> one frozen Config: conf/default.toml, then each file, then each `--set`; the last value wins.

conf/default.toml documents every setting and is the only place with defaults. The types in `models` define which values are
allowed.
"""

import argparse
import functools
import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from pydantic import ValidationError

from raft_spark.common.nested import merge
from raft_spark.config import messages, templates
from raft_spark.config.models import Config
from raft_spark.errors import ConfigError


def from_argv(argv: Sequence[str]) -> Config:
    """Return the settings of a job from its arguments: `[CONF.toml ...] [--set section.key=value ...]`."""
    parser = argparse.ArgumentParser(description="Settings: CONF.toml ... --set section.key=value ...")
    parser.add_argument("files", nargs="*", metavar="CONF.toml", help="files whose settings override conf/default.toml")
    parser.add_argument("--set", action="append", default=[], dest="assignments", metavar="section.key=value")
    arguments = parser.parse_intermixed_args(argv)
    return load(arguments.files, arguments.assignments)


def load(
    files: Iterable[str] = (), assignments: Iterable[str] = (), overrides: Mapping[str, object] | None = None
) -> Config:
    """Read default.toml, then `files`, then `assignments` (each `section.key=value`), then `overrides` (values by
    `section.key`); later values override earlier ones.

    Raises ConfigError with a line for each wrong setting: its name, its value, and what is allowed.
    """
    layers = [_parse_file(folder() / "default.toml"), *(_parse_file(_find_file(file)) for file in files)]
    layers += [_parse_assignment(assignment) for assignment in assignments]
    layers += [_parse_override(key, value) for key, value in (overrides or {}).items()]
    merged: dict[str, Any] = functools.reduce(merge, layers)
    try:
        return Config.model_validate(_read_prompts(_name_models(merged)))
    except ValidationError as error:
        raise ConfigError(messages.explain(error, Config.model_json_schema())) from error


def folder() -> Path:
    """Return the folder conf/, which is next to the package in a checkout and inside it when installed."""
    package = Path(__file__).parents[1]
    return next(path for path in (package / "conf", package.parent / "conf") if (path / "default.toml").is_file())


def _find_file(file: str) -> Path:
    """Return the path if it exists. Otherwise look up NAME or conf/NAME in the package's conf/, but no longer path."""
    path = Path(file)
    candidates = (path, folder() / path.name) if str(path.parent) in {".", "conf"} else (path,)
    return next((candidate for candidate in candidates if candidate.is_file()), path)


def _parse_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(sorted(found.name for found in folder().glob("*.toml")))
        msg = f"{path} cannot be read ({error.strerror}); give a TOML file, or one that comes with the package: {known}"
        raise ConfigError(msg) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"{path} is not TOML: {error}; correct the file there"
        raise ConfigError(msg) from error


def _parse_assignment(assignment: str) -> dict[str, Any]:
    """Parse `section.key=value`. A value that is not TOML is taken as text, so text needs no quotes."""
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
    """Return nested dictionaries for a key as written in TOML: "base.seed", 7 -> {"base": {"seed": 7}}."""
    try:
        outline = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError as error:
        msg = f"the override {key!r} is not section.key, for example base.distractors"
        raise ConfigError(msg) from error
    return _set_leaf(outline, str(value) if isinstance(value, PurePath) else value)


def _set_leaf(outline: Mapping[str, Any], value: object) -> dict[str, Any]:
    """Return nested dictionaries with `value` at their only leaf."""
    return {key: _set_leaf(inner, value) if isinstance(inner, dict) else value for key, inner in outline.items()}


def _read_prompts(settings: dict[str, Any]) -> dict[str, Any]:
    """Replace the path of a prompt template by its words, since a worker may not see the file."""
    section, lake = settings.get("completions"), settings.get("lake")
    if not isinstance(section, dict) or not templates.is_path(section.get("prompts")):
        return settings
    words = templates.read(section["prompts"], str(section.get("style")), lake if isinstance(lake, dict) else {})
    return {**settings, "completions": {**section, "prompts": words}}


def model_name_of_file(path: str) -> str:
    """Return the file's name without suffix and the first 12 digits of its SHA-256. Raises OSError."""
    with Path(path).open("rb") as file:
        return f"{Path(path).stem}-{hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"


def _name_models(settings: dict[str, Any]) -> dict[str, Any]:
    """Name the model of each embedded endpoint that gives only `weights` by its file's content.

    Answers are stored by the model's name, so other weights must have another name.
    """
    endpoints = settings.get("endpoints")
    if not isinstance(endpoints, dict):
        return settings
    return {**settings, "endpoints": {name: _name_model(name, section) for name, section in endpoints.items()}}


def _name_model(name: str, section: object) -> object:
    if not isinstance(section, dict) or section.get("kind") != "embedded" or section.get("model"):
        return section
    weights = section.get("weights")
    if not weights or not isinstance(weights, str):
        return section
    try:
        return {**section, "model": model_name_of_file(weights)}
    except OSError as error:
        msg = (
            f"endpoints.{name}.weights is {weights!r}, which cannot be read ({error.strerror}); it must be a GGUF file"
        )
        raise ConfigError(msg) from error
