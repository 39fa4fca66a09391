"""A folder -> Release: what is in it and for which machine, checked byte by byte. Nothing in a release is ever changed.

    jobs/*.py                               entry points
    conf/*.toml                             the settings files that came with them
    raft_spark-VERSION-py3-none-any.whl     for machines that have their packages
    environment-MACHINE.tar.gz              all that the jobs import but pyspark; raft_spark and its settings are among it
    hub-MACHINE.tar.gz                      `datasets` and what it needs beside: for articles of the hub and for dataset.tokenizer
    release.json                            this list, with bytes and SHA-256 of each

Its name ends with a hash of all this, so that another byte makes another name.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from raft_spark.emr import archive
from raft_spark.errors import InputError
from raft_spark.lake.filesystem import sha256

LIST = "release.json"
PYTHON = "3.11"  # the default of emr-spark-8.x; on emr-7.x beside an older one
MACHINES = {"x86_64": "x86_64", "arm64": "aarch64"}  # EMR's name: the name in wheels and archives
AGAIN = "remove it and make it again: raft-spark emr package"


@dataclass(frozen=True)
class Package:
    """A package in an archive: unpacked bytes before and after what no job needs was left out."""

    name: str
    version: str
    before: int
    after: int


@dataclass(frozen=True)
class ReleaseFile:
    """A file of a release; of an archive also for which machine and Python it is, and what is in it."""

    path: str  # below the release's folder, with /
    bytes: int
    sha256: str
    machine: str = ""
    python: str = ""
    packages: tuple[Package, ...] = ()


@dataclass(frozen=True)
class Release:
    """A release whose files are what its list says."""

    folder: Path
    name: str
    version: str
    files: tuple[ReleaseFile, ...]  # without release.json

    def archives(self, architecture: str, *, with_hub: bool) -> dict[str, str]:
        """Return the archives that a job takes, by the folder Spark shall unpack each into; each folder goes on PYTHONPATH.

        `architecture` is EMR's name, x86_64 or arm64. Raises InputError where the release has none.
        """
        kinds = ("environment", "hub") if with_hub else ("environment",)
        wanted = {kind: f"{kind}-{MACHINES[architecture]}.tar.gz" for kind in kinds}
        lacking = set(wanted.values()) - {file.path for file in self.files}
        if lacking:
            msg = f"release {self.folder} has no {', '.join(sorted(lacking))}; {AGAIN}"
            raise InputError(msg)
        return wanted


def load(folder: Path) -> Release:
    """Read a release and check it, down to what is in its archives. Raises InputError that says what is wrong."""
    try:
        listed = json.loads((folder / LIST).read_bytes())
        release = Release(folder, listed["name"], listed["version"], tuple(map(_file, listed["files"])))
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"{folder} is no release ({type(error).__name__}: {error}); make one: raft-spark emr package"
        raise InputError(msg) from error
    wrong = _wrong_bytes(release) or content_problems(release)
    if wrong:
        msg = f"release {folder} is broken: {'; '.join(wrong)}; {AGAIN}"
        raise InputError(msg)
    return release


def _file(entry: Mapping[str, Any]) -> ReleaseFile:
    packages = tuple(Package(**package) for package in entry["packages"])
    return ReleaseFile(**{**entry, "packages": packages})


def _wrong_bytes(release: Release) -> list[str]:
    """Compare the folder with its list, and the list with its name."""
    listed = {file.path: file.sha256 for file in release.files}
    there = {file.path: file.sha256 for file in _files(release.folder)}
    wrong = [f"{path} is missing" for path in sorted(listed.keys() - there.keys())]
    wrong += [f"{path} is not in {LIST}" for path in sorted(there.keys() - listed.keys())]
    wrong += [
        f"{path} has other bytes than it had"
        for path in sorted(listed.keys() & there.keys())
        if listed[path] != there[path]
    ]
    name = _name(release.version, release.files)
    return wrong or ([f"its files make the name {name}, not {release.name}"] if name != release.name else [])


def content_problems(release: Release) -> list[str]:
    """Look into the archives: what is wrong there would show on EMR only, minutes into a run."""
    wrong: list[str] = []
    for machine in MACHINES.values():
        beside: dict[str, archive.Distribution] = {}
        for file in (file for file in release.files if file.machine == machine):
            inside, found = archive.inspected(release.folder / file.path, machine, file.python)
            beside |= inside
            found += archive.missing(inside, beside, {package.name: package.version for package in file.packages})
            wrong += [f"{file.path}: {problem}" for problem in found]
    return wrong


def seal(folder: Path, version: str, packages: Mapping[str, tuple[Package, ...]]) -> Release:
    """Write the list of a folder that is whole but for it; `packages` says by its path what is in an archive."""
    files = tuple(
        replace(file, machine=_machine(file.path), python=PYTHON, packages=packages[file.path])
        if file.path in packages
        else file
        for file in _files(folder)
    )
    release = Release(folder, _name(version, files), version, files)
    listed = {"name": release.name, "version": version, "files": [asdict(file) for file in files]}
    (folder / LIST).write_text(json.dumps(listed, indent=1) + "\n")
    return release


def _machine(path: str) -> str:
    return path.removesuffix(".tar.gz").partition("-")[2]


def _files(folder: Path) -> list[ReleaseFile]:
    """Return the files below a folder but its list, sorted, with their bytes and SHA-256: environment comes before hub."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / LIST)
    return [ReleaseFile(path.relative_to(folder).as_posix(), path.stat().st_size, sha256(path)) for path in paths]


def _name(version: str, files: Iterable[ReleaseFile]) -> str:
    lines = sorted(f"{file.sha256}  {file.path}\n" for file in files)
    return f"raft-spark-{version}-{hashlib.sha256(''.join(lines).encode()).hexdigest()[:12]}"
