"""Storage on a real S3 server that refuses, drops and cuts requests: what is repeated, what is said, who has won."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from raft_spark.common import retries
from raft_spark.errors import InputError
from raft_spark.lake import parquet
from raft_spark.lake import s3 as s3_module
from raft_spark.lake.filesystem import Storage
from support.s3_proxy import FAULTS, Fault, S3Proxy

pytestmark = pytest.mark.row
BIG = bytes(range(256)) * 400


@pytest.fixture(scope="module")
def proxy(s3: str) -> Iterator[S3Proxy]:
    with S3Proxy(s3).serving() as serving:
        yield serving


@pytest.fixture
def storage(proxy: S3Proxy, tmp_path: Path) -> Iterator[Storage]:
    proxy.faults.clear()
    yield Storage(f"s3://lake/{tmp_path.name}", proxy.url)
    proxy.fail_once("", "")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("data", [b"{}", BIG])
def test_a_read_that_fails_once_is_repeated(storage: Storage, proxy: S3Proxy, fault: Fault, data: bytes):
    storage.write("a", data)
    proxy.fail_once("GET", "a", fault)
    assert storage.read("a") == data
    assert proxy.faults == {fault: 1}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_short_range_of_a_file_is_read_again(storage: Storage, proxy: S3Proxy, fault: Fault):
    storage.write("a", BIG)
    proxy.fail_once("GET", "a", fault)
    with storage.open("a") as file:
        file.seek(100)
        assert file.read(4) == bytes([100, 101, 102, 103])
    assert proxy.faults == {fault: 1}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_row_group_of_one_short_column_is_read_again(storage: Storage, proxy: S3Proxy, fault: Fault):
    parquet.write_file(storage, "a.parquet", pa.table({"pubid": pa.array([7], pa.int64()), "other": ["x" * 9999]}))
    group = {"root": storage.root, "endpoint": storage.endpoint, "region": "", "path": "a.parquet", "row_group": 0}
    proxy.fail_once("GET", "a.parquet", fault, "", fault)
    assert parquet.read_row_group({**group, "table": "base"}, ["pubid"]).to_pylist() == [{"pubid": 7}]
    assert sum(proxy.faults.values()) >= 1


@pytest.mark.parametrize("fault", FAULTS)
def test_a_write_a_listing_and_a_deletion_that_fail_once_are_repeated(storage: Storage, proxy: S3Proxy, fault: Fault):
    proxy.fail_once("PUT", "b", fault)
    storage.write("a/b", BIG)
    proxy.fail_once("GET", "list-type", fault)
    assert [(file.path, file.size) for file in storage.list()] == [("a/b", 102_400)]
    proxy.fail_once("DELETE", "b", fault)
    storage.delete("a/b")
    assert proxy.faults == {fault: 3}
    assert storage.read("a/b") is None


@pytest.mark.parametrize("step", ["uploads", "partNumber=2", "uploadId"])
def test_a_large_file_is_whole_whichever_request_of_its_upload_loses_its_reply(
    storage: Storage, proxy: S3Proxy, step: str
):
    data = BIG * 90  # more than the 8 MB of one part
    proxy.fail_once("PUT" if "part" in step else "POST", step, "lost")
    storage.write("a", data)
    assert storage.read("a") == data
    assert proxy.faults == {"lost": 1}


def test_what_the_server_never_takes_is_an_error_that_names_it(
    storage: Storage, proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(retries, "TRIES", 1)
    monkeypatch.setattr(s3_module, "S3_ATTEMPTS", 2)
    s3_module._client.cache_clear()
    s3_module._filesystem.cache_clear()
    storage.write("a", b"1")
    proxy.choose = lambda _method, _path: "slow_down"
    with pytest.raises(InputError, match=rf"{storage.root}/a cannot be written: .*Please reduce your request rate"):
        storage.write("a", b"2")
    with pytest.raises(InputError, match=rf"{storage.root}/a cannot be read: .*SlowDown"):
        storage.compare_and_swap("a", b"2", b"1")
    with pytest.raises(InputError, match=rf"{storage.root}/a cannot be read: .*SlowDown"):
        storage.read("a")
    with pytest.raises(InputError, match=rf"{storage.root} cannot be listed: .*SLOW_DOWN"):
        storage.list()
    proxy.choose = lambda _method, _path: ""
    assert storage.read("a") == b"1"
    s3_module._client.cache_clear()
    s3_module._filesystem.cache_clear()


def test_a_bucket_that_does_not_exist_is_named(proxy: S3Proxy):
    with pytest.raises(InputError, match=r"s3://nowhere/current\.json cannot be read: .*NoSuchBucket"):
        Storage("s3://nowhere", proxy.url).read("current.json")


# Conditional writes


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("before", [None, b"1"])
def test_a_swap_that_fails_once_is_won(storage: Storage, proxy: S3Proxy, fault: Fault, before: bytes | None):
    if before:
        storage.write("pointer", before)
    proxy.fail_once("PUT", "pointer", fault)
    assert storage.compare_and_swap("pointer", b"2", before)
    assert proxy.faults == {fault: 1}
    assert storage.read("pointer") == b"2"


@pytest.mark.parametrize("before", [None, b"1"])
def test_a_swap_whose_every_reply_is_lost_is_won(
    storage: Storage, proxy: S3Proxy, before: bytes | None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(s3_module, "S3_ATTEMPTS", 2)
    s3_module._client.cache_clear()
    if before:
        storage.write("pointer", before)
    proxy.choose = lambda method, _path: "lost" if method == "PUT" else ""
    assert storage.compare_and_swap("pointer", b"2", before)
    s3_module._client.cache_clear()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_swap_that_another_writer_won_stays_lost(storage: Storage, proxy: S3Proxy, fault: Fault):
    storage.write("pointer", b"1")
    other = Storage(storage.root, f"http://{proxy.server}")

    def overtaken(method: str, _path: str) -> Fault:
        if method != "PUT":
            return ""
        proxy.fail_once("PUT", "pointer", fault)
        assert other.compare_and_swap("pointer", b"3", b"1")
        return fault

    proxy.choose = overtaken
    assert not storage.compare_and_swap("pointer", b"2", b"1")
    assert storage.read("pointer") == b"3"


def test_a_file_of_many_row_groups_has_its_footer_read_once(storage: Storage, proxy: S3Proxy):
    names = ["pubid", "question", "long_answer", "journal"]
    table = pa.table({name: [name * 50 + str(row) for row in range(4_000)] for name in names})
    with parquet.PartitionedWriter(storage, table.schema, 0, row_group_rows=500) as writer:
        writer.write("data", table)
    groups = [{**group, "table": "articles"} for group in parquet.row_groups(storage, writer.files)]
    before = proxy.requests
    read = [parquet.read_row_group(group, names[:3]) for group in groups]
    assert pa.concat_tables(read).equals(table.select(names[:3]))
    assert proxy.requests - before <= 2 * len(groups) + 1  # its size and its columns, and the footer
