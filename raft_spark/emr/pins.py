"""pyproject.toml, constraints.txt -> emr/requirements*.txt: what a release is made of, by version and SHA-256.   make pins

pip says which wheels it would take for each machine of EMR; where a package has one for both, it stands there once.
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
    """Write the three lists anew. Raises InputError where pip finds no wheels."""
    environment, both = _resolved(source, f"{source}[emr]"), _resolved(source, f"{source}[emr,hub]")
    hub = {pin: both[pin] for pin in both.keys() - environment.keys()}
    _write(source / package.ARCHIVES["environment"], "All that the jobs import, but for pyspark", environment)
    _write(source / package.ARCHIVES["hub"], "What articles of the hub need beside requirements.txt", hub)
    _write(source / package.BUILDER, "What builds the wheel", _resolved(source, "setuptools"))


def _resolved(source: Path, wanted: str) -> Pins:
    pins: dict[str, set[str]] = {}
    for machine in release.MACHINES.values():
        for pin, sha256 in _chosen(source, wanted, machine):
            pins.setdefault(pin, set()).add(sha256)
    return pins


def _chosen(source: Path, wanted: str, machine: str) -> Iterator[tuple[str, str]]:
    """Yield the wheels that pip takes for one machine, in the versions that are tested together."""
    with tempfile.TemporaryDirectory() as scratch:
        report, target = Path(scratch, "report.json"), Path(scratch, "target")
        flags = ("--dry-run", "--ignore-installed", f"--report={report}", f"--target={target}")
        package.pip("install", *flags, *package.platform(machine), f"--constraint={source}/constraints.txt", wanted)
        for taken in json.loads(report.read_bytes())["install"]:
            archive = taken["download_info"].get("archive_info")
            if archive:  # none: raft-spark itself
                yield (
                    f"{taken['metadata']['name'].lower()}=={taken['metadata']['version']}",
                    archive["hashes"]["sha256"],
                )


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
