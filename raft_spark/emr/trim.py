"""A folder of installed packages -> the same without what no job needs: less to fetch for each worker of each run."""

import csv
from fnmatch import fnmatch
from pathlib import Path

from raft_spark.emr import archive
from raft_spark.emr.release import Package

LEFT_OUT = (
    "bin/*",
    "share/*",
    "*/__pycache__/*",
    "*.dist-info/RECORD",  # the list of what was there before; the next three tell of this machine
    "*.dist-info/INSTALLER",
    "*.dist-info/REQUESTED",
    "*.dist-info/direct_url.json",
    "*/tests/*",
    "*.pyi",  # types, and sources and headers of what is compiled
    "*.pyx",
    "*.pxd",
    "*.pxi",
    "*.h",
    "*.a",
    "pyarrow/include/*",
    "pyarrow/src/*",
    "pyarrow/*flight*",  # a protocol that nothing here speaks
    "pyarrow/libarrow*.so",  # copies of lib*.so.2600, which is what the linker asks for
    "pyarrow/libarrow*.so.*.*.*",
    "numpy/f2py/*",  # compilers
    "numpy/distutils/*",
    "numpy/_core/_simd.*",  # only numpy's own tests load these two
    "numpy/_core/_*_tests.*",
    "pygments/*/*",  # colours of program text, which rich loads when it shows some
    "boto3/examples/*",
    "lxml/*/*",  # sacrebleu imports lxml.etree alone, for test sets that nothing here takes
    "lxml/objectify.*",
    "lxml/sax.*",
    "lxml/builder.*",
    "regex/*",  # for sacrebleu's tokenizer `intl`, which nothing here chooses; the package's name stays, as it is asked for
)
# Models of AWS' services: what the jobs call, and what their credentials may come from.
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


def trimmed(folder: Path) -> tuple[Package, ...]:
    """Remove from a folder that pip filled what no job needs; return its packages with their bytes before and after."""
    told = [
        (archive.distribution((info / "METADATA").read_bytes()), _files(info)) for info in folder.glob("*.dist-info")
    ]
    before = [sum(file.stat().st_size for file in files) for _, files in told]
    for file in [file for file in folder.rglob("*") if file.is_file()]:
        if left_out(file.relative_to(folder).as_posix()):
            file.unlink()
    after = [sum(file.stat().st_size for file in files if file.exists()) for _, files in told]
    packages = (
        Package(found.name, found.version, *sizes) for (found, _), *sizes in zip(told, before, after, strict=True)
    )
    return tuple(sorted(packages, key=lambda package: package.name))


def left_out(path: str) -> bool:
    """Say whether a file of a package, by its path with /, is of no use to a job."""
    return any(fnmatch(path, pattern) for pattern in LEFT_OUT) or _other_service(path)


def _other_service(path: str) -> bool:
    package, _, below = path.partition("/data/")
    service, slash, _ = below.partition("/")
    return package in {"botocore", "boto3"} and bool(slash) and service not in SERVICES


def _files(info: Path) -> list[Path]:
    """Return the files of a package, as its RECORD lists them; pip puts programs elsewhere than it says there."""
    with (info / "RECORD").open(newline="") as record:
        listed = [info.parent / path for path, *_ in csv.reader(record)]
    return [path for path in listed if path.is_file()]
