"""Is all that a job needs installed, and for this machine? A job asks before it imports anything else.

On EMR Serverless all packages come from one archive, made elsewhere. Where it lacks one, or was made for another kind of
machine, Python's own complaint is a traceback (of a wrong kind of machine: "No module named 'pyarrow.lib'"); this is a
sentence that says what to do. It needs the standard library only.
"""

import csv
import platform
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution
from pathlib import PurePosixPath

from raft_spark.errors import ConfigError

OURS = "extra == .emr."
HINT = "package the job again, for the architecture of the application (emr.architecture)"


def check() -> None:
    """End the process with one sentence and the status of a ConfigError where something is wrong."""
    found = problems(sys.path)
    if found:
        sys.stderr.write(f"ConfigError: {'; '.join(found)}; {HINT}\n")
        sys.exit(ConfigError.exit_status)


def problems(path: Sequence[str]) -> list[str]:
    """Name each package that raft-spark needs and `path` lacks, or holds for another machine. Nothing is imported, and
    nothing is read but what is needed: who knows what else a machine has.
    """
    ours = _installed("raft-spark", path)
    needed = _needed(ours, path) if ours else {}
    return [problem for name in sorted(needed) for problem in _problems(name, needed[name])]


def _installed(name: str, path: Sequence[str]) -> Distribution | None:
    return next(iter(Distribution.discover(name=name, path=list(path))), None)


def _needed(ours: Distribution, path: Sequence[str]) -> dict[str, Distribution | None]:
    """Follow the requirements without a condition, which would be an extra or another Python, and those of our extra emr."""
    found: dict[str, Distribution | None] = {}
    waiting = [ours]
    while waiting:
        wanted = waiting.pop().requires or []
        names = {plain_name(text) for text in wanted if ";" not in text or re.search(OURS, text)}
        new = {name: _installed(name, path) for name in names - found.keys()}
        waiting += filter(None, new.values())
        found |= new
    return found


def plain_name(text: str) -> str:
    """Return the name that a requirement begins with, in its one spelling."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", text.strip(), maxsplit=1)[0]).lower()


def _problems(name: str, found: Distribution | None) -> Iterator[str]:
    if found is None:
        yield f"the package {name} is not installed"
        return
    gone = [module for module in _modules(found) if not found.locate_file(module).exists()]  # type: ignore[attr-defined]
    if gone:
        yield f"the package {name} {found.version} is installed without {', '.join(gone)}"
    tags = re.findall(r"^Tag: (\S+)$", found.read_text("WHEEL") or "", re.MULTILINE)
    if tags and not any(map(_fits, tags)):
        here = f"Python {platform.python_version()} on {platform.machine()}"
        yield f"the package {name} {found.version} is made for {tags[0]}, and this is {here}"


def _modules(found: Distribution) -> list[str]:
    """Return the folders and files of a distribution that are imported by name."""
    record = (found.read_text("RECORD") or "").splitlines()  # from Python 3.12 on, `files` leaves out what is missing
    files = [
        path.parts for path in (PurePosixPath(row[0]) for row in csv.reader(record)) if path.suffix in {".py", ".so"}
    ]
    folders = {parts[0] for parts in files if parts[1:] == ("__init__.py",)}
    return sorted(folders | {parts[0] for parts in files if len(parts) == 1})


def _fits(tag: str) -> bool:
    """Say whether a wheel with this tag (PEP 425: python-abi-platform) runs here; told for Linux only."""
    python, abi, system = tag.split("-")
    here = f"cp{sys.version_info.major}{sys.version_info.minor}"
    runs = python == here or abi == "abi3" or python.startswith("py")
    return runs and (system == "any" or sys.platform != "linux" or system.endswith(platform.machine()))
