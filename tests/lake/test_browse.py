"""The first rows of a version are read without the rest of its files."""

import json
import random
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_tables import conf  # noqa: F401 - a fixture

from raft_spark import config
from raft_spark.errors import DamageError
from raft_spark.lake import browse, parquet, schemas, tables


def spoiled(path: Path, before: int) -> bytes:
    """Return a file's bytes with what lies between this place and the footer made unreadable."""
    whole = path.read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    return whole[:before] + b"\xff" * (len(whole) - footer - before) + whole[-footer:]


def test_the_first_rows_are_read_without_the_rest_of_the_file(conf: config.Config, tmp_path: Path):  # noqa: F811 - the fixture
    local, name = tmp_path / "rows.parquet", "data/split=train/part-00000.parquet"
    rows = [{"pubid": number, "question": f"{number}" * 1_000, "documents": []} for number in range(1_000)]
    pq.write_table(pa.Table.from_pylist(rows, schemas.SCHEMAS["base"]), local, row_group_size=10)
    group = pq.read_metadata(local).row_group(2)
    begin = group.column(0).dictionary_page_offset or group.column(0).data_page_offset
    new = tables.open_draft(conf.lake, schemas.BASE, "0" * 16)
    new.storage.write(name, spoiled(local, begin))
    version = tables.publish(new, conf, [parquet.describe(local, name)], {}, {"rows": 1_000})
    found = browse.head(conf.lake, version, 15)
    assert [row["pubid"] for row in found] == list(range(15))
    assert found[0]["split"] == "train"
    with pytest.raises(DamageError, match=r"part-00000\.parquet is damaged"):
        browse.head(conf.lake, version, 21)  # the rest is unreadable indeed


def test_show_of_a_bucket_fetches_the_rows_it_shows(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)  # where the server writes what it records
    root = f"s3://lake/{tmp_path.name}"
    in_bucket = config.load(assignments=[f"lake.root={root}", f"lake.s3_endpoint={s3}"])
    noise = random.Random(0)
    rows = [{"pubid": number, "question": noise.randbytes(500).hex()} for number in range(20_000)]
    new = tables.open_draft(in_bucket.lake, schemas.BASE, "0" * 16)
    with parquet.PartitionedWriter(new.storage, schemas.SCHEMAS["base"], 0, 100) as written:
        written.write("data/split=train", pa.Table.from_pylist(rows, schemas.SCHEMAS["base"]))
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    file = parquet.write_text(new.storage, "messages/data/train-00000-of-00001.jsonl", lines)
    version = tables.publish(new, in_bucket, [*written.files, replace(file, rows=20_000)], {}, {"rows": 20_000})
    assert min(each.bytes for each in version.files) > 10_000_000
    with recorded(s3) as requests:
        assert browse.head(in_bucket.lake, replace(version, files=written.files), 3)[2]["pubid"] == 2
        lists = [each for each in version.files if each.path.startswith("messages/")]
        assert browse.head(in_bucket.lake, replace(version, files=lists), 3) == rows[:3]
    ranges = [request["headers"].get("Range", "bytes=0-99999999") for request in requests if request["method"] == "GET"]
    assert ranges
    assert sum(stop - start for start, stop in (map(int, each[6:].split("-")) for each in ranges)) < 1_500_000


@contextmanager
def recorded(s3: str) -> Iterator[list[dict[str, Any]]]:
    """Yield the list that holds the requests of the block when it has ended."""
    requests: list[dict[str, Any]] = []
    for verb in ("reset-recording", "start-recording"):
        urllib.request.urlopen(urllib.request.Request(f"{s3}/moto-api/recorder/{verb}", b"")).close()
    yield requests
    urllib.request.urlopen(urllib.request.Request(f"{s3}/moto-api/recorder/stop-recording", b"")).close()
    with urllib.request.urlopen(f"{s3}/moto-api/recorder/download-recording") as answer:
        requests += [json.loads(line) for line in answer]
