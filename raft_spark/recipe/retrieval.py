"""questions -> the passages of other articles that are nearest to each: hard distractors.

`bm25` finds the passages whose words fit the question, `mesh` the articles that share its MeSH terms. A passage that may
answer the question as well, a second oracle, is left out: by its score or by its likeness to one of the article's own passages.
"""

import functools
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raft_spark import config
from raft_spark.common import arrays, hashing
from raft_spark.common.hashing import Int64Array, Stream
from raft_spark.config.fields import METHODS
from raft_spark.lake import parquet, schemas
from raft_spark.recipe import sampling, term_index, words
from raft_spark.recipe.corpus import CorpusIndex
from raft_spark.recipe.term_index import Hits, IndexWriter, TermIndex, Terms

SIGNATURES = "signatures.bin"
COLUMNS = ["question", "meshes"]  # of articles, which queries are made of
BM25, MESH = (METHODS.index(name) for name in ("bm25", "mesh"))
PAIRS_AT_ONCE = 1 << 18  # of signatures: 16 MB


@dataclass(frozen=True, eq=False)
class Retriever:
    """The memory-mapped indexes of one split, by method, and the signatures of the passages of all splits by position."""

    indexes: Mapping[int, TermIndex]
    signatures: NDArray[np.uint8]


def file_names(methods: Sequence[int]) -> list[str]:
    """Return the names of the files that `build` writes for these methods."""
    return [SIGNATURES, *(_index_name(split, method) for split in schemas.SPLITS for method in methods)]


def build(row_groups: Sequence[Mapping[str, Any]], methods: Sequence[int], folder: Path) -> None:
    """Write the indexes for these methods and the signatures to `folder`, from all row groups of articles, in their order.

    At most term_index.PART_DOCUMENTS documents of each index are in memory at a time.
    """
    with ExitStack() as stack:
        signatures = stack.enter_context((folder / SIGNATURES).open("wb"))
        writers = {
            (split, method): stack.enter_context(_writer(folder / _index_name(split, method), method))
            for split in schemas.SPLITS
            for method in methods
        }
        for group, table in parquet.read_ahead(row_groups, ["number", "passages", "meshes"]):
            number, passages = table["number"].to_numpy(), table["passages"].combine_chunks()
            counts = pc.list_value_length(passages).to_numpy(zero_copy_only=False)
            texts = words.split(passages.flatten())
            signatures.write(words.signatures(texts, counts.sum()).tobytes())
            if BM25 in methods:
                row, passage = sampling.numbered(counts)
                writers[group["split"], BM25].add(number[row], passage, texts)
            if MESH in methods:
                writers[group["split"], MESH].add(number, np.zeros_like(number), _mesh_terms(table["meshes"]))


@functools.lru_cache(maxsize=6)
def map_files(paths: tuple[tuple[str, str], ...], split: str, methods: tuple[int, ...]) -> Retriever:
    """Memory-map the files of one split, once in each worker process; `paths` gives the path of each of `file_names`."""
    path_of = dict(paths)
    indexes = {method: TermIndex(Path(path_of[_index_name(split, method)])) for method in methods}
    path = Path(path_of[SIGNATURES])
    data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
    return Retriever(indexes, data.reshape(-1, words.SIGNATURE))


def search(questions: pa.ChunkedArray, keys: Int64Array, retriever: Retriever, count: int) -> Hits:
    """Find the `count` best passages of the whole split for each question, among all terms; `keys` are pubids."""
    return retriever.indexes[BM25].search(words.split(questions.combine_chunks()), keys.astype(np.uint64), count)[0]


def near(
    articles: pa.Table, index: CorpusIndex, retriever: Retriever, conf: config.Base
) -> tuple[sampling.Near, Int64Array]:
    """Find the passages that are near each article's question, for each method; and how many were left out as second oracles.

    `articles` has the columns number, question and meshes. Passages have the shape (articles, window), in the order in
    which they are drawn, which is a random one.
    """
    numbers = articles["number"].to_numpy()
    keys, window = index.pubid[numbers].astype(np.uint64), conf.retrieval.window
    left_out, found = np.zeros(len(numbers), np.int64), {}
    for method, terms_of in ((BM25, _question_terms), (MESH, _article_meshes)):
        if method not in retriever.indexes:
            continue
        hits, best = retriever.indexes[method].search(
            terms_of(articles), keys, window, numbers, conf.retrieval.postings
        )
        passages = _passages(hits, method, best, keys, index, conf)
        is_second = _is_similar(hits, numbers, index, retriever, conf)
        if method == BM25:
            is_second |= hits.score > conf.retrieval.max_score * best[hits.row]
        article = hits.row << 32 | hits.number
        is_second = np.isin(article, article[is_second])
        left_out += np.bincount(hits.row[is_second], minlength=len(numbers))
        found[method] = _in_drawing_order(hits.row[~is_second], passages[~is_second], keys, conf)
    return found, left_out


def _question_terms(articles: pa.Table) -> Terms:
    return words.split(articles["question"].combine_chunks())


def _article_meshes(articles: pa.Table) -> Terms:
    return _mesh_terms(articles["meshes"])


def _mesh_terms(meshes: pa.ChunkedArray) -> Terms:
    """Return the MeSH terms of articles, each once, regardless of case."""
    lists = meshes.combine_chunks()
    encoded = pc.utf8_lower(lists.flatten()).dictionary_encode()
    hashes = np.array([zlib.crc32(term.encode()) for term in encoded.dictionary.to_pylist()], np.uint32)
    document = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
    return Terms(document, hashes[encoded.indices.to_numpy(zero_copy_only=False)])


def _writer(path: Path, method: int) -> IndexWriter:
    return IndexWriter(path) if method == BM25 else IndexWriter(path, saturation=0, length_share=0)


def _index_name(split: str, method: int) -> str:
    return f"{split}-{METHODS[method]}.arrow"


def _passages(
    hits: Hits, method: int, best: Int64Array, keys: hashing.UInt64Array, index: CorpusIndex, conf: config.Base
) -> sampling.PassageArray:
    """Return the passages of the hits. An article that mesh has found gives one of its passages.

    The score is BM25's, or for mesh the share of the article's terms that both have, by their idf.
    """
    found = np.zeros(len(hits.row), sampling.PASSAGE)
    found["number"], found["passage"], found["method"], found["rank"] = hits.number, hits.passage, method, hits.rank
    found["score"] = hits.score / (term_index.SCALE if method == BM25 else best[hits.row])
    if method == MESH:
        bits = hashing.hash64(conf.seed, Stream.PASSAGE, keys[hits.row], hits.number)
        found["passage"] = hashing.randbelow(bits, index.count[hits.number])
    found["checksum"] = index.checksum[index.first[hits.number] + found["passage"]]
    return found


def _is_similar(
    hits: Hits, numbers: Int64Array, index: CorpusIndex, retriever: Retriever, conf: config.Base
) -> NDArray[np.bool_]:
    """Say which hits are of an article that has a passage nearly the same as one of the row's own article."""
    own, others = index.count[numbers[hits.row]], index.count[hits.number]
    pair_counts = own * others
    found = np.zeros(len(own), bool)
    block = np.cumsum(pair_counts) // PAIRS_AT_ONCE
    for begin in arrays.starts_of_runs(block):
        of_block = slice(begin, np.searchsorted(block, block[begin], "right"))
        hit, pair = sampling.numbered(pair_counts[of_block])
        other, one = np.divmod(pair, own[of_block][hit])
        positions = (index.first[of[of_block]][hit] for of in (numbers[hits.row], hits.number))
        signatures = (retriever.signatures[position + at] for position, at in zip(positions, (one, other), strict=True))
        is_similar = words.similarity(*signatures) >= conf.retrieval.max_similarity
        found[begin + hit[is_similar]] = True
    return found


def _in_drawing_order(
    row: Int64Array, found: sampling.PassageArray, keys: hashing.UInt64Array, conf: config.Base
) -> sampling.PassageArray:
    """Return the passages of each row in a random order that depends on row and passage alone, shape (rows, window)."""
    bits = hashing.hash64(conf.seed, Stream.NEAR, keys[row], found["number"], found["passage"])
    order = np.lexsort((bits, row))
    row = row[order]
    drawn = np.full((len(keys), conf.retrieval.window), sampling.NO_PASSAGE, sampling.PASSAGE)
    drawn[row, np.arange(len(row)) - np.searchsorted(row, row)] = found[order]
    return drawn
