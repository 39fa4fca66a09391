"""Folder -> Release: read its manifest and check every byte. The files of a release never change.

    jobs/*.py                               entry points
    conf/*.toml                             settings files
    raft_spark-VERSION-py3-none-any.whl     for machines that have the packages already
    environment-MACHINE.tar.gz              raft_spark and all packages that the jobs import, without pyspark
    hub-MACHINE.tar.gz                      `datasets`, `tokenizers` and their requirements: for hf: sources and dataset.tokenizer
    release.json                            the manifest: bytes and SHA-256 of each file

The name ends with a hash of all files, so that another byte gives another name.
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

MANIFEST = "release.json"
PYTHON = "3.11"  # the default of emr-spark-8.x; emr-7.x has it too
MACHINES = {"x86_64": "x86_64", "arm64": "aarch64"}  # EMR's name -> the name in wheels and archives
REBUILD_HINT = "remove it and build it again: raft-spark emr package"


@dataclass(frozen=True)
class Package:
    """A package in an archive, with its unpacked bytes before and after trimming."""

    name: str
    version: str
    before: int
    after: int


@dataclass(frozen=True)
class ReleaseFile:
    """A file of a release. Machine, Python and packages are those of an archive."""

    path: str  # relative to the release's folder, with /
    bytes: int
    sha256: str
    machine: str = ""
    python: str = ""
    packages: tuple[Package, ...] = ()


@dataclass(frozen=True)
class Release:
    """A release whose files match its manifest."""

    folder: Path
    name: str
    version: str
    files: tuple[ReleaseFile, ...]  # without release.json

    def archives(self, architecture: str, *, with_hub: bool) -> dict[str, str]:
        """Return the archives that a job needs, by the folder that Spark unpacks each into; PYTHONPATH lists the folders.

        `architecture` is EMR's name, x86_64 or arm64. Raises InputError when the release lacks one.
        """
        kinds = ("environment", "hub") if with_hub else ("environment",)
        wanted = {kind: f"{kind}-{MACHINES[architecture]}.tar.gz" for kind in kinds}
        missing = set(wanted.values()) - {file.path for file in self.files}
        if missing:
            msg = f"release {self.folder} has no {', '.join(sorted(missing))}; {REBUILD_HINT}"
            raise InputError(msg)
        return wanted


def unbuilt(version: str, jobs: Iterable[str]) -> Release:
    """Return a release that nobody has built, to show the arguments of a run."""
    archives = (f"{kind}-{machine}.tar.gz" for kind in ("environment", "hub") for machine in MACHINES.values())
    paths = (*(f"jobs/{job}.py" for job in jobs), *archives)
    return Release(Path(), f"raft-spark-{version}-UNBUILT", version, tuple(ReleaseFile(path, 0, "") for path in paths))


def load(folder: Path) -> Release:
    """Read a release and check its files and archives. Raises InputError with every problem."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        release = Release(folder, manifest["name"], manifest["version"], tuple(map(_release_file, manifest["files"])))
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"{folder} is no release ({type(error).__name__}: {error}); build one: raft-spark emr package"
        raise InputError(msg) from error
    problems = _file_problems(release) or content_problems(release)
    if problems:
        msg = f"release {folder} is damaged: {'; '.join(problems)}; {REBUILD_HINT}"
        raise InputError(msg)
    return release


def _release_file(entry: Mapping[str, Any]) -> ReleaseFile:
    packages = tuple(Package(**package) for package in entry["packages"])
    return ReleaseFile(**{**entry, "packages": packages})


def _file_problems(release: Release) -> list[str]:
    """Compare the folder with the manifest, and the manifest with the release's name."""
    expected = {file.path: file.sha256 for file in release.files}
    actual = {file.path: file.sha256 for file in _files(release.folder)}
    problems = [f"{path} is missing" for path in sorted(expected.keys() - actual.keys())]
    problems += [f"{path} is not in {MANIFEST}" for path in sorted(actual.keys() - expected.keys())]
    problems += [
        f"{path} was changed" for path in sorted(expected.keys() & actual.keys()) if expected[path] != actual[path]
    ]
    name = _name(release.version, release.files)
    return problems or ([f"its files give the name {name}, not {release.name}"] if name != release.name else [])


def content_problems(release: Release) -> list[str]:
    """Return what is wrong with the packages in the archives; otherwise only a run on EMR would show it, after minutes."""
    problems: list[str] = []
    for machine in MACHINES.values():
        available: dict[str, archive.Distribution] = {}
        for file in (file for file in release.files if file.machine == machine):
            inside, found = archive.inspect(release.folder / file.path, machine, file.python)
            available |= inside
            wanted = {package.name: package.version for package in file.packages}
            found += archive.missing_packages(inside, available, wanted)
            problems += [f"{file.path}: {problem}" for problem in found]
    return problems


def seal(folder: Path, version: str, packages: Mapping[str, tuple[Package, ...]]) -> Release:
    """Write the manifest into a complete folder and return the release; `packages` is keyed by the archive's path."""
    files = tuple(
        replace(file, machine=_machine(file.path), python=PYTHON, packages=packages[file.path])
        if file.path in packages
        else file
        for file in _files(folder)
    )
    release = Release(folder, _name(version, files), version, files)
    manifest = {"name": release.name, "version": version, "files": [asdict(file) for file in files]}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return release


def _machine(path: str) -> str:
    return path.removesuffix(".tar.gz").partition("-")[2]


def _files(folder: Path) -> list[ReleaseFile]:
    """Return all files but the manifest with their bytes and SHA-256, sorted by path: environment comes before hub."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    return [ReleaseFile(path.relative_to(folder).as_posix(), path.stat().st_size, sha256(path)) for path in paths]


def _name(version: str, files: Iterable[ReleaseFile]) -> str:
    lines = sorted(f"{file.sha256}  {file.path}\n" for file in files)
    return f"raft-spark-{version}-{hashlib.sha256(''.join(lines).encode()).hexdigest()[:12]}"
