"""A bucket that fails 7 % of all requests: the same bytes as on a disk, by runs of which none has to be repeated."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT, python
from support.s3_proxy import FAULTS, S3Proxy

SHARE = 0.07
BASIS = (
    "completions.endpoint=fake",
    "completions.flush_seconds=0.2",
    "lake.row_group_rows=50",
    "refresh.max_changed_share=1",
    'spark."spark.driver.memory"="1g"',
    'spark."spark.master"="local[2]"',
    f'spark."spark.driver.extraClassPath"="{ROOT / "build/jars/3.4.2"}/*"',
)


@pytest.fixture(scope="module")
def proxy(s3: str) -> Iterator[S3Proxy]:
    with S3Proxy(s3).serving() as serving:
        serving.fail_share(SHARE)
        yield serving


def arguments(root: str, articles: int, url: str) -> list[str]:
    settings = [f"lake.root={root}", f"articles.source=sample:{articles}", f"lake.s3_endpoint={url}", *BASIS]
    return [part for each in settings for part in ("--set", each)]


def walk(root: str, articles: int, url: str = "") -> dict[str, Any]:
    """Run the stages in a process of their own, once, and return the digests of what came out."""
    done = python("integration/walk_digest.py", *arguments(root, articles, url))
    assert done.returncode == 0, without_java(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def without_java(errors: str) -> str:
    """Return the last lines without the JVM's stacks."""
    return "\n".join(line for line in errors.splitlines() if not line.lstrip().startswith(("at ", "... ")))[-5000:]


def refresh(root: str, articles: int, url: str = "") -> None:
    program = Path(sys.executable).with_name("raft-spark")
    command = [program, "refresh", *arguments(root, articles, url)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:] + without_java(done.stderr)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_walk_through_a_failing_bucket_gives_the_bytes_of_a_disk(proxy: S3Proxy, tmp_path: Path):
    proxy.faults.clear()
    assert walk(f"s3://lake/{tmp_path.name}", 150, proxy.url) == walk(str(tmp_path), 150)
    assert set(proxy.faults) == set(FAULTS)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_walk_and_refreshes_through_a_failing_bucket_give_the_bytes_of_a_disk(
    proxy: S3Proxy, tmp_path: Path, seed: int
):
    proxy.fail_share(SHARE, seed)
    proxy.faults.clear()
    bucket = f"s3://lake/{tmp_path.name}"
    for root, url in ((str(tmp_path), ""), (bucket, proxy.url)):
        walk(root, 400, url)
        for articles in (420, 500):
            refresh(root, articles, url)
    assert walk(bucket, 500, proxy.url) == walk(str(tmp_path), 500)
    assert proxy.faults.total() > 50
    assert set(proxy.faults) == set(FAULTS)
