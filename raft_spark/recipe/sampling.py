"""(seed, pubids, index of a split) -> the passages that each row shows, in order: RAFT's draw of oracle and distractors.

Pure NumPy over a whole batch of rows. RAFT (Zhang et al. 2024, section 3): a share P of the rows keeps its oracle passages
among k distractors, and the other rows show distractors only. What stands in for a missing oracle is set by base.absent:
the passages of another article (a stand-in), as many single passages, or nothing. Each draw is a hash of (seed, pubid, slot,
attempt), so it does not depend on partitions, machines or retries.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raft_spark import config
from raft_spark.common import hashing
from raft_spark.common.hashing import Int64Array, Stream
from raft_spark.errors import InputError
from raft_spark.recipe.corpus import CorpusIndex

ATTEMPTS = 10_000
STAND_IN_ATTEMPTS = 64  # among all articles, and then among those of one number of passages
BoolArray = NDArray[np.bool_]
PassageArray = NDArray[np.void]  # of the type _PASSAGE
_PASSAGE = np.dtype([("number", np.int64), ("passage", np.int64), ("checksum", np.uint32)])


@dataclass(frozen=True)
class Documents:
    """The passages of a batch of rows, in the order shown. All arrays have the shape (documents of the batch,), sorted by row.

    `number` is the article's number in the split, `passage` the index among its passages. `oracle` says that the passage
    belongs to the row's own article.
    """

    row: Int64Array
    number: Int64Array
    passage: Int64Array
    oracle: BoolArray

    def position(self, index: CorpusIndex) -> Int64Array:
        """Return the position of each passage among the texts of the corpus."""
        return index.first[self.number] + self.passage


def keeps_oracle(pubids: Int64Array, conf: config.Base) -> BoolArray:
    """Say which rows keep their oracle: a share P of them."""
    return hashing.uniform(hashing.hash64(conf.seed, Stream.KEEP, pubids)) < conf.oracle_share


def distractor_counts(passages: Int64Array, keep: BoolArray, conf: config.Base) -> Int64Array:
    """Return the number of single distractors of each row, from its article's number of passages.

    That is k, and with base.absent = "singles", for a row without its oracle, one more for each passage it lost.
    """
    return conf.distractors + np.where(keep | (conf.absent != "singles"), 0, passages)


def articles_needed(passages: Int64Array, keep: BoolArray, conf: config.Base) -> Int64Array:
    """Return how many other articles each row draws from."""
    return distractor_counts(passages, keep, conf) + has_stand_in(passages, keep, conf)


def has_stand_in(passages: Int64Array, keep: BoolArray, conf: config.Base) -> BoolArray:
    """Say which rows show another article's passages in place of their oracle."""
    return ~keep & (passages > 0) & (conf.absent == "stand_in")


def base_rows(pubids: Int64Array, conf: config.Base) -> tuple[Int64Array, BoolArray]:
    """Return the article of each row, as an index into `pubids`, and whether the row keeps its oracle.

    An article gives one row or one of each kind (base.variants).
    """
    articles = np.arange(len(pubids))
    if conf.variants == "both":
        return np.repeat(articles, 2), np.tile([True, False], len(articles))
    return articles, keeps_oracle(pubids, conf)


def choose_documents(numbers: Int64Array, keep: BoolArray, index: CorpusIndex, conf: config.Base) -> Documents:
    """Choose and order the documents of the rows of the articles with these numbers; `keep` says which keep their oracle.

    A stand-in has the places that the row's own passages would have had. Raises InputError when the split is too small.
    """
    pubids, passages = index.pubid[numbers], index.count[numbers]
    slots = distractor_counts(passages, keep, conf)
    filled = _distractors(numbers, slots, index, conf.seed)
    row, slot = np.nonzero(np.arange(filled.shape[1]) < slots[:, None])
    whole = np.where(keep, numbers, -1)  # the article that a row shows all passages of
    stand_in_rows = np.flatnonzero(has_stand_in(passages, keep, conf))
    whole[stand_in_rows] = _stand_ins(numbers[stand_in_rows], filled[stand_in_rows], index, conf.seed)
    whole_row = np.repeat(np.arange(len(numbers)), np.where(whole < 0, 0, index.count[whole]))
    whole_passage = np.arange(len(whole_row)) - np.searchsorted(whole_row, whole_row)
    shown = Documents(
        np.concatenate([whole_row, row]),
        np.concatenate([whole[whole_row], filled["number"][row, slot]]),
        np.concatenate([whole_passage, filled["passage"][row, slot]]),
        np.concatenate([keep[whole_row], np.zeros(len(row), bool)]),
    )
    ordinal = np.concatenate([whole_passage, slot + 2**32])
    order = np.lexsort((hashing.hash64(conf.seed, Stream.ORDER, pubids[shown.row], ordinal), shown.row))
    return Documents(shown.row[order], shown.number[order], shown.passage[order], shown.oracle[order])


def _distractors(numbers: Int64Array, slots: Int64Array, index: CorpusIndex, seed: int) -> PassageArray:
    """Fill `slots` slots of each row; return the passages, shape (rows, most slots).

    The slots of a row are filled one after the other. A slot draws again if the drawn number is empty, if the article is
    the row's own or already drawn for the row, or if the text is one of the row's own or already drawn. So a passage
    depends on the row and the slots before it, and on nothing else.
    """
    filled = np.zeros((len(numbers), int(slots.max(initial=0))), _PASSAGE)
    own_texts = np.sort(_texts(np.arange(len(numbers)), numbers, index))
    for slot in range(filled.shape[1]):
        rows = np.flatnonzero(slots > slot)
        for attempt in range(ATTEMPTS):
            drawn = _draw(index.pubid[numbers[rows]], slot, attempt, index, seed)
            allowed = (drawn["number"] != numbers[rows]) & (index.count[drawn["number"]] > 0)
            allowed &= _is_new(drawn, filled[rows, :slot]) & ~_among(_row_text(rows, drawn["checksum"]), own_texts)
            filled[rows[allowed], slot] = drawn[allowed]
            rows = rows[~allowed]
            if not len(rows):
                break
        else:
            msg = (
                f"no distractor {slot + 1} for pubid {index.pubid[numbers[rows[0]]]} after {ATTEMPTS} draws; "
                "its split holds too few different passages"
            )
            raise InputError(msg)
    return filled


def _stand_ins(numbers: Int64Array, filled: PassageArray, index: CorpusIndex, seed: int) -> Int64Array:
    """Return the number of another article for each row, of as many passages as its own, shape (rows,).

    An article is drawn again if the row shows one of its passages, or if one of its texts is one of the row's own or shown. If no
    article of as many passages is left, those of the nearest number of passages follow, the smaller one first.
    """
    found = np.full(len(numbers), -1)
    known = np.sort(np.concatenate([_texts(np.arange(len(numbers)), numbers, index), _row_texts(filled)]))
    for attempt in range(2 * STAND_IN_ATTEMPTS * len(index.sizes)):
        rows = np.flatnonzero(found < 0)
        if not len(rows):
            break
        size = index.nearest_sizes[index.count[numbers[rows]], attempt // (2 * STAND_IN_ATTEMPTS)]
        drawn = _draw_of_size(index.pubid[numbers[rows]], size, attempt, index, seed)
        allowed = (index.count[drawn] == size) & (drawn != numbers[rows])
        allowed &= (filled["number"][rows] != drawn[:, None]).all(axis=1)
        rows, drawn = rows[allowed], drawn[allowed]
        texts = _texts(rows, drawn, index)
        allowed = ~np.isin(rows, (texts[_among(texts, known)] >> np.uint64(32)).astype(np.int64))
        found[rows[allowed]] = drawn[allowed]
    else:
        pubid = index.pubid[numbers[np.argmin(found)]]
        msg = f"no article can stand in for the passages of pubid {pubid}; its split holds too few different articles"
        raise InputError(msg)
    return found


def _draw_of_size(pubids: Int64Array, size: Int64Array, attempt: int, index: CorpusIndex, seed: int) -> Int64Array:
    """Draw an article's number for each row: first of the whole split, so that it changes little when articles leave, and
    after STAND_IN_ATTEMPTS of those with `size` passages, since there may be few.
    """
    bits = hashing.hash64(seed, Stream.STAND_IN, pubids, attempt)
    if attempt % (2 * STAND_IN_ATTEMPTS) < STAND_IN_ATTEMPTS:
        return hashing.jump_hash(bits, index.size)
    drawn = np.zeros(len(pubids), np.int64)
    for each in np.unique(size):
        numbers, rows = index.numbers_of_size(int(each)), size == each
        drawn[rows] = numbers[hashing.jump_hash(bits[rows], len(numbers))]
    return drawn


def _draw(pubids: Int64Array, slot: int, attempt: int, index: CorpusIndex, seed: int) -> PassageArray:
    """Draw one passage of the split for each row; the article of a drawn number may be withdrawn, with no passage."""
    bits = hashing.hash64(seed, Stream.DRAW, pubids, slot, attempt)
    drawn = np.zeros(len(pubids), _PASSAGE)
    number = hashing.jump_hash(bits, index.size)
    passage = hashing.randbelow(hashing.hash64(seed, Stream.PASSAGE, bits), index.count[number])
    position = np.where(index.count[number] > 0, index.first[number] + passage, 0)
    drawn["number"], drawn["passage"], drawn["checksum"] = number, passage, index.checksum[position]
    return drawn


def _is_new(drawn: PassageArray, filled: PassageArray) -> BoolArray:
    """Say which drawn passages have another article and another text than all that their row has so far, shape (rows, slots)."""
    another_article = (filled["number"] != drawn["number"][:, None]).all(axis=1)
    another_text = (filled["checksum"] != drawn["checksum"][:, None]).all(axis=1)
    return np.asarray(another_article & another_text)


def _texts(rows: Int64Array, numbers: Int64Array, index: CorpusIndex) -> NDArray[np.uint64]:
    """Return (row, checksum) of all passages of the articles with these numbers, each pair in one number."""
    counts = index.count[numbers]
    at = np.repeat(np.arange(len(numbers)), counts)
    passage = np.arange(len(at)) - np.repeat(np.cumsum(counts) - counts, counts)
    return _row_text(rows[at], index.checksum[index.first[numbers[at]] + passage])


def _row_texts(filled: PassageArray) -> NDArray[np.uint64]:
    return _row_text(np.arange(len(filled))[:, None], filled["checksum"]).ravel()


def _among(values: NDArray[np.uint64], known: NDArray[np.uint64]) -> BoolArray:
    """Say which values are among the known ones, which are sorted; np.isin would sort them for every draw."""
    at = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return known[at] == values if len(known) else np.zeros(len(values), bool)


def _row_text(row: Int64Array, checksum: NDArray[np.uint32]) -> NDArray[np.uint64]:
    return row.astype(np.uint64) << np.uint64(32) | checksum.astype(np.uint64)
