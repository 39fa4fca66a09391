"""A lake on a local disk: files appear whole or not at all, and of two writers one wins."""

import multiprocessing
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from raft_spark import config
from raft_spark.lake import filesystem
from raft_spark.lake.filesystem import Storage

pytestmark = pytest.mark.row


@pytest.fixture
def place(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "lake"))


def everything(path: Path) -> list[str]:
    """List all files below, hidden ones too."""
    return sorted(str(found.relative_to(path)) for found in path.rglob("*") if found.is_file())


# Reading and writing


def test_what_is_written_is_read(place: Storage, tmp_path):
    place.write("a/b.txt", b"one")
    place.write("a/b.txt", b"two")
    assert place.read("a/b.txt") == b"two"
    assert everything(tmp_path) == ["lake/a/b.txt"]


def test_what_is_missing_is_none(place: Storage):
    assert place.read("a/b.txt") is None
    place.write("a/c.txt", b"")
    assert place.read("a/b.txt") is None
    assert place.read("a/c.txt") == b""


def test_a_file_appears_when_the_block_ends(place: Storage):
    with place.atomic_write("a.txt") as local:
        local.write_bytes(b"half")
        assert place.read("a.txt") is None
        assert place.list() == []
        local.write_bytes(b"whole")
    assert place.read("a.txt") == b"whole"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_block_that_fails_leaves_nothing_and_keeps_what_was_there(place: Storage, tmp_path, error):
    def fail(path: str) -> None:
        with place.atomic_write(path) as local:
            local.write_bytes(b"half")
            raise error

    place.write("old.txt", b"old")
    for path in ("old.txt", "new.txt"):
        with pytest.raises(error):
            fail(path)
    assert everything(tmp_path) == ["lake/old.txt"]
    assert place.read("old.txt") == b"old"


def test_two_writers_of_one_file_do_not_disturb_each_other(place: Storage):
    with place.atomic_write("a.txt") as one, place.atomic_write("a.txt") as other:
        assert one != other
        one.write_bytes(b"one")
        other.write_bytes(b"other")
    assert place.read("a.txt") == b"one"  # its block ended last
    assert len(place.list()) == 1


def test_deleting(place: Storage):
    for path in ("a/1.txt", "a/b/2.txt", "c.txt"):
        place.write(path, b"x")
    place.delete("a")
    place.delete("a")
    place.delete("no/such.txt")
    assert [found.path for found in place.list()] == ["c.txt"]
    place.delete("c.txt")
    assert place.list() == []


# Listing


def test_a_listing_has_every_file_below_sorted_and_no_hidden_one(place: Storage, tmp_path):
    for path in ("b.txt", "a/2.txt", "a/1.txt", "a/.hidden", ".lock", "a/x/y/z.txt"):
        place.write(path, b"123")
    found = place.list()
    assert [file.path for file in found] == ["a/1.txt", "a/2.txt", "a/x/y/z.txt", "b.txt"]
    assert {file.size for file in found} == {3}
    os.utime(tmp_path / "lake/b.txt", (1_700_000_000, 1_700_000_000))
    assert place.list()[-1].mtime == 1_700_000_000
    assert [file.path for file in place.list(recursive=False)] == ["b.txt"]
    assert [file.path for file in place.at("a").list()] == ["1.txt", "2.txt", "x/y/z.txt"]


def test_a_folder_that_is_not_there_is_empty(place: Storage):
    assert place.list() == []
    assert not place.is_folder


def test_a_folder_may_come_and_go_while_it_is_listed(tmp_path):
    def come_and_go():
        while not over.is_set():
            (tmp_path / "runs").mkdir()
            (tmp_path / "runs").rmdir()

    over = threading.Event()
    beside = threading.Thread(target=come_and_go)
    beside.start()
    try:
        listed = [Storage(str(tmp_path / "runs")).list() for _ in range(200)]
    finally:
        over.set()
        beside.join()
    assert not any(listed)


def test_age(place: Storage, tmp_path):
    place.write("a.txt", b"")
    (found,) = place.list()
    assert 0 <= filesystem.age_hours(found) < 0.1
    past = found.mtime - 36_000
    os.utime(tmp_path / "lake/a.txt", (past, past))
    assert filesystem.age_hours(place.list()[0]) == pytest.approx(10, abs=0.1)


@pytest.mark.parametrize("root", ["lake", "./lake", "lake/", "sub/../lake", "lake with spaces", "l\u00e4ke#1"])
def test_a_relative_root_is_a_folder_here(tmp_path, monkeypatch, root: str):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    place = Storage(root)
    place.write("a/b.txt", b"x")
    assert (tmp_path / root / "a/b.txt").read_bytes() == b"x"
    assert [file.path for file in place.list()] == ["a/b.txt"]
    assert place.is_local
    assert Path(place.path()).is_absolute()


# Addresses


@pytest.mark.parametrize(
    ("root", "path", "uri"),
    [
        ("s3://bucket/lake", "bucket/lake/a/b", "s3a://bucket/lake/a/b"),
        ("s3a://bucket/lake", "bucket/lake/a/b", "s3a://bucket/lake/a/b"),
        ("/data/lake", "/data/lake/a/b", "file:///data/lake/a/b"),
    ],
)
def test_addresses(root: str, path: str, uri: str):
    place = Storage(root)
    assert (place.path("a/b"), place.uri("a/b")) == (path, uri)
    assert (place.at("a", "b").path(), place.at("a", "b").uri()) == (path, uri)
    assert place.is_local == root.startswith("/")


def test_a_place_below_and_another_root_are_reached_the_same_way():
    lake = config.load(assignments=["lake.s3_endpoint=http://127.0.0.1:9000", "lake.s3_region=eu-west-1"]).lake
    assert Storage.of(lake) == Storage("build/lake", "http://127.0.0.1:9000", "eu-west-1")
    assert Storage.of(lake, "s3://b").at("x") == Storage("s3://b/x", "http://127.0.0.1:9000", "eu-west-1")


# Swapping


def test_a_swap_needs_what_is_there(place: Storage):
    assert not place.compare_and_swap("pointer", b"1", b"0")
    assert place.read("pointer") is None
    assert place.compare_and_swap("pointer", b"1", None)
    assert not place.compare_and_swap("pointer", b"2", None)
    assert not place.compare_and_swap("pointer", b"2", b"0")
    assert place.compare_and_swap("pointer", b"2", b"1")
    assert place.read("pointer") == b"2"
    assert [file.path for file in place.list()] == ["pointer"]


def test_of_many_threads_one_wins(place: Storage):
    writers = 16
    together = threading.Barrier(writers)

    def swap(writer: int) -> bool:
        together.wait()
        return place.compare_and_swap("pointer", str(writer).encode(), None)

    with ThreadPoolExecutor(writers) as threads:
        won = list(threads.map(swap, range(writers)))
    assert won.count(True) == 1
    assert place.read("pointer") == str(won.index(True)).encode()


def count_up(place: Storage, times: int) -> None:
    """Add one to the number in the pointer, so many times, trying again when another was faster."""
    while times:
        before = place.read("pointer")
        times -= place.compare_and_swap("pointer", str(int(before or b"0") + 1).encode(), before)


def test_no_swap_of_another_process_is_lost(place: Storage):
    process = multiprocessing.get_context("spawn").Process(target=count_up, args=(place, 50))
    process.start()
    while process.is_alive() and place.read("pointer") is None:
        time.sleep(0.001)
    count_up(place, 50)
    process.join(60)
    assert process.exitcode == 0
    assert place.read("pointer") == b"100"


def test_a_digest_is_what_sha256sum_prints(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert filesystem.sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
