"""Check that every package a job needs is installed and built for this machine. A job does this before all other imports.

On EMR Serverless all packages come from one archive that was built elsewhere. When it lacks a package, or was built for another
architecture, Python ends with a traceback such as "No module named 'pyarrow.lib'". This check ends with a sentence that says
what to do. It uses the standard library only.
"""

import csv
import platform
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution
from pathlib import PurePosixPath

from raft_spark.errors import ConfigError

MAX_NAMED = 3  # missing files
EMR_EXTRA = "extra == .emr."
HINT = "package the job again, for the architecture of the application (emr.architecture)"


def check() -> None:
    """Exit with one sentence and the status of ConfigError when there are problems."""
    found = problems(sys.path)
    if found:
        sys.stderr.write(f"ConfigError: {'; '.join(found)}; {HINT}\n")
        sys.exit(ConfigError.exit_status)


def problems(path: Sequence[str]) -> list[str]:
    """Return a sentence for each package raft-spark needs that is missing from `path` or was built for another machine.

    Imports nothing, and looks only at the packages that raft-spark needs.
    """
    package = _installed("raft-spark", path)
    needed = _needed(package, path) if package else {}
    return [problem for name in sorted(needed) for problem in _problems(name, needed[name])]


def _installed(name: str, path: Sequence[str]) -> Distribution | None:
    return next(iter(Distribution.discover(name=name, path=list(path))), None)


def _needed(package: Distribution, path: Sequence[str]) -> dict[str, Distribution | None]:
    """Return all packages that `package` requires, directly or not, by name; None for one that is not installed.

    Follows requirements without a condition and those of the extra `emr`. Other conditions name an extra or another Python.
    """
    found: dict[str, Distribution | None] = {}
    unread = [package]
    while unread:
        requirements = unread.pop().requires or []
        names = {plain_name(text) for text in requirements if ";" not in text or re.search(EMR_EXTRA, text)}
        new = {name: _installed(name, path) for name in names - found.keys()}
        unread += filter(None, new.values())
        found |= new
    return found


def plain_name(text: str) -> str:
    """Return the normalized name (PEP 503) of the package that a requirement names."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", text.strip(), maxsplit=1)[0]).lower()


def _problems(name: str, found: Distribution | None) -> Iterator[str]:
    if found is None:
        yield f"the package {name} is not installed"
        return
    missing = _missing(found, _modules(found)) or _missing(found, _packed_files(found))
    if missing:
        others = f" and {len(missing) - MAX_NAMED} others" if len(missing) > MAX_NAMED else ""
        yield f"the package {name} {found.version} is installed without its files {', '.join(missing[:MAX_NAMED])}{others}"
    tags = re.findall(r"^Tag: (\S+)$", found.read_text("WHEEL") or "", re.MULTILINE)
    if tags and not any(map(_fits, tags)):
        here = f"Python {platform.python_version()} on {platform.machine()}"
        yield f"the package {name} {found.version} is built for {tags[0]}, but this is {here}"


def _modules(found: Distribution) -> list[str]:
    """Return the top-level packages and modules of a distribution, as paths below its folder."""
    record = (found.read_text("RECORD") or "").splitlines()  # from Python 3.12 on, `files` leaves out what is missing
    files = [
        path.parts for path in (PurePosixPath(row[0]) for row in csv.reader(record)) if path.suffix in {".py", ".so"}
    ]
    folders = {parts[0] for parts in files if parts[1:] == ("__init__.py",)}
    return sorted(folders | {parts[0] for parts in files if len(parts) == 1})


def _packed_files(found: Distribution) -> list[str]:
    """Return the modules of a distribution in an archive of raft-spark, whose RECORD has no hashes, as paths.

    Other installations may lack files of their RECORD, such as tests.
    """
    rows = csv.reader((found.read_text("RECORD") or "").splitlines())
    return [path for path, *rest in rows if not any(rest) and PurePosixPath(path).suffix in {".py", ".so"}]


def _missing(found: Distribution, files: Sequence[str]) -> list[str]:
    return [file for file in files if not found.locate_file(file).exists()]  # type: ignore[attr-defined]


def _fits(tag: str) -> bool:
    """Return True when a wheel with this tag (PEP 425: python-abi-platform) runs here; the platform is checked on Linux only."""
    python, abi, system = tag.split("-")
    here = f"cp{sys.version_info.major}{sys.version_info.minor}"
    runs = python == here or abi == "abi3" or python.startswith("py")
    return runs and (system == "any" or sys.platform != "linux" or system.endswith(platform.machine()))
