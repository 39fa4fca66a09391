"""A release is loaded only when it is whole, unchanged and for its machine; what is pinned is what is tested."""

import ast
import json
import os
import re
from pathlib import Path

import pytest

from conftest import ROOT
from raft_spark.emr import archive, package, release, trim
from raft_spark.emr.release import Package
from raft_spark.errors import ConfigError, InputError

pytestmark = pytest.mark.row
X86, ARM = 62, 183  # e_machine of an ELF header


def small(
    folder: Path, tag: str = "cp311-cp311-manylinux_2_28_aarch64", machine: int = ARM, needs: str = "idna"
) -> Path:
    """Make a release of two packages for aarch64: one compiled, one that it needs."""
    files = {
        "fast-1.0.dist-info/METADATA": f"Name: Fast\nVersion: 1.0\nRequires-Dist: {needs}\nRequires-Dist: win; os_name == 'nt'\n",
        "fast-1.0.dist-info/WHEEL": f"Wheel-Version: 1.0\nTag: {tag}\n",
        "fast/core.cpython-311-aarch64-linux-gnu.so": "\x7fELF" + "\0" * 14 + chr(machine) + "\0",
        "idna-3.0.dist-info/METADATA": "Name: idna\nVersion: 3.0\n",
        "idna-3.0.dist-info/WHEEL": "Wheel-Version: 1.0\nTag: py2-none-any\nTag: py3-none-any\n",
    }
    for path, content in files.items():
        (folder / "packages" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "packages" / path).write_bytes(content.encode("latin-1"))
    target = folder / "release"
    (target / "jobs").mkdir(parents=True)
    (target / "jobs/base.py").write_text("print(1)\n")
    archive.pack(folder / "packages", target / "environment-aarch64.tar.gz")
    packages = (Package("fast", "1.0", 30, 20), Package("idna", "3.0", 30, 20))
    release.seal(target, "0.1.0", {"environment-aarch64.tar.gz": packages})
    return target


def test_a_release_knows_its_files_and_what_each_archive_is_for(tmp_path: Path):
    found = release.load(small(tmp_path))
    environment, job = found.files
    assert (environment.path, environment.machine, environment.python) == (
        "environment-aarch64.tar.gz",
        "aarch64",
        "3.11",
    )
    assert environment.packages[0] == Package("fast", "1.0", 30, 20)
    assert (job.path, job.bytes) == ("jobs/base.py", 9)
    assert job.sha256 == "cc42155088fca5730758db72b2a5bca33112a941dfaa2d43098ec422ce4ea213"


def test_a_job_takes_the_archive_of_its_machine_and_another_for_articles_of_the_hub(tmp_path: Path):
    folder = small(tmp_path)
    (folder / "hub-aarch64.tar.gz").touch()
    found = release.seal(folder, "0.1.0", {})
    assert found.archives("arm64", with_hub=False) == {"environment": "environment-aarch64.tar.gz"}
    assert found.archives("arm64", with_hub=True) == {
        "environment": "environment-aarch64.tar.gz",
        "hub": "hub-aarch64.tar.gz",
    }


def test_a_machine_that_a_release_is_not_for_is_refused(tmp_path: Path):
    found = release.load(small(tmp_path))
    with pytest.raises(InputError, match=r"release .* has no environment-x86_64.tar.gz; remove it and build it again"):
        found.archives("x86_64", with_hub=False)


def test_the_name_is_made_of_every_byte_and_nothing_else(tmp_path: Path):
    here, there = small(tmp_path / "here"), small(tmp_path / "there")
    assert release.load(here).name == release.load(there).name
    (there / "jobs/base.py").write_text("print(2)\n")
    assert release.seal(there, "0.1.0", {}).name != release.load(here).name


def test_an_archive_is_the_same_bytes_whenever_and_by_whomever_it_is_made(tmp_path: Path):
    for name, when, mode in (("here", 1, 0o600), ("there", 2_000_000_000, 0o755)):
        for file in ("b.py", "a/c.py") if name == "here" else ("a/c.py", "b.py"):
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(file)
            (tmp_path / name / file).chmod(mode)
            os.utime(tmp_path / name / file, (when, when))
        archive.pack(tmp_path / name, tmp_path / f"{name}.tar.gz")
    assert (tmp_path / "here.tar.gz").read_bytes() == (tmp_path / "there.tar.gz").read_bytes()


def test_a_file_that_was_changed_is_named(tmp_path: Path):
    folder = small(tmp_path)
    (folder / "jobs/base.py").write_text("print(2)\n")
    with pytest.raises(InputError, match=r"release .*/release is damaged: jobs/base.py was changed; remove it"):
        release.load(folder)


def test_a_file_that_is_missing_or_too_many_is_named(tmp_path: Path):
    folder = small(tmp_path)
    (folder / "jobs/base.py").rename(folder / "jobs/other.py")
    with pytest.raises(
        InputError, match=r"damaged: jobs/base.py is missing; jobs/other.py is not in release.json; remove it"
    ):
        release.load(folder)


def test_a_list_that_was_changed_does_not_fit_its_name(tmp_path: Path):
    folder = small(tmp_path)
    (folder / "jobs/base.py").unlink()
    listed = json.loads((folder / "release.json").read_text())
    listed["files"] = [entry for entry in listed["files"] if entry["path"] != "jobs/base.py"]
    (folder / "release.json").write_text(json.dumps(listed))
    with pytest.raises(
        InputError, match=r"its files give the name raft-spark-0.1.0-\w{12}, not raft-spark-0.1.0-\w{12}"
    ):
        release.load(folder)


def test_a_folder_that_is_no_release_says_how_to_make_one(tmp_path: Path):
    with pytest.raises(InputError, match=r"is no release .*release.json.*; build one: raft-spark emr package"):
        release.load(tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"tag": "cp311-cp311-manylinux_2_28_x86_64"},
            "WHEEL is of a wheel for cp311-cp311-manylinux_2_28_x86_64, not for Python 3.11 on aarch64",
        ),
        (
            {"tag": "cp312-cp312-manylinux_2_28_aarch64"},
            "WHEEL is of a wheel for cp312-cp312-manylinux_2_28_aarch64, not for Python 3.11 on aarch64",
        ),
        ({"tag": "cp311-cp311-macosx_11_0_arm64"}, "WHEEL is of a wheel for cp311-cp311-macosx_11_0_arm64, not for"),
        ({"machine": X86}, "fast/core.cpython-311-aarch64-linux-gnu.so is for x86_64, not for aarch64"),
        ({"needs": "numpy (>=1.26)"}, "numpy is missing, which fast needs"),
    ],
)
def test_an_archive_that_would_fail_on_emr_is_refused_here(tmp_path: Path, changed: dict[str, object], message: str):
    with pytest.raises(InputError, match=re.escape(message)):
        release.load(small(tmp_path, **changed))


@pytest.mark.parametrize("tag", ["cp39-abi3-manylinux_2_17_aarch64", "py3-none-manylinux2014_aarch64", "py3-none-any"])
def test_a_stable_abi_and_plain_python_load_on_any_later_python(tmp_path: Path, tag: str):
    assert release.load(small(tmp_path, tag=tag)).files


def test_a_package_that_is_listed_but_not_inside_is_named(tmp_path: Path):
    folder = small(tmp_path)
    packages = (Package("fast", "1.0", 30, 20), Package("idna", "3.1", 30, 20), Package("pandas", "3.0.6", 9, 9))
    release.seal(folder, "0.1.0", {"environment-aarch64.tar.gz": packages})
    with pytest.raises(
        InputError, match=r"environment-aarch64.tar.gz: idna 3.1 is missing; .*: pandas 3.0.6 is missing"
    ):
        release.load(folder)


def test_a_file_that_a_package_lists_but_the_archive_lacks_is_named(tmp_path: Path):
    """The description of the package is there, so only the list of its files tells."""
    info = tmp_path / "packages/fast-1.0.dist-info"
    info.mkdir(parents=True)
    core = "fast/core.cpython-311-aarch64-linux-gnu.so"
    (info / "RECORD").write_text(f"fast-1.0.dist-info/METADATA,,\n{core},,\nfast/__init__.py,,\n")
    with pytest.raises(
        InputError, match=r"environment-aarch64.tar.gz: fast/__init__.py of fast-1.0.dist-info/RECORD missing"
    ):
        release.load(small(tmp_path))


def test_what_is_left_of_a_trimmed_package_is_listed(tmp_path: Path):
    files = ("idna/__init__.py", "idna/tests/test_core.py", "idna/core.py", "idna-3.0.dist-info/INSTALLER")
    for path in files:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("1")
    info = tmp_path / "idna-3.0.dist-info"
    (info / "METADATA").write_text("Name: idna\nVersion: 3.0\n")
    listed = (*files, "idna-3.0.dist-info/METADATA", "../../bin/idna", "idna-3.0.dist-info/RECORD")
    (info / "RECORD").write_text("".join(f"{path},sha256=abc,1\n" for path in listed))
    trim.trim_folder(tmp_path)
    assert (info / "RECORD").read_text() == (
        "idna-3.0.dist-info/METADATA,,\nidna-3.0.dist-info/RECORD,,\nidna/__init__.py,,\nidna/core.py,,\n"
    )


def test_pyspark_inside_is_refused(tmp_path: Path):
    (tmp_path / "packages/pyspark-4.1.1.dist-info").mkdir(parents=True)
    (tmp_path / "packages/pyspark-4.1.1.dist-info/METADATA").write_text("Name: pyspark\nVersion: 4.1.1\n")
    with pytest.raises(InputError, match=r"environment-aarch64.tar.gz: it contains pyspark, which EMR provides"):
        release.load(small(tmp_path))


def test_a_release_is_made_from_a_checkout_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(package, "__file__", str(tmp_path / "site-packages/raft_spark/emr/package.py"))
    with pytest.raises(ConfigError, match=r"site-packages is no checkout; a release is built from one"):
        package.checkout()


def test_what_is_pinned_for_emr_is_what_is_tested_here():
    tested = {line.strip().lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    for requirements in package.ARCHIVES.values():
        lines = (ROOT / requirements).read_text().replace("\\\n", " ").splitlines()
        pinned = [line.split() for line in lines if not line.startswith("#")]
        assert len(pinned) > 5
        for pin, *hashes in pinned:
            assert pin in tested
            assert 1 <= len(hashes) <= 2
            assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", found) for found in hashes)


def test_every_service_that_the_code_calls_has_its_model_in_the_archive():
    called = {
        call.args[0].value
        for file in (ROOT / "raft_spark").rglob("*.py")
        for call in ast.walk(ast.parse(file.read_text()))
        if isinstance(call, ast.Call)
        and getattr(call.func, "attr", "") in {"client", "create_client", "open_client"}
        and call.args
        if isinstance(call.args[0], ast.Constant)
    }
    assert {"s3", "bedrock", "secretsmanager"} <= called  # sagemaker-runtime and bedrock-runtime come by name
    assert called <= set(trim.SERVICES)


@pytest.mark.parametrize(
    "path",
    [
        "botocore/data/ec2/2016-11-15/service-2.json.gz",
        "boto3/data/ec2/2016-11-15/resources-1.json",
        "pandas/tests/frame/test_api.py",
        "pyarrow/libarrow_flight.so.2600",
        "pyarrow/libarrow_python.so",
        "pyarrow/libarrow_python.so.2600.1.0",
        "numpy-2.4.6.dist-info/INSTALLER",
        "lxml/objectify.cpython-311-x86_64-linux-gnu.so",
        "lxml/html/diff.py",
        "lxml/isoschematron/__init__.py",
        "regex/_main.py",
    ],
)
def test_what_no_job_needs_is_left_out(path: str):
    assert trim.is_unneeded(path)


@pytest.mark.parametrize(
    "path",
    [
        "botocore/data/s3/2006-03-01/service-2.json.gz",
        "botocore/data/endpoints.json",
        "pandas/testing.py",
        "pyarrow/libarrow_python.so.2600",
        "pyarrow/lib.cpython-311-x86_64-linux-gnu.so",
        "numpy.libs/libscipy_openblas64_-32a4b2a6.so",
        "raft_spark/conf/default.toml",
        "raft_spark/monitoring/templates/report.html",
        "lxml/etree.cpython-311-aarch64-linux-gnu.so",
        "lxml/_elementpath.cpython-311-aarch64-linux-gnu.so",
        "lxml/__init__.py",
        "regex-2026.11.15.dist-info/METADATA",
        "numpy-2.4.6.dist-info/METADATA",
    ],
)
def test_what_jobs_need_is_kept(path: str):
    assert not trim.is_unneeded(path)
