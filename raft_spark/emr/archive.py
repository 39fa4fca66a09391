"""Folder of packages -> .tar.gz with reproducible bytes; .tar.gz -> the packages in it and what would not load."""

import csv
import gzip
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesHeaderParser
from fnmatch import fnmatch
from pathlib import Path

from raft_spark import preflight

ELF_MACHINES = {62: "x86_64", 183: "aarch64"}  # e_machine, bytes 18 and 19 of a shared object
ELF_HEADER = 20  # bytes
MAX_NAMED = 3  # missing files
COMPRESSION_LEVEL = 6  # level 9 saves 1.5 % and takes three times as long


@dataclass(frozen=True)
class Distribution:
    """A package by its dist-info. `needs` are its requirements without markers and extras, by plain name."""

    name: str
    version: str
    needs: tuple[str, ...]


def pack(folder: Path, path: Path) -> None:
    """Pack the files of a folder in sorted order, without this machine's times, owners and modes."""
    files = sorted((file.relative_to(folder).as_posix(), file) for file in folder.rglob("*") if file.is_file())
    with (
        path.open("wb") as sink,
        gzip.GzipFile("", "wb", COMPRESSION_LEVEL, sink, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, file in files:
            entry = tarfile.TarInfo(name)  # time 0, mode 644, owner 0
            entry.size = file.stat().st_size
            with file.open("rb") as opened:
                tar.addfile(entry, opened)


def inspect(path: Path, machine: str, python: str) -> tuple[dict[str, Distribution], list[str]]:
    """Return the packages in an archive by name, and a sentence for each file that this machine or Python cannot load."""
    packages: dict[str, Distribution] = {}
    problems: list[str] = []
    names: set[str] = set()
    records: dict[str, bytes] = {}
    for name, content in _descriptive_files(path):
        names.add(name)
        if content is None:
            continue
        if name.endswith("/RECORD"):
            records[name] = content
        elif name.endswith("/METADATA"):
            package = parse_metadata(content)
            packages[package.name] = package
        elif name.endswith("/WHEEL"):
            problems += _tag_problems(name, content, machine, python)
        else:
            problems += _object_problems(name, content, machine, python)
    problems += (problem for name, content in records.items() for problem in _missing_files(name, content, names))
    return packages, problems + ["it contains pyspark, which EMR provides"] * ("pyspark" in packages)


def _descriptive_files(path: Path) -> Iterator[tuple[str, bytes | None]]:
    """Yield the name of each file, with the content of METADATA, WHEEL and RECORD, and the ELF header of shared objects."""
    with tarfile.open(path, "r|gz") as tar:
        for member in tar:
            is_metadata = any(fnmatch(member.name, f"*.dist-info/{name}") for name in ("METADATA", "WHEEL", "RECORD"))
            is_wanted = is_metadata or re.search(r"\.so(\.|$)", member.name)
            opened = tar.extractfile(member) if is_wanted else None
            yield member.name, (opened.read() if is_metadata else opened.read(ELF_HEADER)) if opened else None


def _missing_files(record: str, content: bytes, names: set[str]) -> Iterator[str]:
    """Yield a sentence if files that a package lists are not in the archive."""
    missing = sorted({path for path, *_ in csv.reader(content.decode().splitlines())} - names)
    if missing:
        others = f" and {len(missing) - MAX_NAMED} others" if len(missing) > MAX_NAMED else ""
        yield f"{', '.join(missing[:MAX_NAMED])}{others} of {record} missing"


def parse_metadata(content: bytes) -> Distribution:
    """Parse a METADATA file; names are normalized as pip does."""
    headers = _headers(content)
    needs = (needed for needed in headers.get_all("Requires-Dist", []) if ";" not in needed)
    return Distribution(
        preflight.plain_name(headers["Name"]), headers["Version"], tuple(map(preflight.plain_name, needs))
    )


def _headers(content: bytes) -> Message:
    return BytesHeaderParser().parsebytes(content)


def _tag_problems(name: str, content: bytes, machine: str, python: str) -> list[str]:
    tags = _headers(content).get_all("Tag", [])
    if any(_is_compatible(tag, machine, python) for tag in tags):
        return []
    return [f"{name} is of a wheel for {', '.join(tags)}, not for Python {python} on {machine}"]


def _is_compatible(tag: str, machine: str, python: str) -> bool:
    """Say whether a wheel with this tag (PEP 425) runs there. A wheel with a stable ABI also runs on later Pythons."""
    interpreter, abi, platform = tag.split("-")
    minor = int(python.partition(".")[2])
    known = re.fullmatch(r"(cp|py)3(\d*)", interpreter)
    if not known or not (platform == "any" or (platform.startswith("manylinux") and platform.endswith(machine))):
        return False
    return abi == f"cp3{minor}" or (abi in {"abi3", "none"} and int(known[2] or 0) <= minor)


def _object_problems(name: str, content: bytes, machine: str, python: str) -> list[str]:
    actual = ELF_MACHINES.get(int.from_bytes(content[18:20], "little"), "another machine")
    if not content.startswith(b"\x7fELF") or actual != machine:
        return [f"{name} is for {actual}, not for {machine}"]
    built_for = re.search(r"\.cpython-3(\d+)-", name)
    if built_for and f"3.{built_for[1]}" != python:
        return [f"{name} is for Python 3.{built_for[1]}, not for {python}"]
    return []


def missing_packages(
    inside: Mapping[str, Distribution], available: Mapping[str, Distribution], wanted: Mapping[str, str]
) -> Iterator[str]:
    """Yield a sentence for each wanted package (name: version) that is not inside, and for each requirement not available.

    `available` holds the packages of this archive and of those that are unpacked with it.
    """
    for name, version in wanted.items():
        if name not in inside or inside[name].version != version:
            yield f"{name} {version} is missing"
    for package in inside.values():
        for needed in package.needs:
            if needed not in available:
                yield f"{needed} is missing, which {package.name} needs"
