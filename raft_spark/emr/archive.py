"""A folder of packages -> a .tar.gz of the same bytes wherever and whenever it is made; a .tar.gz -> what is in it."""

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
LEVEL = 6  # 9 makes 1.5 % less of it in three times the time


@dataclass(frozen=True)
class Distribution:
    """A package as its dist-info tells of it; `needs` are those it needs on any machine, without extras."""

    name: str
    version: str
    needs: tuple[str, ...]


def pack(folder: Path, path: Path) -> None:
    """Pack the files of a folder, sorted, without this machine's times, owners and modes."""
    files = sorted((file.relative_to(folder).as_posix(), file) for file in folder.rglob("*") if file.is_file())
    with (
        path.open("wb") as sink,
        gzip.GzipFile("", "wb", LEVEL, sink, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, file in files:
            entry = tarfile.TarInfo(name)  # of 1970, mode 644, owned by 0
            entry.size = file.stat().st_size
            with file.open("rb") as opened:
                tar.addfile(entry, opened)


def inspected(path: Path, machine: str, python: str) -> tuple[dict[str, Distribution], list[str]]:
    """Return the packages in an archive by name, and sentences on what would not load on this machine with this Python."""
    inside: dict[str, Distribution] = {}
    wrong: list[str] = []
    for name, content in _telling(path):
        if name.endswith("/METADATA"):
            found = distribution(content)
            inside[found.name] = found
        elif name.endswith("/WHEEL"):
            wrong += _wrong_tags(name, content, machine, python)
        else:
            wrong += _wrong_object(name, content, machine, python)
    return inside, wrong + ["pyspark is inside, and EMR has its own"] * ("pyspark" in inside)


def _telling(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield what tells of packages and machines: dist-info's METADATA and WHEEL, and the headers of shared objects."""
    with tarfile.open(path, "r|gz") as tar:
        for member in tar:
            told = any(fnmatch(member.name, f"*.dist-info/{name}") for name in ("METADATA", "WHEEL"))
            opened = tar.extractfile(member) if told or re.search(r"\.so(\.|$)", member.name) else None
            if opened:
                yield member.name, opened.read() if told else opened.read(ELF_HEADER)


def distribution(metadata: bytes) -> Distribution:
    """Read a METADATA: its name as pip compares names, its version, and what it needs without condition."""
    told = _headers(metadata)
    needs = (needed for needed in told.get_all("Requires-Dist", []) if ";" not in needed)
    return Distribution(preflight.plain_name(told["Name"]), told["Version"], tuple(map(preflight.plain_name, needs)))


def _headers(content: bytes) -> Message:
    return BytesHeaderParser().parsebytes(content)


def _wrong_tags(name: str, content: bytes, machine: str, python: str) -> list[str]:
    tags = _headers(content).get_all("Tag", [])
    if any(_fits(tag, machine, python) for tag in tags):
        return []
    return [f"{name} is of a wheel for {', '.join(tags)}, not for Python {python} on {machine}"]


def _fits(tag: str, machine: str, python: str) -> bool:
    """Say whether a wheel with this tag (PEP 425) runs there; a stable ABI does from its Python on."""
    interpreter, abi, platform = tag.split("-")
    minor = int(python.partition(".")[2])
    known = re.fullmatch(r"(cp|py)3(\d*)", interpreter)
    if not known or not (platform == "any" or (platform.startswith("manylinux") and platform.endswith(machine))):
        return False
    return abi == f"cp3{minor}" or (abi in {"abi3", "none"} and int(known[2] or 0) <= minor)


def _wrong_object(name: str, content: bytes, machine: str, python: str) -> list[str]:
    found = ELF_MACHINES.get(int.from_bytes(content[18:20], "little"), "another machine")
    if not content.startswith(b"\x7fELF") or found != machine:
        return [f"{name} is for {found}, not for {machine}"]
    built_for = re.search(r"\.cpython-3(\d+)-", name)
    if built_for and f"3.{built_for[1]}" != python:
        return [f"{name} is for Python 3.{built_for[1]}, not for {python}"]
    return []


def missing(
    inside: Mapping[str, Distribution], beside: Mapping[str, Distribution], wanted: Mapping[str, str]
) -> Iterator[str]:
    """Say which wanted packages (name: version) are not inside, and which ones that those inside need are not beside them."""
    for name, version in wanted.items():
        if name not in inside or inside[name].version != version:
            yield f"{name} {version} is missing"
    for found in inside.values():
        for needed in found.needs:
            if needed not in beside:
                yield f"{needed} is missing, which {found.name} needs"
