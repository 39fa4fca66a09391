"""The index of the passages and the file of their texts, as workers map them."""

import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft_spark.lake import parquet, schemas
from raft_spark.lake.filesystem import Storage
from raft_spark.recipe import corpus

pytestmark = pytest.mark.row

texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9), min_size=1, max_size=4)
# What each split has: passages of its articles, or None where a number is empty
tables = st.lists(st.lists(texts | st.none(), max_size=7), min_size=3, max_size=3)


def written(folder: Path, split: str, articles: list[list[str] | None]) -> list[dict[str, Any]]:
    """Write the articles of a split, the last number first, in row groups of two; return the row groups."""
    rows = [{"pubid": 100 + number, "number": number, "passages": own} for number, own in enumerate(articles) if own]
    table = pa.Table.from_pylist(rows[::-1], schemas.SCHEMAS[schemas.ARTICLES])
    at = Storage(str(folder))
    with parquet.PartitionedWriter(at, table.schema, 0, row_group_rows=2) as writer:
        writer.write(f"data/split={split}", table)
    return [
        {**at.location(), "table": schemas.ARTICLES, "path": file.path, "split": split, "row_group": group}
        for file in writer.files
        for group in range(len(file.row_groups))
    ]


@given(tables)
@settings(deadline=None, max_examples=50)
def test_each_passage_is_found_by_split_number_and_place(
    tmp_path_factory: pytest.TempPathFactory, articles: list[list[list[str] | None]]
):
    folder = tmp_path_factory.mktemp("corpus")
    splits = dict(zip(schemas.SPLITS, articles, strict=True))
    groups = [group for split, own in splits.items() for group in written(folder, split, own)]
    (folder / "built").mkdir()
    corpus.build(groups, [len(own) for own in articles], folder / "built", with_texts=True)
    assert {path.name for path in (folder / "built").iterdir()} == {corpus.INDEX, corpus.TEXTS}
    index_path = str(folder / "built" / corpus.INDEX)
    index = corpus.map_index(index_path)
    found = corpus.map_texts(str(folder / "built" / corpus.TEXTS), index_path)
    for split, own in splits.items():
        of_split = index[split]
        assert of_split.pubid.tolist() == [100 + number if passages else -1 for number, passages in enumerate(own)]
        for number, passages in enumerate(own):
            first, count = int(of_split.first[number]), int(of_split.count[number])
            assert found[first : first + count].to_pylist() == (passages or [])
            checksums = [zlib.crc32(text.encode()) for text in passages or []]
            assert of_split.checksum[first : first + count].tolist() == checksums
