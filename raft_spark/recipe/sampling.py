"""(seed, pubids, index of a split) -> the passages that each row shows, in order: RAFT's draw of oracle and distractors.

Pure NumPy over a whole batch of rows. RAFT (Zhang et al. 2024, section 3): a share P of the rows keeps its oracle passages
among k distractors, and the other rows show distractors only. What stands in for a missing oracle is set by base.absent:
the passages of another article (a stand-in), as many single passages, or nothing. Each draw is a hash of (seed, pubid, slot,
attempt), so it does not depend on partitions, machines or retries.
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from raft_spark import config
from raft_spark.common import hashing
from raft_spark.common.hashing import Int64Array, Stream, UInt64Array
from raft_spark.errors import InputError
from raft_spark.recipe.corpus import CorpusIndex

ATTEMPTS = 10_000
STAND_IN_ATTEMPTS = 64  # among all articles, and then among those of one number of passages
BoolArray = NDArray[np.bool_]
PassageArray = NDArray[np.void]  # of the type _PASSAGE
_PASSAGE = np.dtype([("number", np.int64), ("passage", np.int64), ("checksum", np.uint32)])
_NONE = np.array((-1, 0, 0), _PASSAGE)  # instead of a passage


@dataclass(frozen=True)
class Documents:
    """The passages of a batch of rows, in the order shown. All arrays have the shape (documents of the batch,), sorted by row.

    `number` is the article's number in the split, `passage` the index among its passages. `oracle` says that the passage
    belongs to the row's own article. `slot` counts the single distractors of a row, and is -1 for the passages of the oracle
    or its stand-in.
    """

    row: Int64Array
    number: Int64Array
    passage: Int64Array
    oracle: BoolArray
    slot: Int64Array

    def select(self, chosen: Int64Array | BoolArray) -> "Documents":
        """Return the chosen passages, by a mask or in the order of their indices."""
        return Documents(*(getattr(self, each.name)[chosen] for each in fields(self)))

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
    row, slot, drawn = _distractors(numbers, distractor_counts(passages, keep, conf), index, conf.seed)
    whole = np.where(keep, numbers, -1)  # the article that a row shows all passages of
    if (stand_in := has_stand_in(passages, keep, conf)).any():
        chosen = stand_in[row]
        singles = (np.cumsum(stand_in) - 1)[row[chosen]], drawn[chosen]
        whole[stand_in] = _stand_ins(numbers[stand_in], singles, index, conf.seed)
    whole_row, whole_passage = _numbered(np.where(whole < 0, 0, index.count[whole]))
    shown = Documents(
        np.concatenate([whole_row, row]),
        np.concatenate([whole[whole_row], drawn["number"]]),
        np.concatenate([whole_passage, drawn["passage"]]),
        np.concatenate([keep[whole_row], np.zeros(len(row), bool)]),
        np.concatenate([np.full(len(whole_row), -1), slot]),
    )
    ordinal = np.concatenate([whole_passage, slot + 2**32])
    order = _order_in_rows(shown.row, hashing.hash64(conf.seed, Stream.ORDER, pubids[shown.row], ordinal))
    return shown.select(order)


def _order_in_rows(row: Int64Array, bits: UInt64Array) -> Int64Array:
    """Return the order by row, and within a row by `bits`, as np.lexsort((bits, row)) does.

    It sorts single numbers, a row and the upper bits, which is eight times as fast; only equal numbers need all bits.
    """
    width = np.uint64(max(1, int(row.max(initial=0)).bit_length()))
    keys = row.astype(np.uint64) << np.uint64(64) - width | bits >> width
    order = np.argsort(keys)
    in_order = keys[order]
    return np.lexsort((bits, row)) if (in_order[1:] == in_order[:-1]).any() else order


def _distractors(
    numbers: Int64Array, slots: Int64Array, index: CorpusIndex, seed: int
) -> tuple[Int64Array, Int64Array, PassageArray]:
    """Fill `slots` slots of each row; return the row, the slot and the passage of each, all of shape (slots.sum(),).

    The slots of a row are filled one after the other. A slot draws again if the drawn number is empty, if the article is
    the row's own or already drawn for the row, or if the text is one of the row's own or already drawn. So a passage
    depends on the row and the slots before it, and on nothing else.

    All slots draw at once; only the few rows where a slot would draw again are filled slot by slot.
    """
    row, slot = _numbered(slots)
    drawn = _draw(index.pubid[numbers[row]], slot, 0, index, seed)
    again = _draws_again(numbers, row, drawn, index)
    chosen = again[row]
    first = np.full((int(again.sum()), int(slots.max(initial=0))), _NONE, _PASSAGE)
    first[(np.cumsum(again) - 1)[row[chosen]], slot[chosen]] = drawn[chosen]
    drawn[chosen] = _slot_by_slot(numbers[again], first, index, seed)
    return row, slot, drawn


def _draws_again(numbers: Int64Array, row: Int64Array, drawn: PassageArray, index: CorpusIndex) -> BoolArray:
    """Say in which rows a slot would draw again, if each has `drawn` at first; some rows with a text of their own twice are added."""
    own, rows = _own_texts(numbers, index), np.arange(len(numbers))
    articles = np.concatenate([_pair(rows, numbers), _pair(row, drawn["number"])])
    texts = np.concatenate([own, _pair(row, drawn["checksum"])])
    again = np.zeros(len(numbers), bool)
    again[row[index.count[drawn["number"]] == 0]] = True
    for pairs in (np.sort(articles), np.sort(texts)):
        again[pairs[1:][pairs[1:] == pairs[:-1]] >> np.uint64(32)] = True
    return again


def _slot_by_slot(numbers: Int64Array, first: PassageArray, index: CorpusIndex, seed: int) -> PassageArray:
    """Fill the slots of each row as `_distractors` says; return the passages of all slots, row by row.

    `first` has what each slot drew at first, of the shape (rows, slots), and _NONE behind a row's last slot.
    """
    is_slot, filled, own = first["number"] >= 0, np.zeros_like(first), np.sort(_own_texts(numbers, index))
    for slot in range(first.shape[1]):
        rows = np.flatnonzero(is_slot[:, slot])
        for attempt in range(ATTEMPTS):
            drawn = _draw(index.pubid[numbers[rows]], slot, attempt, index, seed) if attempt else first[rows, slot]
            allowed = (drawn["number"] != numbers[rows]) & (index.count[drawn["number"]] > 0)
            allowed &= _is_new(drawn, filled[rows, :slot]) & ~_among(_pair(rows, drawn["checksum"]), own)
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
    return filled[is_slot]


def _draw(pubids: Int64Array, slot: Int64Array | int, attempt: int, index: CorpusIndex, seed: int) -> PassageArray:
    """Draw one passage of the split for each pubid; the article of a drawn number may be withdrawn, with no passage."""
    bits = hashing.hash64(seed, Stream.DRAW, pubids, slot, attempt)
    drawn = np.zeros(len(pubids), _PASSAGE)
    number = hashing.jump_hash(bits, index.size)
    passage = hashing.randbelow(hashing.hash64(seed, Stream.PASSAGE, bits), index.count[number])
    position = np.where(index.count[number] > 0, index.first[number] + passage, 0)
    drawn["number"], drawn["passage"], drawn["checksum"] = number, passage, index.checksum[position]
    return drawn


def _stand_ins(
    numbers: Int64Array, singles: tuple[Int64Array, PassageArray], index: CorpusIndex, seed: int
) -> Int64Array:
    """Return the number of another article for each row, of as many passages as its own, shape (rows,).

    `singles` are the rows and the passages of the distractors. An article is drawn again if one of its texts is one of the row's own
    or shown there already, as its own article's are. If no article of as many passages is left, those of the nearest
    number of passages follow, the smaller one first.
    """
    found, row, drawn = np.full(len(numbers), -1), *singles
    texts = np.sort(np.concatenate([_own_texts(numbers, index), _pair(row, drawn["checksum"])]))
    for attempt in range(2 * STAND_IN_ATTEMPTS * len(index.sizes)):
        rows = np.flatnonzero(found < 0)
        if not len(rows):
            return found
        size = index.nearest_sizes[index.count[numbers[rows]], attempt // (2 * STAND_IN_ATTEMPTS)]
        number = _draw_of_size(index.pubid[numbers[rows]], size, attempt, index, seed)
        allowed = index.count[number] == size
        rows, number = rows[allowed], number[allowed]
        at, passage = _numbered(index.count[number])
        is_known = _among(_pair(rows[at], index.checksum[index.first[number[at]] + passage]), texts)
        allowed = np.bincount(at, is_known, len(rows)) == 0
        found[rows[allowed]] = number[allowed]
    if (found < 0).any():
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


def _is_new(drawn: PassageArray, filled: PassageArray) -> BoolArray:
    """Say which drawn passages have another article and another text than all that their row has so far, shape (rows, slots)."""
    another_article = (filled["number"] != drawn["number"][:, None]).all(axis=1)
    another_text = (filled["checksum"] != drawn["checksum"][:, None]).all(axis=1)
    return np.asarray(another_article & another_text)


def _own_texts(numbers: Int64Array, index: CorpusIndex) -> UInt64Array:
    """Return (row, checksum) of all passages of the rows' own articles, each pair in one number."""
    row, passage = _numbered(index.count[numbers])
    return _pair(row, index.checksum[index.first[numbers[row]] + passage])


def _among(values: UInt64Array, known: UInt64Array) -> BoolArray:
    """Say which values are among the known ones, which are sorted; np.isin would sort them for every draw."""
    at = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return known[at] == values if len(known) else np.zeros(len(values), bool)


def _numbered(counts: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Return (row, ordinal in the row) of `counts` items of each row, both of shape (counts.sum(),)."""
    row = np.repeat(np.arange(len(counts)), counts)
    return row, np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)


def _pair(row: Int64Array, value: Int64Array | NDArray[np.uint32]) -> UInt64Array:
    """Return each row and a value below 2^32 in one number, which sorts by row first."""
    return row.astype(np.uint64) << np.uint64(32) | value.astype(np.uint64)
