"""A checkout -> a release: one folder, named by what is inside, of the same bytes wherever and whenever it is made.

Packages come as wheels, by version and SHA-256 (emr/requirements*.txt), for both machines of EMR whatever this machine
is: pip does no more than unpack them. EMR brings pyspark.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from raft_spark.emr import archive, release, trim
from raft_spark.emr.release import Package, Release
from raft_spark.errors import ConfigError, InputError

ARCHIVES = {"environment": "emr/requirements.txt", "hub": "emr/requirements-hub.txt"}
BUILDER = "emr/requirements-wheel.txt"
SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "raft_spark", "conf")
GLIBC = range(28, 4, -1)  # 2.N of the wheels taken; EMR's Amazon Linux 2023 has 2.34
NEW_YEAR_1980 = "315532800"  # the first moment a zip can tell


def checkout() -> Path:
    """Return the folder this package is developed in. Raises ConfigError where it is installed."""
    folder = Path(__file__).parents[2]
    if not (folder / "pyproject.toml").is_file():
        msg = f"a release is made from a checkout, with jobs/ and emr/ beside raft_spark/; {folder} is none"
        raise ConfigError(msg)
    return folder


def built(source: Path, target: Path, say: Callable[[str], None]) -> Release:
    """Make the release of the checkout `source` in the folder `target`, or find it there. Raises InputError."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=target) as scratch:
        folder = Path(scratch, "release")
        for name, pattern in (("jobs", "*.py"), ("conf", "*.toml")):
            (folder / name).mkdir(parents=True)
            for file in (source / name).glob(pattern):
                shutil.copyfile(file, folder / name / file.name)
        say("building the wheel")
        wheel = _wheel(source, folder)
        packages = _archives(source, folder, wheel, say)
        made = release.seal(folder, wheel.name.split("-")[1], packages)
        wrong = release.content_problems(made)
        if wrong:
            msg = f"{', '.join(ARCHIVES.values())} make no release: {'; '.join(wrong)}; choose anew: make pins"
            raise InputError(msg)
        return _kept(made, target)


def _kept(made: Release, target: Path) -> Release:
    """Give a release its name; one that is there already stays as it is."""
    folder = target / made.name
    if folder.exists():
        return release.load(folder)
    made.folder.rename(folder)
    return replace(made, folder=folder)


def _wheel(source: Path, target: Path) -> Path:
    """Build the wheel from a copy of the sources: nothing is written into the checkout, nothing old gets into the wheel."""
    with tempfile.TemporaryDirectory() as scratch:
        copy, tools = Path(scratch, "source"), Path(scratch, "tools")
        copy.mkdir()
        for name in SOURCES:
            _copied(source / name, copy / name)
        pip(
            "install",
            "--require-hashes",
            "--only-binary=:all:",
            f"--target={tools}",
            f"--requirement={source / BUILDER}",
        )
        flags = ("--no-deps", "--no-index", "--no-build-isolation", f"--wheel-dir={target}")
        pip("wheel", *flags, str(copy), PYTHONPATH=str(tools), SOURCE_DATE_EPOCH=NEW_YEAR_1980)
    return next(target.glob("*.whl"))


def _copied(source: Path, target: Path) -> None:
    """Copy a file or folder, all files with the same mode: a wheel keeps modes."""
    if source.is_file():
        target.write_bytes(source.read_bytes())
        target.chmod(0o644)
        return
    target.mkdir()
    for path in source.iterdir():
        if path.name != "__pycache__":
            _copied(path, target / path.name)


def _archives(source: Path, folder: Path, wheel: Path, say: Callable[[str], None]) -> dict[str, tuple[Package, ...]]:
    """Make all archives in a folder, several at once; return what is in each, by its name."""

    def made(name: str) -> tuple[Package, ...]:
        say(f"collecting {name}")
        kind, machine = name.removesuffix(".tar.gz").split("-")
        own = [wheel] if kind == "environment" else []
        return _archive(source / ARCHIVES[kind], machine, own, folder / name)

    names = [f"{kind}-{machine}.tar.gz" for kind in ARCHIVES for machine in release.MACHINES.values()]
    with ThreadPoolExecutor() as pool:
        return dict(zip(names, pool.map(made, names), strict=True))


def _archive(requirements: Path, machine: str, wheels: Sequence[Path], path: Path) -> tuple[Package, ...]:
    """Collect a machine's packages, and wheels of our own beside them, leave out what no job needs, and pack the rest."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        flags = ("--no-deps", "--no-compile", "--require-hashes", *platform(machine))
        pip("install", *flags, f"--target={folder}", f"--requirement={requirements}")
        for wheel in wheels:
            zipfile.ZipFile(wheel).extractall(folder)
        packages = trim.trimmed(folder)
        archive.pack(folder, path)
    return packages


def platform(machine: str) -> Iterator[str]:
    """Yield pip's options for the wheels that run on this machine of EMR, whatever machine pip runs on."""
    yield from ("--only-binary=:all:", "--implementation=cp", f"--python-version={release.PYTHON}")
    yield from (f"--platform=manylinux_2_{minor}_{machine}" for minor in GLIBC)
    yield from (f"--platform={old}_{machine}" for old in ("manylinux2014", "manylinux2010", "manylinux1"))


def pip(*arguments: str, **environment: str) -> None:
    """Run pip. Raises InputError with what it said."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(
        command, env=os.environ | environment, umask=0o022, capture_output=True, text=True, check=False
    )
    if done.returncode:
        msg = f"pip {arguments[0]} failed: {' '.join(done.stderr.split())[-800:]}"
        raise InputError(msg)


def sizes(made: Release) -> Iterator[str]:
    """Yield lines on what each archive holds: MB unpacked before and after trimming, and packed."""
    for file in (file for file in made.files if file.packages):
        before, after = (sum(getattr(package, name) for package in file.packages) for name in ("before", "after"))
        yield f"{file.path}: {before / 1e6:.1f} MB unpacked, {after / 1e6:.1f} when trimmed, {file.bytes / 1e6:.1f} packed"
        for package in sorted(file.packages, key=lambda package: -package.after):
            yield f"  {package.name + ' ' + package.version:<30} {package.before / 1e6:6.1f} -> {package.after / 1e6:5.1f}"
