"""The release as `raft-spark emr package` makes it: the same bytes each time, and all that the jobs import."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import py4j
import pyspark
import pytest

from conftest import ROOT
from raft_spark.emr import package, release
from raft_spark.errors import InputError

X86, ARM = 62, 183  # e_machine of an ELF header
IMPORTS = """
import importlib, pkgutil, sys
import boto3, pandas, py3langid, rapidfuzz.fuzz, pyarrow as pa, pyarrow.compute, pyarrow.dataset, pyarrow.fs, pyarrow.parquet as pq, raft_spark
for module in pkgutil.walk_packages(raft_spark.__path__, "raft_spark."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        # servers for trials, on the machine of who tries; scripts of the environment that trains
        assert error.name in {"starlette", "uvicorn", "torch", "gguf", "sagemaker"}, error
from pyspark.sql.pandas.utils import require_minimum_pandas_version, require_minimum_pyarrow_version
require_minimum_pandas_version(); require_minimum_pyarrow_version()
from raft_spark import config
assert config.load(["notebook.toml"]).base.distractors == 3
for service in ("s3", "sts", "sso", "sso-oidc", "sagemaker-runtime", "bedrock", "bedrock-runtime", "secretsmanager"):
    boto3.client(service, region_name="us-east-1")
pa.fs.S3FileSystem(region="us-east-1", anonymous=True)
from raft_spark.scoring import scores
from raft_spark.stages import evaluation
evaluation._refuse_without_packages()
assert 0.79 < scores.overlap("The cat sat.", "the cat").rouge_l < 0.81 and scores.chrf("the cat", "the cat") == 1
assert py3langid.classify("Die Kinder schlafen.")[0] == "de"
import numpy, tempfile, pathlib
from raft_spark.recipe import term_index, words
index = pathlib.Path(tempfile.mkdtemp(), "index")
with term_index.IndexWriter(index) as writer:
    writer.add(numpy.array([4, 7]), numpy.array([0, 0]), words.split(pa.array(["a dose of zinc", "a trial"])))
found, _ = term_index.TermIndex(index).search(words.split(pa.array(["zinc"])), numpy.array([1], numpy.uint64), 1)
assert found.number.tolist() == [4]
sink = pa.BufferOutputStream()  # a Python file that a thread of Arrow reads can abort an interpreter that exits
pq.write_table(pa.table({"a": pa.array([1, 2])}).filter(pa.compute.greater(pa.array([1, 2]), 1)), sink, compression="zstd")
assert pq.read_table(pa.BufferReader(sink.getvalue())).to_pandas()["a"].to_list() == [2]
print("\\n".join(sorted({module.__file__ for module in sys.modules.values() if getattr(module, "__file__", None)})))
"""


@pytest.mark.slow
def test_two_builds_in_other_places_are_the_same_bytes(made: tuple[release.Release, str], tmp_path: Path):
    for name in ("jobs", "emr", *package.SOURCES):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, tmp_path / name)
    (tmp_path / "raft_spark/errors.py").chmod(0o755)
    (tmp_path / "raft_spark/left.over").touch()
    before = os.umask(0o077)
    try:
        again = package.build(tmp_path, tmp_path / "releases", str)
    finally:
        os.umask(before)
    assert again.name == made[0].name
    assert again.files == made[0].files


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A copy of the checkout, whose archives are to hold nothing but six."""
    for name in ("jobs", "emr", *package.SOURCES):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, tmp_path / name)
    lines = (ROOT / "emr/requirements.txt").read_text().replace("\\\n", "").splitlines()
    for requirements in package.ARCHIVES.values():
        (tmp_path / requirements).write_text(next(line for line in lines if line.startswith("six==")) + "\n")
    return tmp_path


def test_a_package_that_is_needed_and_not_pinned_is_named(other: Path):
    with pytest.raises(
        InputError, match=r"do not work on EMR: .*-x86_64.tar.gz: boto3 is missing, which raft-spark needs.*make pins"
    ):
        package.build(other, other / "releases", str)
    assert list((other / "releases").iterdir()) == []


def test_other_bytes_than_those_pinned_are_refused(other: Path):
    requirements = other / "emr/requirements-hub.txt"
    requirements.write_text(re.sub("[0-9a-f]{64}", "0" * 64, requirements.read_text()))
    with pytest.raises(InputError, match=r"pip install failed: .*DO NOT MATCH THE HASHES"):
        package.build(other, other / "releases", str)


def test_a_release_that_is_there_stays_as_it_is(made: tuple[release.Release, str]):
    assert re.fullmatch(r"raft-spark-0\.1\.0-[0-9a-f]{12}", made[0].name)
    assert [path.name for path in made[0].folder.parent.iterdir()] == [made[0].name]


def test_it_holds_jobs_settings_the_wheel_and_packages_for_both_machines(made: tuple[release.Release, str]):
    paths = {file.path for file in made[0].files}
    assert {f"environment-{machine}.tar.gz" for machine in ("x86_64", "aarch64")} < paths
    assert {f"hub-{machine}.tar.gz" for machine in ("x86_64", "aarch64")} < paths
    assert {f"jobs/{job}.py" for job in ("articles", "base", "completions", "dataset", "evaluation")} < paths
    assert {"conf/default.toml", "conf/notebook.toml", "raft_spark-0.1.0-py3-none-any.whl"} < paths


@pytest.mark.parametrize(("machine", "number"), [("x86_64", X86), ("aarch64", ARM)])
def test_all_that_is_compiled_is_for_its_machine(made: tuple[release.Release, str], machine: str, number: int):
    for kind in ("environment", "hub"):
        headers = {}
        with tarfile.open(made[0].folder / f"{kind}-{machine}.tar.gz") as tar:
            for member in tar:
                if re.search(r"\.so(\.|$)", member.name):
                    headers[member.name] = tar.extractfile(member).read(20)
        assert len(headers) > 2
        assert {header[18] for header in headers.values()} == {number}


def test_no_pyspark_is_inside_and_no_trace_of_the_machine_that_made_it(made: tuple[release.Release, str]):
    for file in made[0].files:
        if file.packages:
            with tarfile.open(made[0].folder / file.path) as tar:
                entries = tar.getmembers()
            assert {(entry.mtime, entry.uid, entry.gid, entry.uname, entry.mode) for entry in entries} == {
                (0, 0, 0, "", 0o644)
            }
            names = [entry.name for entry in entries]
            assert names == sorted(names)
            assert not [
                name for name in names if re.search(r"^py(spark|4j)|__pycache__|direct_url.json|INSTALLER", name)
            ]


def unpacked(made: release.Release, folder: Path, *, with_hub: bool) -> str:
    """Unpack as EMR does; return the PYTHONPATH of a job."""
    machine = "arm64" if os.uname().machine == "aarch64" else "x86_64"
    for kind, path in made.archives(machine, with_hub=with_hub).items():
        (folder / kind).mkdir()
        subprocess.run(["tar", "-xzf", made.folder / path, "-C", folder / kind], check=True)
    (folder / "spark").mkdir()
    for brought in (pyspark, py4j):
        (folder / "spark" / brought.__name__).symlink_to(Path(brought.__file__).parent)
    return os.pathsep.join(str(folder / name) for name in ("environment", "hub", "spark"))


def clean_python(script: str, path: str) -> subprocess.CompletedProcess[str]:
    """Run a script with a Python that has its standard library, PYTHONPATH and nothing else."""
    command = [str(Path(sys.executable).resolve()), "-S", "-B", "-c", script]
    return subprocess.run(
        command, env={"PYTHONPATH": path}, cwd="/", capture_output=True, text=True, timeout=120, check=False
    )


def test_a_trimmed_environment_has_all_that_the_jobs_import(made: tuple[release.Release, str], tmp_path: Path):
    done = clean_python(IMPORTS, unpacked(made[0], tmp_path, with_hub=False))
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"{tmp_path}/environment/raft_spark/stages/articles.py" in done.stdout
    assert "site-packages" not in done.stdout.replace("/site-packages/pyspark/", "")


def test_articles_of_the_hub_have_their_packages_in_an_archive_of_its_own(
    made: tuple[release.Release, str], tmp_path: Path
):
    script = "import datasets, hf_xet, tokenizers, huggingface_hub.errors; from huggingface_hub import HfApi, HfFileSystem; HfApi(); print(datasets.__file__)"
    path = unpacked(made[0], tmp_path, with_hub=True)
    done = clean_python(script, path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith(f"{tmp_path}/hub/datasets/")


def test_trimming_takes_nearly_a_third_and_is_told(made: tuple[release.Release, str]):
    release_, said = made
    for machine in ("x86_64", "aarch64"):
        file = next(file for file in release_.files if file.path == f"environment-{machine}.tar.gz")
        assert sum(found.after for found in file.packages) < 0.71 * sum(found.before for found in file.packages)
        assert file.bytes < 82e6
        assert re.search(
            rf"environment-{machine}.tar.gz: [\d.]+ MB unpacked, [\d.]+ after trimming, [\d.]+ packed", said
        )
    assert re.search(r"\n  pyarrow 26\.\S+ +\d+\.\d -> +\d+\.\d\n", said)
