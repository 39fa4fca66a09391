"""(seed, pubids, index of a split) -> the passages that each row shows, in order: RAFT's draw of oracle and distractors.

Pure NumPy over a whole batch of rows. RAFT (Zhang et al. 2024, section 3): a share P of the rows keeps its oracle passages
among k distractors, and the other rows show distractors only. What stands in for a missing oracle is set by base.absent:
the passages of another article (a stand-in), as many single passages, or nothing. Each draw is a hash of (seed, pubid, slot,
attempt), so it does not depend on partitions, machines or retries.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from raft_spark import config
from raft_spark.common import arrays, hashing
from raft_spark.common.hashing import Int64Array, Stream, UInt64Array
from raft_spark.errors import InputError
from raft_spark.recipe.corpus import CorpusIndex

ATTEMPTS = 10_000
STAND_IN_SLOT = 1 << 20  # whose method is the stand-in's
STAND_IN_ATTEMPTS = 64  # among all articles, and then among those of one number of passages
BoolArray = NDArray[np.bool_]
PassageArray = NDArray[np.void]  # of the type PASSAGE
OWN = -1  # the method of the row's own passages; that of all others is an index in METHODS
PASSAGE = np.dtype(
    [
        ("number", np.int64),
        ("passage", np.int64),
        ("checksum", np.uint32),
        ("method", np.int8),
        ("rank", np.int32),
        ("score", np.float32),
    ],
    align=True,
)
NO_PASSAGE = np.array((-1, 0, 0, 0, 0, 0), PASSAGE)
Near = Mapping[
    int, PassageArray
]  # method -> the passages near each row's question, shape (rows, window), NO_PASSAGE last


@dataclass(frozen=True)
class Documents:
    """The passages of a batch of rows, in the order shown. All arrays have the shape (documents of the batch,), sorted by row.

    `number` is the article's number in the split, `passage` the index among its passages. `oracle` says that the passage
    belongs to the row's own article. `slot` counts the single distractors of a row, and is -1 for the passages of the oracle
    or its stand-in. `method` is a code of METHODS, or OWN; `rank` and `score` are 0 unless a retriever found the passage.
    """

    row: Int64Array
    number: Int64Array
    passage: Int64Array
    oracle: BoolArray
    slot: Int64Array
    method: NDArray[np.int8]
    rank: NDArray[np.int32]
    score: NDArray[np.float32]

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


def methods(conf: config.Base) -> list[int]:
    """Return the codes of the methods that base.distractors_from gives a share, without random."""
    return [code for code, share in enumerate(conf.distractor_shares.values()) if code and share]


def choose_documents(
    numbers: Int64Array,
    keep: BoolArray,
    index: CorpusIndex,
    conf: config.Base,
    near: Near | None = None,
    stand_ins: PassageArray | None = None,
) -> Documents:
    """Choose and order the documents of the rows of the articles with these numbers; `keep` says which keep their oracle.

    Slots are filled from `near` in shares of base.distractors_from, and at random without it. A stand-in has the places that
    the row's own passages would have had; it is chosen last, unless `stand_ins` has those of `choose_stand_ins`. Raises
    InputError when the split is too small.
    """
    pubids, passages = index.pubid[numbers], index.count[numbers]
    whole = np.full(len(numbers), NO_PASSAGE, PASSAGE) if stand_ins is None else stand_ins.copy()
    slots = _Slots(numbers, index, conf, near or {}, whole["number"].copy())
    row, slot, drawn = _distractors(slots, distractor_counts(passages, keep, conf))
    if stand_ins is None and (stand_in := has_stand_in(passages, keep, conf)).any():
        chosen = stand_in[row]
        singles = (np.cumsum(stand_in) - 1)[row[chosen]], drawn[chosen]
        whole[stand_in] = _stand_ins(slots.select(stand_in), singles)
    whole["number"][keep], whole["method"][keep] = numbers[keep], OWN  # the article that a row shows all passages of
    whole_row, whole_passage = arrays.numbered(np.where(whole["number"] < 0, 0, index.count[whole["number"]]))
    documents = np.concatenate([whole[whole_row], drawn])
    documents["passage"][: len(whole_row)] = whole_passage
    shown = Documents(
        np.concatenate([whole_row, row]),
        documents["number"],
        documents["passage"],
        np.concatenate([keep[whole_row], np.zeros(len(row), bool)]),
        np.concatenate([np.full(len(whole_row), -1), slot]),
        documents["method"],
        documents["rank"],
        documents["score"],
    )
    ordinal = np.concatenate([whole_passage, slot + 2**32])
    order = _order_in_rows(shown.row, hashing.hash64(conf.seed, Stream.ORDER, pubids[shown.row], ordinal))
    return shown.select(order)


def choose_stand_ins(
    numbers: Int64Array, keep: BoolArray, index: CorpusIndex, conf: config.Base, near: Near
) -> PassageArray:
    """Choose the article that stands in for the oracle of each row, NO_PASSAGE in a row without one, shape (rows,)."""
    found, stand_in = np.full(len(numbers), NO_PASSAGE, PASSAGE), has_stand_in(index.count[numbers], keep, conf)
    if stand_in.any():
        slots = _Slots(numbers, index, conf, near, found["number"]).select(stand_in)
        found[stand_in] = _stand_ins(slots, (np.empty(0, np.int64), found[:0]))
    return found


def _order_in_rows(row: Int64Array, bits: UInt64Array) -> Int64Array:
    """Return the order by row, and within a row by `bits`, as np.lexsort((bits, row)) does.

    It sorts single numbers, a row and the upper bits, which is eight times as fast; only equal numbers need all bits.
    """
    width = np.uint64(max(1, int(row.max(initial=0)).bit_length()))
    keys = row.astype(np.uint64) << np.uint64(64) - width | bits >> width
    order = np.argsort(keys)
    in_order = keys[order]
    return np.lexsort((bits, row)) if (in_order[1:] == in_order[:-1]).any() else order


@dataclass(frozen=True)
class _Slots:
    """What the slots of a batch of rows draw, attempt by attempt: the passages near the question that the slot's method has
    found, and then random ones.
    """

    numbers: Int64Array
    index: CorpusIndex
    conf: config.Base
    near: Near
    shown: Int64Array  # the article that a row shows already, -1 if none

    def select(self, rows: BoolArray) -> "_Slots":
        near = {method: passages[rows] for method, passages in self.near.items()}
        return _Slots(self.numbers[rows], self.index, self.conf, near, self.shown[rows])

    def known_texts(self) -> UInt64Array:
        """Return (row, checksum) of all passages of the rows' own articles and of those that are shown already."""
        rows = np.flatnonzero(self.shown >= 0)
        row, checksum = _texts_of(self.shown[rows], self.index)
        return np.concatenate([_pair(*_texts_of(self.numbers, self.index)), _pair(rows[row], checksum)])

    def draw(self, rows: Int64Array, slot: Int64Array | int, attempt: int) -> PassageArray:
        """Draw a passage for a slot of each of `rows`; a random one may be that of a withdrawn article, with no passage."""
        pubids = self.index.pubid[self.numbers[rows]]
        if not self.near:
            return _draw(pubids, slot, attempt, self.index, self.conf.seed)
        found, attempts = self.draw_near(rows, slot, attempt)
        is_random = found["number"] < 0
        slots = np.broadcast_to(slot, len(rows))[is_random]
        found[is_random] = _draw(pubids[is_random], slots, attempts[is_random], self.index, self.conf.seed)
        return found

    def draw_near(self, rows: Int64Array, slot: Int64Array | int, attempt: int) -> tuple[PassageArray, Int64Array]:
        """Return the near passage of this attempt, NO_PASSAGE behind the last, and the attempt among random passages."""
        attempts, found = np.full(len(rows), attempt), np.full(len(rows), NO_PASSAGE, PASSAGE)
        bits = hashing.hash64(self.conf.seed, Stream.METHOD, self.index.pubid[self.numbers[rows]], slot)
        shares = np.cumsum([*self.conf.distractor_shares.values()])
        method = np.searchsorted(shares[:-1], hashing.uniform(bits), "right")
        for code, passages in self.near.items():
            of_method = np.flatnonzero(method == code)
            near = passages[rows[of_method]]
            attempts[of_method] -= (near["number"] >= 0).sum(axis=1)
            if attempt < near.shape[1]:
                found[of_method] = near[:, attempt]
        return found, attempts


def _distractors(slots: _Slots, counts: Int64Array) -> tuple[Int64Array, Int64Array, PassageArray]:
    """Fill `counts` slots of each row; return the row, the slot and the passage of each, all of shape (counts.sum(),).

    The slots of a row are filled one after the other. A slot draws again if the drawn number is empty, if the article is
    the row's own or already drawn for the row, or if the text is one of the row's own or already drawn. So a passage
    depends on the row and the slots before it, and on nothing else.

    All slots draw at once; only the few rows where a slot would draw again are filled slot by slot.
    """
    row, slot = arrays.numbered(counts)
    drawn = slots.draw(row, slot, 0)
    again = _draws_again(slots, row, drawn)
    chosen = again[row]
    first = np.full((int(again.sum()), int(counts.max(initial=0))), NO_PASSAGE, PASSAGE)
    first[(np.cumsum(again) - 1)[row[chosen]], slot[chosen]] = drawn[chosen]
    drawn[chosen] = _slot_by_slot(slots.select(again), first)
    return row, slot, drawn


def _draws_again(slots: _Slots, row: Int64Array, drawn: PassageArray) -> BoolArray:
    """Say in which rows a slot would draw again, if each has `drawn` at first; some rows with a text of their own twice are added."""
    numbers, index, rows = slots.numbers, slots.index, np.arange(len(slots.numbers))
    with_shown = np.flatnonzero(slots.shown >= 0)
    articles = np.concatenate(
        [_pair(rows, numbers), _pair(with_shown, slots.shown[with_shown]), _pair(row, drawn["number"])]
    )
    texts = np.concatenate([slots.known_texts(), _pair(row, drawn["checksum"])])
    again = np.zeros(len(numbers), bool)
    again[row[index.count[drawn["number"]] == 0]] = True
    for pairs in (np.sort(articles), np.sort(texts)):
        again[pairs[1:][pairs[1:] == pairs[:-1]] >> np.uint64(32)] = True
    return again


def _slot_by_slot(slots: _Slots, first: PassageArray) -> PassageArray:
    """Fill the slots of each row as `_distractors` says; return the passages of all slots, row by row.

    `first` has what each slot drew at first, of the shape (rows, slots), and NO_PASSAGE behind a row's last slot.
    """
    numbers, index = slots.numbers, slots.index
    is_slot, filled, known = first["number"] >= 0, np.zeros_like(first), np.sort(slots.known_texts())
    for slot in range(first.shape[1]):
        rows = np.flatnonzero(is_slot[:, slot])
        for attempt in range(ATTEMPTS):
            drawn = slots.draw(rows, slot, attempt) if attempt else first[rows, slot]
            allowed = (drawn["number"] != numbers[rows]) & (drawn["number"] != slots.shown[rows])
            allowed &= (index.count[drawn["number"]] > 0) & ~arrays.find(_pair(rows, drawn["checksum"]), known)[1]
            allowed &= _is_new(drawn, filled[rows, :slot])
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


def _draw(
    pubids: Int64Array, slot: Int64Array | int, attempt: Int64Array | int, index: CorpusIndex, seed: int
) -> PassageArray:
    """Draw one random passage of the split for each pubid."""
    bits = hashing.hash64(seed, Stream.DRAW, pubids, slot, attempt)
    drawn = np.zeros(len(pubids), PASSAGE)
    number = hashing.jump_hash(bits, index.size)
    passage = hashing.randbelow(hashing.hash64(seed, Stream.PASSAGE, bits), index.count[number])
    position = np.where(index.count[number] > 0, index.first[number] + passage, 0)
    drawn["number"], drawn["passage"], drawn["checksum"] = number, passage, index.checksum[position]
    return drawn


def _stand_ins(slots: _Slots, singles: tuple[Int64Array, PassageArray]) -> PassageArray:
    """Return another article for each row, of as many passages as its own, shape (rows,).

    `singles` are the rows and the passages of the distractors. An article is drawn again if one of its texts is one of the row's own
    or shown there already, as its own article's are. The articles of near passages come first, as in a slot. If no article of as
    many passages is left, those of the nearest number of passages follow, the smaller one first.
    """
    numbers, index, seed = slots.numbers, slots.index, slots.conf.seed
    found, row, drawn = np.full(len(numbers), NO_PASSAGE, PASSAGE), *singles
    texts = np.sort(np.concatenate([slots.known_texts(), _pair(row, drawn["checksum"])]))
    of_near = max((passages.shape[1] for passages in slots.near.values()), default=0)
    for attempt in range(of_near + 2 * STAND_IN_ATTEMPTS * len(index.sizes)):
        rows = np.flatnonzero(found["number"] < 0)
        if not len(rows):
            return found
        if attempt < of_near:
            size = index.count[numbers[rows]]
            article = slots.draw_near(rows, STAND_IN_SLOT, attempt)[0]
        else:
            at = attempt - of_near
            size = index.nearest_sizes[index.count[numbers[rows]], at // (2 * STAND_IN_ATTEMPTS)]
            article = np.full(len(rows), NO_PASSAGE, PASSAGE)
            article["number"] = _draw_of_size(index.pubid[numbers[rows]], size, at, index, seed)
        allowed = (article["number"] >= 0) & (index.count[article["number"]] == size)
        rows, article = rows[allowed], article[allowed]
        at_row, passage = arrays.numbered(index.count[article["number"]])
        is_known = arrays.find(
            _pair(rows[at_row], index.checksum[index.first[article["number"][at_row]] + passage]), texts
        )[1]
        allowed = np.bincount(at_row, is_known, len(rows)) == 0
        found[rows[allowed]] = article[allowed]
    if (found["number"] < 0).any():
        pubid = index.pubid[numbers[np.argmin(found["number"])]]
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


def _texts_of(numbers: Int64Array, index: CorpusIndex) -> tuple[Int64Array, NDArray[np.uint32]]:
    """Return row and checksum of all passages of the articles with these numbers, one article a row."""
    row, passage = arrays.numbered(index.count[numbers])
    return row, index.checksum[index.first[numbers[row]] + passage]


def _pair(row: Int64Array, value: Int64Array | NDArray[np.uint32]) -> UInt64Array:
    """Return each row and a value below 2^32 in one number, which sorts by row first."""
    return row.astype(np.uint64) << np.uint64(32) | value.astype(np.uint64)
