"""Build a release from a checkout: a folder that is named by a hash of its content, with reproducible bytes.

pip downloads the packages as wheels, by version and SHA-256 (emr/requirements*.txt), for both architectures of EMR, and
only unpacks them. So every machine can build for both. EMR provides pyspark.
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
BUILD_REQUIREMENTS = "emr/requirements-wheel.txt"
SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "raft_spark", "conf")
GLIBC = range(28, 4, -1)  # 2.N of the wheels taken; EMR's Amazon Linux 2023 has 2.34
NEW_YEAR_1980 = "315532800"  # the earliest time that a zip file can store


def checkout() -> Path:
    """Return the checkout that this module is part of. Raises ConfigError when the package is installed elsewhere."""
    folder = Path(__file__).parents[2]
    if not (folder / "pyproject.toml").is_file():
        msg = f"{folder} is no checkout; a release is built from one, with the folders raft_spark, jobs and emr"
        raise ConfigError(msg)
    return folder


def build(source: Path, target: Path, say: Callable[[str], None]) -> Release:
    """Build the release of the checkout `source` in the folder `target`, or return it when it exists there.

    Raises InputError when the packages cannot be installed or do not fit together.
    """
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=target) as scratch:
        folder = Path(scratch, "release")
        for name, pattern in (("jobs", "*.py"), ("conf", "*.toml")):
            (folder / name).mkdir(parents=True)
            for file in (source / name).glob(pattern):
                shutil.copyfile(file, folder / name / file.name)
        say("building the wheel")
        wheel = _build_wheel(source, folder)
        packages = _build_archives(source, folder, wheel, say)
        sealed = release.seal(folder, wheel.name.split("-")[1], packages)
        problems = release.content_problems(sealed)
        if problems:
            msg = f"the packages of {' and '.join(ARCHIVES.values())} do not work on EMR: {'; '.join(problems)}; choose them again: make pins"
            raise InputError(msg)
        return _move_into_place(sealed, target)


def _move_into_place(sealed: Release, target: Path) -> Release:
    """Move a release to the folder of its name, unless that exists."""
    folder = target / sealed.name
    if folder.exists():
        return release.load(folder)
    sealed.folder.rename(folder)
    return replace(sealed, folder=folder)


def _build_wheel(source: Path, target: Path) -> Path:
    """Build the wheel from a copy of the sources, so that no file of an older build gets into it."""
    with tempfile.TemporaryDirectory() as scratch:
        copy, tools = Path(scratch, "source"), Path(scratch, "tools")
        copy.mkdir()
        for name in SOURCES:
            _copy(source / name, copy / name)
        run_pip(
            "install",
            "--require-hashes",
            "--only-binary=:all:",
            f"--target={tools}",
            f"--requirement={source / BUILD_REQUIREMENTS}",
        )
        flags = ("--no-deps", "--no-index", "--no-build-isolation", f"--wheel-dir={target}")
        run_pip("wheel", *flags, str(copy), PYTHONPATH=str(tools), SOURCE_DATE_EPOCH=NEW_YEAR_1980)
    return next(target.glob("*.whl"))


def _copy(source: Path, target: Path) -> None:
    """Copy a file or folder; all files get the same mode, because a wheel stores modes."""
    if source.is_file():
        target.write_bytes(source.read_bytes())
        target.chmod(0o644)
        return
    target.mkdir()
    for path in source.iterdir():
        if path.name != "__pycache__":
            _copy(path, target / path.name)


def _build_archives(
    source: Path, folder: Path, wheel: Path, say: Callable[[str], None]
) -> dict[str, tuple[Package, ...]]:
    """Build all archives in parallel; return the packages of each by the archive's name."""

    def build_one(name: str) -> tuple[Package, ...]:
        say(f"collecting {name}")
        kind, machine = name.removesuffix(".tar.gz").split("-")
        wheels = [wheel] if kind == "environment" else []
        return _build_archive(source / ARCHIVES[kind], machine, wheels, folder / name)

    names = [f"{kind}-{machine}.tar.gz" for kind in ARCHIVES for machine in release.MACHINES.values()]
    with ThreadPoolExecutor() as pool:
        return dict(zip(names, pool.map(build_one, names), strict=True))


def _build_archive(requirements: Path, machine: str, wheels: Sequence[Path], path: Path) -> tuple[Package, ...]:
    """Install a machine's packages and our own wheels into a folder, trim it, and pack it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        flags = ("--no-deps", "--no-compile", "--require-hashes", *platform_options(machine))
        run_pip("install", *flags, f"--target={folder}", f"--requirement={requirements}")
        for wheel in wheels:
            zipfile.ZipFile(wheel).extractall(folder)
        packages = trim.trim_folder(folder)
        archive.pack(folder, path)
    return packages


def platform_options(machine: str) -> Iterator[str]:
    """Yield pip's options that choose wheels for a machine of EMR, on whatever machine pip runs."""
    yield from ("--only-binary=:all:", "--implementation=cp", f"--python-version={release.PYTHON}")
    yield from (f"--platform=manylinux_2_{minor}_{machine}" for minor in GLIBC)
    yield from (f"--platform={old}_{machine}" for old in ("manylinux2014", "manylinux2010", "manylinux1"))


def run_pip(*arguments: str, **environment: str) -> None:
    """Run pip. Raises InputError with pip's last words on standard error."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(
        command, env=os.environ | environment, umask=0o022, capture_output=True, text=True, check=False
    )
    if done.returncode:
        msg = f"pip {arguments[0]} failed: {' '.join(done.stderr.split())[-800:]}"
        raise InputError(msg)


def size_lines(built: Release) -> Iterator[str]:
    """Yield lines with the sizes of each archive and of its packages: MB unpacked, after trimming, and packed."""
    for file in (file for file in built.files if file.packages):
        before, after = (sum(getattr(package, name) for package in file.packages) for name in ("before", "after"))
        yield f"{file.path}: {before / 1e6:.1f} MB unpacked, {after / 1e6:.1f} after trimming, {file.bytes / 1e6:.1f} packed"
        for package in sorted(file.packages, key=lambda package: -package.after):
            yield f"  {package.name + ' ' + package.version:<30} {package.before / 1e6:6.1f} -> {package.after / 1e6:5.1f}"
