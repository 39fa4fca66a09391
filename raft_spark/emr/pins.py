"""pyproject.toml, constraints.txt -> emr/requirements*.txt: the packages of a release by version and SHA-256.   make pins

`pip install --dry-run --report` lists the wheels that pip would install on each machine of EMR. The files hold the hashes
of these wheels only: one for a pure Python package, two for a compiled one.
"""

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from raft_spark.emr import package, release
from raft_spark.errors import RaftError

Pins = Mapping[str, set[str]]  # name==version: the SHA-256 of its wheels


def main(source: Path) -> None:
    """Write the three files. Raises InputError when pip finds no wheels."""
    environment, both = _resolve(source, f"{source}[emr]"), _resolve(source, f"{source}[emr,hub]")
    hub = {pin: both[pin] for pin in both.keys() - environment.keys()}
    _write(source / package.ARCHIVES["environment"], "Packages that the jobs import, without pyspark", environment)
    _write(source / package.ARCHIVES["hub"], "Packages that Hugging Face sources need on top of requirements.txt", hub)
    _write(source / package.BUILD_REQUIREMENTS, "Packages that build the wheel", _resolve(source, "setuptools"))


def _resolve(source: Path, wanted: str) -> Pins:
    pins: dict[str, set[str]] = {}
    for machine in release.MACHINES.values():
        for pin, sha256 in _wheels_for(source, wanted, machine):
            pins.setdefault(pin, set()).add(sha256)
    return pins


def _wheels_for(source: Path, wanted: str, machine: str) -> Iterator[tuple[str, str]]:
    """Yield (name==version, SHA-256) of each wheel that pip would install on a machine, within constraints.txt."""
    with tempfile.TemporaryDirectory() as scratch:
        report, target = Path(scratch, "report.json"), Path(scratch, "target")
        flags = ("--dry-run", "--ignore-installed", f"--report={report}", f"--target={target}")
        package.run_pip(
            "install", *flags, *package.platform_options(machine), f"--constraint={source}/constraints.txt", wanted
        )
        for entry in json.loads(report.read_bytes())["install"]:
            archive, metadata = entry["download_info"].get("archive_info"), entry["metadata"]
            if archive:  # raft-spark itself has none
                yield f"{metadata['name'].lower()}=={metadata['version']}", archive["hashes"]["sha256"]


def _write(path: Path, title: str, pins: Pins) -> None:
    lines = [
        " \\\n    ".join([pin, *(f"--hash=sha256:{sha256}" for sha256 in sorted(pins[pin]))]) for pin in sorted(pins)
    ]
    path.write_text(f"# {title}: wheels for x86_64 and aarch64. Made by: make pins\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    try:
        main(package.checkout())
    except RaftError as error:
        sys.exit(str(error))
