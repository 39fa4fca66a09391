"""articles.holdout -> the pubids whose articles are in the test split, sorted.

It is OFFICIAL_TEST, or a file that has one pubid a line, or is a JSON list of pubids or of records, or a JSON object keyed by
pubid, such as PubMedQA's own test_set.json.
"""

import json
import re
import tomllib
from collections.abc import Iterable, Iterator
from importlib import resources
from typing import Any

import numpy as np

from raft_spark.common.hashing import Int64Array
from raft_spark.config import Config
from raft_spark.config.fields import OFFICIAL_TEST
from raft_spark.errors import InputError
from raft_spark.lake.filesystem import Storage
from raft_spark.sources.splits import NO_PUBIDS

_PUBID = re.compile(r"\s*([0-9]{1,18})\s*")


def read(conf: Config) -> Int64Array:
    """Return the pubids of articles.holdout, each once; none if it is not set. Raises InputError when the file is missing or wrong."""
    path = conf.articles.holdout
    if not path:
        return NO_PUBIDS
    if path == OFFICIAL_TEST:
        return _official_test()
    folder, slash, name = path.rpartition("/")
    try:
        found = Storage.of(conf.lake, folder or slash or ".").read(name)
    except InputError as error:
        msg = f"articles.holdout is {path!r}: {error}"
        raise InputError(msg) from error
    if found is None:
        msg = f"articles.holdout is {path!r}; no such file is there"
        raise InputError(msg)
    pubids = np.array(sorted({_pubid(path, where, value) for where, value in _values(found)}), np.int64)
    if not len(pubids):
        msg = f"articles.holdout is {path!r}, a file without a pubid; it must have one a line, or be a JSON list or object of pubids"
        raise InputError(msg)
    return pubids


def _official_test() -> Int64Array:
    text = resources.files("raft_spark.sources").joinpath("pubmedqa_test.toml").read_text(encoding="utf-8")
    return np.array(tomllib.loads(text)["pubids"], np.int64)


def _values(content: bytes) -> Iterator[tuple[str, Any]]:
    """Yield (where, value) of each pubid, not checked yet."""
    text = content.decode("utf-8-sig", "replace")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        yield from ((f"line {number}", line) for number, line in enumerate(text.splitlines(), 1) if line.strip())
        return
    values: Iterable[Any] = document if isinstance(document, list | dict) else [document]
    for number, value in enumerate(values, 1):
        yield f"entry {number}", value.get("pubid") if isinstance(value, dict) else value


def _pubid(path: str, where: str, value: Any) -> int:  # noqa: ANN401 - JSON may hold anything
    found = None if isinstance(value, bool) else _PUBID.fullmatch(str(value))
    if found is None:
        msg = f"articles.holdout is {path!r}: {where} has {value!r}, which is no pubid; it must be an integer from 0 on"
        raise InputError(msg)
    return int(found[1])
