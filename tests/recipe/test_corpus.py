"""The index of the passages and the file of their texts, as workers map them."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft_spark.errors import DamageError
from raft_spark.lake import parquet, schemas
from raft_spark.lake.filesystem import Storage
from raft_spark.recipe import corpus

pytestmark = pytest.mark.row

texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9), min_size=1, max_size=4)
# What each split has: passages of its articles, or None where a number is empty
tables = st.lists(st.lists(texts | st.none(), max_size=7), min_size=3, max_size=3)


Groups = list[dict[str, Any]]


def written(folder: Path, split: str, articles: list[list[str] | None]) -> tuple[Groups, Groups]:
    """Write the articles of a split, the last number first, and the index beside them; return the row groups of both."""
    rows = [{"pubid": 100 + number, "number": number, "passages": own} for number, own in enumerate(articles) if own]
    table = pa.Table.from_pylist(rows[::-1], schemas.SCHEMAS[schemas.ARTICLES])
    at = Storage(str(folder))
    with (
        parquet.PartitionedWriter(at, table.schema, 0, row_group_rows=2) as data,
        parquet.PartitionedWriter(at, corpus.PART, 0, row_group_rows=3) as index,
    ):
        data.write(f"data/split={split}", table)
        index.write(f"index/split={split}", corpus.index_part(table))
    groups, parts = (
        [{**group, "table": schemas.ARTICLES} for group in parquet.row_groups(at, writer.files)]
        for writer in (data, index)
    )
    return groups, parts


@given(articles=tables, has_parts=st.booleans())
@settings(deadline=None, max_examples=50)
def test_each_passage_is_found_by_split_number_and_place(
    tmp_path_factory: pytest.TempPathFactory, *, articles: list[list[list[str] | None]], has_parts: bool
):
    folder = tmp_path_factory.mktemp("corpus")
    splits = dict(zip(schemas.SPLITS, articles, strict=True))
    found = [written(folder, split, own) for split, own in splits.items()]
    groups, parts = ([group for of_split in found for group in of_split[side]] for side in (0, 1))
    (folder / "built").mkdir()
    starts = corpus.build_index(groups, parts if has_parts else [], [len(own) for own in articles], folder / "built")
    corpus.write_texts(groups, starts, folder / "built")
    passages = [len(pc.list_flatten(parquet.read_row_group(group)["passages"])) for group in groups]
    assert np.diff(starts).tolist() == passages
    assert {path.name for path in (folder / "built").iterdir()} == {corpus.INDEX, corpus.TEXTS}
    index_path = str(folder / "built" / corpus.INDEX)
    index = corpus.map_index(index_path)
    texts = corpus.map_texts(str(folder / "built" / corpus.TEXTS), index_path)
    for split, own in splits.items():
        of_split = index[split]
        assert of_split.pubid.tolist() == [100 + number if passages else -1 for number, passages in enumerate(own)]
        for number, passages in enumerate(own):
            first, count = int(of_split.first[number]), int(of_split.count[number])
            assert texts[first : first + count].to_pylist() == (passages or [])
            checksums = [zlib.crc32(text.encode()) for text in passages or []]
            assert of_split.checksum[first : first + count].tolist() == checksums


def test_an_index_of_other_articles_is_refused(tmp_path: Path):
    groups, _ = written(tmp_path / "a", "train", [["one"], ["three", "five"]])
    _, parts = written(tmp_path / "b", "train", [["one"], ["three", "four!"]])
    starts = corpus.build_index(groups, parts, [2, 0, 0], tmp_path)
    with pytest.raises(
        DamageError, match=r"a/data/split=train/part-00000.parquet has 12 bytes of passages .* says 13; "
    ):
        corpus.write_texts(groups, starts, tmp_path)
