"""Remove from a folder of installed packages what no job needs, so that each worker downloads less.

The RECORD of each package then lists the files that are left, without hashes, so that a file which gets lost later is
noticed: by `archive.inspect` before a run is submitted, by `preflight` at its start.
"""

import csv
from fnmatch import fnmatch
from pathlib import Path

from raft_spark.emr import archive
from raft_spark.emr.release import Package

# With SERVICES these bring 96 % of what twice as many patterns save: 101 of 105 MB on x86_64.
PATTERNS = (
    "pyarrow/*flight*",  # an RPC protocol that no job uses
    "pyarrow/libarrow*.so",  # copies of lib*.so.2600, the name that the linker needs
    "pyarrow/libarrow*.so.*.*.*",
    "*/tests/*",
    "*.h",
    "*.py[ix]",  # type stubs, and Cython sources
    "*.px[di]",
    "pygments/*/*",  # syntax highlighting, which rich imports only to show source code
    "lxml/*/*",  # sacrebleu imports only lxml.etree
    "lxml/objectify.*",
    "scipy.libs/*",  # linear algebra, which products of sparse matrices do not use
    "scipy/sparse/linalg/*",
    "scipy/sparse/csgraph/*",
    "regex/*",  # for sacrebleu's tokenizer `intl`, which is not used; its dist-info stays, since sacrebleu requires the package
    # These differ from machine to machine, and a release has reproducible bytes.
    "bin/*",
    "*.dist-info/INSTALLER",
)
# botocore's models that stay: the services that the jobs call, and those that credentials may come from.
SERVICES = (
    "bedrock",
    "bedrock-runtime",
    "emr-serverless",
    "s3",
    "sagemaker-runtime",
    "secretsmanager",
    "signin",
    "sso",
    "sso-oidc",
    "sts",
)

SCIPY = ("_lib", "sparse")  # folders of scipy that stay


def trim_folder(folder: Path) -> tuple[Package, ...]:
    """Remove the unneeded files below a folder; return its packages with their bytes before and after."""
    installed = [
        (archive.parse_metadata((info / "METADATA").read_bytes()), _files(info)) for info in folder.glob("*.dist-info")
    ]
    before = [sum(file.stat().st_size for file in files) for _, files in installed]
    for file in [file for file in folder.rglob("*") if file.is_file()]:
        if is_unneeded(file.relative_to(folder).as_posix()):
            file.unlink()
    for info in folder.glob("*.dist-info"):
        _write_record(info)
    after = [sum(file.stat().st_size for file in files if file.exists()) for _, files in installed]
    packages = (
        Package(package.name, package.version, *sizes)
        for (package, _), *sizes in zip(installed, before, after, strict=True)
    )
    return tuple(sorted(packages, key=lambda package: package.name))


def _write_record(info: Path) -> None:
    """List the files that a package has, in place of pip's RECORD, which differs from machine to machine."""
    paths = sorted(file.relative_to(info.parent).as_posix() for file in _files(info))
    with (info / "RECORD").open("w", newline="") as record:
        csv.writer(record, lineterminator="\n").writerows((path, "", "") for path in paths)


def is_unneeded(path: str) -> bool:
    """Say whether no job needs the file with this path, relative to the folder and with /."""
    return any(fnmatch(path, pattern) for pattern in PATTERNS) or _is_other_service(path) or _is_other_scipy(path)


def _is_other_scipy(path: str) -> bool:
    package, _, below = path.partition("/")
    folder, slash, _ = below.partition("/")
    return package == "scipy" and bool(slash) and folder not in SCIPY


def _is_other_service(path: str) -> bool:
    package, _, below = path.partition("/data/")
    service, slash, _ = below.partition("/")
    return package in {"botocore", "boto3"} and bool(slash) and service not in SERVICES


def _files(info: Path) -> list[Path]:
    """Return the files of a package's RECORD that exist; with --target, pip puts scripts elsewhere than RECORD says."""
    with (info / "RECORD").open(newline="") as record:
        listed = [info.parent / path for path, *_ in csv.reader(record)]
    return [path for path in listed if path.is_file() and path.resolve().is_relative_to(info.parent.resolve())]
