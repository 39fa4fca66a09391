"""Storage on a local disk: writes are atomic, and one of two concurrent writers wins."""

import multiprocessing
import os
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from raft_spark import config
from raft_spark.errors import InputError
from raft_spark.lake import filesystem
from raft_spark.lake.filesystem import Storage

pytestmark = pytest.mark.row


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "lake"))


def everything(path: Path) -> list[str]:
    """List all files below, hidden ones too."""
    return sorted(str(found.relative_to(path)) for found in path.rglob("*") if found.is_file())


# Reading and writing


def test_what_is_written_is_read(storage: Storage, tmp_path):
    storage.write("a/b.txt", b"one")
    storage.write("a/b.txt", b"two")
    assert storage.read("a/b.txt") == b"two"
    assert everything(tmp_path) == ["lake/a/b.txt"]


def test_what_is_missing_is_none(storage: Storage):
    assert storage.read("a/b.txt") is None
    storage.write("a/c.txt", b"")
    assert storage.read("a/b.txt") is None
    assert storage.read("a/c.txt") == b""


def test_a_file_appears_when_the_block_ends(storage: Storage):
    with storage.atomic_write("a.txt") as local:
        local.write_bytes(b"half")
        assert storage.read("a.txt") is None
        assert storage.list() == []
        local.write_bytes(b"whole")
    assert storage.read("a.txt") == b"whole"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_block_that_fails_leaves_nothing_and_keeps_what_was_there(storage: Storage, tmp_path, error):
    def fail(path: str) -> None:
        with storage.atomic_write(path) as local:
            local.write_bytes(b"half")
            raise error

    storage.write("old.txt", b"old")
    for path in ("old.txt", "new.txt"):
        with pytest.raises(error):
            fail(path)
    assert everything(tmp_path) == ["lake/old.txt"]
    assert storage.read("old.txt") == b"old"


def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_folders_are_before_the_write_returns(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    synced: list[tuple[str, bool]] = []
    sync = os.fsync

    def noted(number: int) -> None:
        path = Path(f"/proc/self/fd/{number}").readlink()
        kind = str(path.relative_to(tmp_path)) if path.is_dir() else path.suffix
        synced.append((kind, (tmp_path / "lake/a/b/c.txt").exists()))
        sync(number)

    monkeypatch.setattr(os, "fsync", noted)
    storage.write("a/b/c.txt", b"x")
    assert synced == [(".", False), ("lake", False), ("lake/a", False), (".tmp", False), ("lake/a/b", True)]
    synced.clear()
    assert storage.compare_and_swap("a/b/pointer", b"1", None)
    assert synced == [(".tmp", True), ("lake/a/b", True)]


# Refusals


def test_a_root_that_is_a_file_is_named(tmp_path: Path):
    (tmp_path / "lake").write_text("x")
    for storage in (Storage(str(tmp_path / "lake")), Storage(str(tmp_path / "lake/below"))):
        for call in (
            lambda at=storage: at.read("a.txt"),
            lambda at=storage: at.write("a.txt", b""),
            lambda at=storage: at.list(),
            lambda at=storage: at.compare_and_swap("a.txt", b"", None),
            lambda at=storage: at.open("a.txt"),
        ):
            with pytest.raises(InputError, match=rf"cannot be .*: {tmp_path}/lake is a file, where a folder must be"):
                call()


def test_a_folder_that_takes_no_file_is_named():
    for call in (lambda at: at.write("a", b""), lambda at: at.compare_and_swap("a", b"", None)):
        with pytest.raises(InputError, match=r"/proc/lake/a cannot be written: No such file or directory"):
            call(Storage("/proc/lake"))


def test_a_full_disk_is_an_error_that_names_the_file(storage: Storage, tmp_path: Path):
    storage.write("old.txt", b"old")

    def fill() -> None:
        with storage.atomic_write("old.txt") as local:
            local.symlink_to("/dev/full")
            local.write_bytes(b"x" * 100_000)

    with pytest.raises(InputError, match=r"lake/old\.txt cannot be written: No space left on device"):
        fill()
    assert everything(tmp_path) == ["lake/old.txt"]


def test_two_writers_of_one_file_do_not_disturb_each_other(storage: Storage):
    with storage.atomic_write("a.txt") as one, storage.atomic_write("a.txt") as other:
        assert one != other
        one.write_bytes(b"one")
        other.write_bytes(b"other")
    assert storage.read("a.txt") == b"one"  # its block ended last
    assert len(storage.list()) == 1


def test_deleting(storage: Storage):
    for path in ("a/1.txt", "a/b/2.txt", "c.txt"):
        storage.write(path, b"x")
    storage.delete("a")
    storage.delete("a")
    storage.delete("no/such.txt")
    assert [found.path for found in storage.list()] == ["c.txt"]
    storage.delete("c.txt")
    assert storage.list() == []


# Listing


def test_a_listing_has_every_file_below_sorted_and_no_hidden_one(storage: Storage, tmp_path):
    for path in ("b.txt", "a/2.txt", "a/1.txt", "a/.hidden", ".lock", "a/x/y/z.txt"):
        storage.write(path, b"123")
    found = storage.list()
    assert [file.path for file in found] == ["a/1.txt", "a/2.txt", "a/x/y/z.txt", "b.txt"]
    assert {file.size for file in found} == {3}
    os.utime(tmp_path / "lake/b.txt", (1_700_000_000, 1_700_000_000))
    assert storage.list()[-1].mtime == 1_700_000_000
    assert [file.path for file in storage.list(recursive=False)] == ["b.txt"]
    assert [file.path for file in storage.at("a").list()] == ["1.txt", "2.txt", "x/y/z.txt"]


def test_a_folder_that_is_not_there_is_empty(storage: Storage):
    assert storage.list() == []
    assert not storage.is_folder


def test_a_folder_may_come_and_go_while_it_is_listed(tmp_path):
    def come_and_go():
        while not over.is_set():
            (tmp_path / "runs").mkdir()
            (tmp_path / "runs").rmdir()

    over = threading.Event()
    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        listed = [Storage(str(tmp_path / "runs")).list() for _ in range(200)]
    finally:
        over.set()
        other.join()
    assert not any(listed)


def test_age(storage: Storage, tmp_path):
    storage.write("a.txt", b"")
    (found,) = storage.list()
    assert 0 <= filesystem.age_hours(found) < 0.1
    past = found.mtime - 36_000
    os.utime(tmp_path / "lake/a.txt", (past, past))
    assert filesystem.age_hours(storage.list()[0]) == pytest.approx(10, abs=0.1)


@pytest.mark.parametrize("root", ["lake", "./lake", "lake/", "sub/../lake", "lake with spaces", "l\u00e4ke#1"])
def test_a_relative_root_is_a_folder_here(tmp_path, monkeypatch, root: str):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    storage = Storage(root)
    storage.write("a/b.txt", b"x")
    assert (tmp_path / root / "a/b.txt").read_bytes() == b"x"
    assert [file.path for file in storage.list()] == ["a/b.txt"]
    assert storage.is_local
    assert Path(storage.path()).is_absolute()


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
    storage = Storage(root)
    assert (storage.path("a/b"), storage.uri("a/b")) == (path, uri)
    assert (storage.at("a", "b").path(), storage.at("a", "b").uri()) == (path, uri)
    assert storage.is_local == root.startswith("/")


def test_a_place_below_and_another_root_are_reached_the_same_way():
    lake = config.load(assignments=["lake.s3_endpoint=http://127.0.0.1:9000", "lake.s3_region=eu-west-1"]).lake
    assert Storage.of(lake) == Storage("build/lake", "http://127.0.0.1:9000", "eu-west-1")
    assert Storage.of(lake, "s3://b").at("x") == Storage("s3://b/x", "http://127.0.0.1:9000", "eu-west-1")


def test_another_process_gets_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    here, there = Storage("sub/lake", "http://127.0.0.1:9000", "eu-west-1"), Storage("s3://bucket/lake")
    sent = pickle.dumps((here, there))
    monkeypatch.chdir("/")
    received, bucket = pickle.loads(sent)  # noqa: S301 - made two lines above
    assert received == Storage(f"{tmp_path}/sub/lake", "http://127.0.0.1:9000", "eu-west-1")
    assert bucket == there


# Swapping


def test_a_swap_needs_what_is_there(storage: Storage):
    assert not storage.compare_and_swap("pointer", b"1", b"0")
    assert storage.read("pointer") is None
    assert storage.compare_and_swap("pointer", b"1", None)
    assert not storage.compare_and_swap("pointer", b"2", None)
    assert not storage.compare_and_swap("pointer", b"2", b"0")
    assert storage.compare_and_swap("pointer", b"2", b"1")
    assert storage.read("pointer") == b"2"
    assert [file.path for file in storage.list()] == ["pointer"]


def test_of_many_threads_one_wins(storage: Storage):
    writers = 16
    together = threading.Barrier(writers)

    def swap(writer: int) -> bool:
        together.wait()
        return storage.compare_and_swap("pointer", str(writer).encode(), None)

    with ThreadPoolExecutor(writers) as threads:
        won = list(threads.map(swap, range(writers)))
    assert won.count(True) == 1
    assert storage.read("pointer") == str(won.index(True)).encode()


def count_up(storage: Storage, times: int) -> None:
    """Add one to the number in the pointer, so many times, trying again when another was faster."""
    while times:
        before = storage.read("pointer")
        times -= storage.compare_and_swap("pointer", str(int(before or b"0") + 1).encode(), before)


def test_no_swap_of_another_process_is_lost(storage: Storage):
    process = multiprocessing.get_context("spawn").Process(target=count_up, args=(storage, 50))
    process.start()
    while process.is_alive() and storage.read("pointer") is None:
        time.sleep(0.001)
    count_up(storage, 50)
    process.join(60)
    assert process.exitcode == 0
    assert storage.read("pointer") == b"100"


def test_a_digest_is_what_sha256sum_prints(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert filesystem.sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
