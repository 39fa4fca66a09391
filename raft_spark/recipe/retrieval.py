"""articles -> the passages of other articles that are nearest to the question of each: hard distractors.

`bm25` finds the passages whose words fit the question, `mesh` the articles that share its MeSH terms, `embedding` the passages
whose vectors are nearest to the question's. An article that may answer the question as well, a second oracle, is left out: by
the score of a passage, or by its likeness to an own passage.
"""

import functools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raft_spark import config
from raft_spark.common import arrays, hashing
from raft_spark.common.hashing import Int64Array, Stream
from raft_spark.config.fields import METHODS
from raft_spark.lake import parquet, schemas
from raft_spark.recipe import sampling, term_index, vector_index, words
from raft_spark.recipe.corpus import CorpusIndex
from raft_spark.recipe.ranking import Hits
from raft_spark.recipe.term_index import IndexWriter, TermIndex, Terms
from raft_spark.recipe.vector_index import VectorIndex

SIGNATURES = "signatures.bin"
BM25, MESH, EMBEDDING = (METHODS.index(name) for name in ("bm25", "mesh", "embedding"))
PAIRS_AT_ONCE = 1 << 18  # of signatures: 16 MB
_QUERIES = pa.schema([("number", pa.int64()), ("terms", pa.list_(pa.uint32()))])


@dataclass(frozen=True, eq=False)
class Queries:
    """The memory-mapped terms that are searched for, by article: `number` has the shape (articles,), ascending."""

    number: Int64Array
    terms: pa.ChunkedArray

    def of(self, numbers: Int64Array) -> Terms:
        """Return the terms of the articles with these numbers."""
        lists = self.terms.take(pa.array(np.searchsorted(self.number, numbers))).combine_chunks()
        return Terms(pc.list_parent_indices(lists).to_numpy(), lists.flatten().to_numpy())


@dataclass(frozen=True, eq=False)
class Retriever:
    """The memory-mapped files of one split: indexes and queries by method, and signatures by position, of all splits.

    `vectors` are those of `embedding`, None without it.
    """

    indexes: Mapping[int, TermIndex]
    queries: Mapping[int, Queries]
    signatures: NDArray[np.uint8]
    vectors: VectorIndex | None = None

    def search(
        self, asked: Int64Array, keys: hashing.UInt64Array, conf: config.Retrieval
    ) -> Iterator[tuple[int, Hits, Int64Array]]:
        """Find what each method finds for the questions of the articles `asked`: the method, the hits, and the best own score."""
        for method, index in self.indexes.items():
            terms = self.queries[method].of(asked)
            yield method, *index.search(terms, keys, conf.window, asked, conf.postings)
        if self.vectors:
            yield EMBEDDING, *self.vectors.search(asked, keys, conf.window)


def _by_terms(methods: Sequence[int]) -> list[int]:
    """Return the methods that have an index of terms."""
    return [method for method in methods if method != EMBEDDING]


def build(row_groups: Sequence[Mapping[str, Any]], methods: Sequence[int], folder: Path) -> None:
    """Write the files for these methods to `folder`, without those of `embedding`, from all row groups of articles, in their order.

    At most term_index.PART_DOCUMENTS documents of each index are in memory at a time.
    """
    with ExitStack() as stack:
        signatures = stack.enter_context((folder / SIGNATURES).open("wb"))
        writers = {
            (split, method): [stack.enter_context(each) for each in _writers(folder, split, method)]
            for split in schemas.SPLITS
            for method in _by_terms(methods)
        }
        for group, table in parquet.read_ahead(row_groups, ["number", "question", "passages", "meshes"]):
            number, passages = table["number"].to_numpy(), table["passages"].combine_chunks()
            counts = pc.list_value_length(passages).to_numpy(zero_copy_only=False)
            texts = words.split(passages.flatten())
            signatures.write(words.signatures(texts, counts.sum()).tobytes())
            if BM25 in methods:
                index, queries = writers[group["split"], BM25]
                row, passage = arrays.numbered(counts)
                index.add(number[row], passage, texts)
                queries.write(_queries(number, words.split(table["question"].combine_chunks())))
            if MESH in methods:
                index, queries = writers[group["split"], MESH]
                terms = _mesh_terms(table["meshes"])
                index.add(number, np.zeros_like(number), terms)
                queries.write(_queries(number, terms))


class IndexFiles(Protocol):
    """Where the files of a build are on this machine; equal ones are at the same place."""

    def path(self, part: str) -> str:
        """Return the path of a file."""

    def __hash__(self) -> int: ...


@functools.lru_cache(maxsize=len(schemas.SPLITS))
def map_files(files: IndexFiles, split: str, methods: tuple[int, ...]) -> Retriever:
    """Memory-map the files of one split, once in each worker process: those that `build` wrote for these methods."""
    names = {method: _names(split, method) for method in _by_terms(methods)}
    indexes = {method: TermIndex(Path(files.path(index))) for method, (index, _) in names.items()}
    queries = {method: _map_queries(files.path(name)) for method, (_, name) in names.items()}
    path = Path(files.path(SIGNATURES))
    data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
    of_vectors = (*_names(split, EMBEDDING), vector_index.VECTORS)
    vectors = VectorIndex(*(Path(files.path(name)) for name in of_vectors)) if EMBEDDING in methods else None
    return Retriever(indexes, queries, data.reshape(-1, words.SIGNATURE), vectors)


def search(questions: pa.ChunkedArray, keys: Int64Array, retriever: Retriever, count: int) -> Hits:
    """Find the `count` best passages of the whole split for each question, among all terms; `keys` are pubids."""
    return retriever.indexes[BM25].search(words.split(questions.combine_chunks()), keys.astype(np.uint64), count)[0]


@dataclass(frozen=True)
class Found:
    """What is found for a batch of rows.

    `near` are the passages in the order in which they are drawn, a random one. `second_oracles` counts the articles that
    were left out of it, of the shape (rows,), and `left_out` has them as `_pair` gives them.
    """

    near: sampling.Near
    second_oracles: Int64Array
    left_out: Int64Array


def find(
    asked: Int64Array,
    own: Int64Array,
    index: CorpusIndex,
    retriever: Retriever,
    conf: config.Base,
    left_out: Int64Array,
) -> Found:
    """Find the passages that are near the questions of the articles `asked`, for rows of the articles `own`.

    Both are numbers of articles, of the shape (rows,), and the same but for rows that show a stand-in. Neither are found,
    nor their second oracles, nor what is `left_out` already.
    """
    keys, near = index.pubid[own].astype(np.uint64), {}
    left_out_here = [np.empty(0, np.int64)]
    for method, hits, best in retriever.search(asked, keys, conf.retrieval):
        is_second = _is_similar(hits, asked, index, retriever, conf)
        if own is not asked:
            is_second |= _is_similar(hits, own, index, retriever, conf)
        if method != MESH:
            is_second |= hits.score > conf.retrieval.max_score * best[hits.row]
        pair = _pair(own[hits.row], hits.number)
        is_second = np.isin(pair, np.concatenate([pair[is_second], left_out]))
        left_out_here.append(pair[is_second])
        is_found = ~is_second & (hits.number != own[hits.row])
        passages = _passages(hits, method, best, keys, index, conf)
        near[method] = _in_drawing_order(hits.row[is_found], passages[is_found], keys, conf)
    pairs = arrays.distinct(np.concatenate(left_out_here))
    counts = np.searchsorted(pairs, _pair(own, np.int64(2**31))) - np.searchsorted(pairs, _pair(own, np.int64(0)))
    return Found(near, counts, pairs)


def _pair(own: Int64Array, number: Int64Array | np.int64) -> Int64Array:
    """Return the numbers of two articles in one."""
    return np.asarray(own << 32 | number)


def _queries(numbers: Int64Array, terms: Terms) -> pa.RecordBatch:
    edges = np.searchsorted(terms.document, np.arange(len(numbers) + 1)).astype(np.int32)
    return pa.RecordBatch.from_arrays(
        [pa.array(numbers), pa.ListArray.from_arrays(pa.array(edges), pa.array(terms.term))], schema=_QUERIES
    )


def _map_queries(path: str) -> Queries:
    table = pa.ipc.open_file(pa.memory_map(path)).read_all()
    number = table["number"].to_numpy()
    order = np.argsort(number)
    return Queries(number[order], table["terms"].take(pa.array(order)))


def _mesh_terms(meshes: pa.ChunkedArray) -> Terms:
    """Return the MeSH terms of articles, each once, regardless of case."""
    lists = meshes.combine_chunks()
    encoded = pc.utf8_lower(lists.flatten()).dictionary_encode()
    hashes = np.array([zlib.crc32(term.encode()) for term in encoded.dictionary.to_pylist()], np.uint32)
    document = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
    return Terms(document, hashes[encoded.indices.to_numpy(zero_copy_only=False)])


def _writers(folder: Path, split: str, method: int) -> tuple[IndexWriter, pa.RecordBatchFileWriter]:
    index, queries = (folder / name for name in _names(split, method))
    saturation, length_share = (1.5, 0.75) if method == BM25 else (0, 0)
    return IndexWriter(index, saturation, length_share), pa.ipc.new_file(str(queries), _QUERIES)


def _names(split: str, method: int) -> tuple[str, str]:
    """Return the names of the index and of the queries."""
    if method == EMBEDDING:
        return vector_index.file_names(split)
    return f"{split}-{METHODS[method]}.arrow", f"{split}-{METHODS[method]}-queries.arrow"


def _passages(
    hits: Hits, method: int, best: Int64Array, keys: hashing.UInt64Array, index: CorpusIndex, conf: config.Base
) -> sampling.PassageArray:
    """Return the passages of the hits. An article that mesh has found gives one of its passages.

    The score is BM25's, for mesh the share of the article's terms that both have, by their idf, and for embedding the cosine.
    """
    found = np.zeros(len(hits.row), sampling.PASSAGE)
    found["number"], found["passage"], found["method"], found["rank"] = hits.number, hits.passage, method, hits.rank
    scale = {BM25: term_index.SCALE, EMBEDDING: vector_index.SCALE}.get(method, best[hits.row])
    found["score"] = hits.score / scale
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
        hit, pair = arrays.numbered(pair_counts[of_block])
        other, one = np.divmod(pair, own[of_block][hit])
        positions = (index.first[of[of_block]][hit] for of in (numbers[hits.row], hits.number))
        at = (position + passage for position, passage in zip(positions, (one, other), strict=True))
        signatures = (retriever.signatures.take(each, axis=0) for each in at)  # ten times as fast as an index
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
