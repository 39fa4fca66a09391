"""Build the table base with Polars, DuckDB and Daft, as somebody would who knows each of them well.

Each function gets the folder of a version of articles and the folder to write to, which has a folder for each split. Polars and
Daft leave the draws to NumPy, which is faster than their expressions; DuckDB does all in SQL. Articles are numbered without gaps.
"""

from collections.abc import Callable
from pathlib import Path

import daft
import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

SPLITS = ("train", "validation", "test")
K, P, SEED = 3, 0.7, 0
COLUMNS = ["pubid", "question", "passages", "long_answer", "final_decision"]
DOCUMENT = pa.struct(
    [("pubid", pa.int64()), ("passage", pa.int32()), ("text", pa.large_string()), ("oracle", pa.bool_())]
)
DRAWN = pa.struct([("documents", pa.large_list(DOCUMENT)), ("distracted", pa.bool_())])


def with_polars(source: Path, to: Path) -> None:
    """Build base split by split, in memory."""
    for split in SPLITS:
        rows = pl.read_parquet(source / f"data/split={split}/*.parquet", columns=COLUMNS, hive_partitioning=False)
        counts = rows["passages"].list.len().to_numpy().astype(np.int64)
        texts = rows["passages"].explode()
        row, position, keep = shown(counts, texts.hash(SEED).to_numpy())
        article = np.repeat(np.arange(len(counts)), counts)
        documents = (
            pl.DataFrame(
                {
                    "row": row,
                    "pubid": rows["pubid"].to_numpy()[article[position]],
                    "passage": (position - (np.cumsum(counts) - counts)[article[position]]).astype(np.int32),
                    "text": texts.gather(position),
                    "oracle": article[position] == row,
                }
            )
            .group_by(pl.col("row").set_sorted(), maintain_order=True)
            .agg(documents=pl.struct("pubid", "passage", "text", "oracle"))
        )
        rows.select(
            "pubid",
            "question",
            documents["documents"],
            oracle=pl.col("passages").list.join("\n\n"),
            distracted=pl.Series(~keep),
            original_answer="long_answer",
            final_decision="final_decision",
        ).write_parquet(to / f"data/split={split}/part.parquet", compression="zstd", compression_level=1)


def with_duckdb(source: Path, to: Path) -> None:
    """Build base in SQL; a draw is a hash of (pubid, slot)."""
    with duckdb.connect() as database:
        database.execute("SET threads = 2; SET preserve_insertion_order = false")
        database.execute(SQL.format(source=source, to=to, k=K, p=P, spare=6))


SQL = """
CREATE TEMP TABLE articles AS
  SELECT *, hash(pubid, 'keep') / 18446744073709551616.0 < {p} AS keep, len(passages) AS size,
    list_transform(passages, lambda text: hash(text)) AS hashes,
    row_number() OVER (ORDER BY split, number) - 1 AS id
  FROM read_parquet('{source}/data/split=*/*.parquet', hive_partitioning = true);
CREATE TEMP TABLE texts AS
  SELECT id, pubid, generate_subscripts(passages, 1) AS passage, unnest(passages) AS text FROM articles;
CREATE TEMP TABLE drawn AS
  WITH splits AS (SELECT split, min(id) AS first, count(*) AS articles FROM articles GROUP BY split),
  wanted AS (
    SELECT id AS row, hashes AS own, {k} + CASE WHEN keep THEN 0 ELSE size END AS slots,
      unnest(range(slots + {spare})) AS slot, first + (hash(pubid, slot, 'article') % articles)::BIGINT AS id
    FROM articles JOIN splits USING (split)),
  placed AS (
    SELECT row, id, slots, slot, 1 + (hash(row, slot, 'passage') % size)::BIGINT AS passage, hashes[passage] AS text
    FROM wanted JOIN articles USING (id) WHERE row <> id AND NOT list_contains(own, hashes[passage])),
  other AS (
    SELECT * FROM placed QUALIFY row_number() OVER (PARTITION BY row, id ORDER BY slot) = 1
      AND row_number() OVER (PARTITION BY row, text ORDER BY slot) = 1)
  SELECT row, id, passage FROM other QUALIFY row_number() OVER (PARTITION BY row ORDER BY slot) <= slots;
COPY (
  WITH shown AS (
    SELECT row, id, passage, false AS oracle FROM drawn
    UNION ALL
    SELECT id, id, passage, true FROM texts JOIN articles USING (id) WHERE keep),
  documents AS (
    SELECT row AS id, list(
        {{'pubid': pubid, 'passage': (passage - 1)::INT, 'text': text, 'oracle': oracle}}
        ORDER BY hash(row, pubid, passage)) AS documents
    FROM shown JOIN texts USING (id, passage) GROUP BY row)
  SELECT pubid, question, documents, array_to_string(passages, E'\\n\\n') AS oracle, NOT keep AS distracted,
    long_answer AS original_answer, final_decision, split
  FROM articles JOIN documents USING (id)
) TO '{to}/data' (FORMAT parquet, PARTITION_BY (split), OVERWRITE_OR_IGNORE, COMPRESSION zstd, COMPRESSION_LEVEL 1);
"""


def with_daft(source: Path, to: Path) -> None:
    """Build base split by split, as a stream of batches beside all texts of the split in memory."""
    for split in SPLITS:
        rows = daft.read_parquet(f"{source}/data/split={split}/*.parquet")
        known = rows.select("number", "pubid", "passages").sort("number").to_arrow().combine_chunks()
        drawn = daft.func.batch(return_dtype=daft.DataType.from_arrow_type(DRAWN), unnest=True, use_process=False)
        rows.select(
            "pubid",
            "question",
            drawn(documents_of(known))(daft.col("number")),
            daft.col("passages").list_join("\n\n").alias("oracle"),
            daft.col("long_answer").alias("original_answer"),
            "final_decision",
        ).write_parquet(f"{to}/data/split={split}", compression="zstd")


def documents_of(known: pa.Table) -> Callable[[daft.Series], pa.Array]:
    """Return a function from numbers of articles to their documents; `known` are all articles of the split by number."""
    lists = known["passages"].chunk(0)
    counts, texts = np.diff(lists.offsets.to_numpy()).astype(np.int64), lists.flatten()
    row, position, keep = shown(counts, pl.from_arrow(texts).hash(SEED).to_numpy())
    article, ends = np.repeat(np.arange(len(counts)), counts), np.searchsorted(row, np.arange(len(counts) + 1))
    first, pubids = np.cumsum(counts) - counts, known["pubid"].to_numpy()

    def documents(numbers: daft.Series) -> pa.Array:
        asked = numbers.to_arrow().to_numpy()
        sizes = np.diff(ends)[asked]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        at = position[np.arange(offsets[-1]) + np.repeat(ends[asked] - offsets[:-1], sizes)]
        fields = [
            pa.array(pubids[article[at]]),
            pa.array((at - first[article[at]]).astype(np.int32)),
            texts.take(pa.array(at)),
            pa.array(article[at] == np.repeat(asked, sizes)),
        ]
        shown_here = pa.LargeListArray.from_arrays(offsets, pa.StructArray.from_arrays(fields, fields=list(DOCUMENT)))
        return pa.StructArray.from_arrays([shown_here, pa.array(~keep[asked])], fields=list(DRAWN))

    return documents


def shown(counts: np.ndarray, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (row, position of the passage) of all documents in their order, and which rows keep their oracle.

    `counts` are the passages of each article of a split, `hashes` those of their texts by position.
    """
    chance, size = np.random.default_rng(SEED), len(counts)
    first, article = np.cumsum(counts) - counts, np.repeat(np.arange(size), counts)
    keep = chance.random(size) < P
    row = np.repeat(np.arange(size), K + np.where(keep, 0, counts))
    texts, own = hashes & np.uint64(0xFFFFFFFF), pair(article, hashes & np.uint64(0xFFFFFFFF))
    own.sort()
    position, look = np.empty(len(row), np.int64), np.arange(len(row))
    drawn = look
    while len(drawn):
        others = chance.integers(size, size=len(drawn))
        position[drawn] = first[others] + (chance.random(len(drawn)) * counts[others]).astype(np.int64)
        at, asker = position[look], row[look]
        text = pair(asker, texts[at])
        bad = (article[at] == asker) | repeated(pair(asker, article[at])) | repeated(text)
        bad |= own[np.minimum(np.searchsorted(own, text), len(own) - 1)] == text
        drawn = look[bad]
        look = np.flatnonzero(np.isin(row, row[drawn]))
    oracle = np.flatnonzero(keep[article])
    row, position = np.concatenate([article[oracle], row]), np.concatenate([oracle, position])
    order = np.argsort(pair(row, mixed(row, position)))
    return row[order], position[order], keep


def pair(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Return two numbers below 2^32 in one."""
    return high.astype(np.uint64) << np.uint64(32) | low.astype(np.uint64)


def repeated(keys: np.ndarray) -> np.ndarray:
    """Say which keys equal one before them."""
    order = np.argsort(keys, kind="stable")
    found = np.zeros(len(keys), bool)
    found[order[1:]] = keys[order[1:]] == keys[order[:-1]]
    return found


def mixed(row: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Hash (seed, row, position) to 32 bits."""
    bits = pair(row, position) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(SEED)
    bits = (bits ^ (bits >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return bits >> np.uint64(32)
