"""What a row shows: k distinct other articles, never an oracle text, no tell, little change when articles change."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from conftest import SPARK  # noqa: F401 - the environment is set there
from raft_spark import config
from raft_spark.common.hashing import Stream, hash64, jump_hash, randbelow
from raft_spark.errors import InputError
from raft_spark.recipe import sampling
from raft_spark.recipe.corpus import CorpusIndex
from support.corpus_index import index_of

pytestmark = pytest.mark.row
ABSENT = ["stand_in", "singles", "nothing"]


def conf(*assignments: str) -> config.Base:
    return config.load(assignments=assignments).base


def random_counts(size: int) -> NDArray[np.int64]:
    return np.random.default_rng(5).integers(1, 8, size)


@pytest.fixture(scope="module")
def large() -> tuple[CorpusIndex, NDArray[np.int64], sampling.Documents]:
    index = index_of(random_counts(200_000))
    numbers = np.arange(200_000)
    return index, numbers, drawn(numbers, index, conf())


def documents(numbers: NDArray[np.int64], index: CorpusIndex, settings: config.Base) -> sampling.Documents:
    """Draw the rows of the articles with these numbers."""
    which, keep = sampling.base_rows(index.pubid[numbers], settings)
    return sampling.choose_documents(numbers[which], keep, index, settings)


def drawn(numbers: NDArray[np.int64], index: CorpusIndex, settings: config.Base) -> sampling.Documents:
    """Draw in batches, as the tasks do."""
    starts = range(0, len(numbers), 8_192)
    batches = [documents(numbers[start : start + 8_192], index, settings) for start in starts]
    row = np.concatenate([batch.row + start for batch, start in zip(batches, starts, strict=True)])
    rest = [np.concatenate([getattr(batch, each.name) for batch in batches]) for each in fields(sampling.Documents)[1:]]
    return sampling.Documents(row, *rest)


def test_the_share_of_rows_with_their_oracle_is_p(large):
    _, numbers, shown = large
    with_oracle = len(np.unique(shown.row[shown.oracle]))
    error = 4 * np.sqrt(0.7 * 0.3 * len(numbers))
    assert abs(with_oracle - 0.7 * len(numbers)) < error


def test_distractors_are_distinct_passages_of_other_articles(large):
    index, numbers, shown = large
    row, number = shown.row[~shown.oracle], shown.number[~shown.oracle]
    assert (number != numbers[row]).all()
    assert len(np.unique(row * len(index.checksum) + shown.position(index)[~shown.oracle])) == len(row)


def articles_shown(shown: sampling.Documents, size: int) -> tuple[NDArray[np.int64], ...]:
    """Return row, number and shown passages of each article that a row shows passages of; `size` is that of the split."""
    article, passages = np.unique(shown.row * size + shown.number, return_counts=True)
    return article // size, article % size, passages


def test_a_row_without_its_oracle_shows_k_single_passages_and_another_article_whole_of_as_many_passages(large):
    index, numbers, shown = large
    row, number, passages = articles_shown(shown, len(numbers))
    has_oracle = np.isin(np.arange(len(numbers)), shown.row[shown.oracle])
    several = ~has_oracle[row] & (index.count[numbers[row]] > 1)
    assert (np.bincount(row) == 4).all()  # the own article or its stand-in, and k = 3 others
    stand_in = several & (passages > 1)
    assert (passages[stand_in] == index.count[number[stand_in]]).all()
    assert (passages[stand_in] == index.count[numbers[row[stand_in]]]).all()
    assert len(np.unique(row[stand_in])) == stand_in.sum() == len(np.unique(row[several]))


def test_every_article_of_as_many_passages_stands_in_equally_often(large):
    index, numbers, shown = large
    row, number, passages = articles_shown(shown, len(numbers))
    drawn_whole = (number != numbers[row]) & (passages > 1)
    for size in range(2, 8):
        times = np.bincount(number[drawn_whole & (passages == size)], minlength=len(numbers))[index.count == size]
        assert abs(times.var() / times.mean() - 1) < 0.05


def test_rare_sizes_stand_in_for_each_other_and_the_nearest_for_one_alone():
    counts = np.full(5_000, 3)
    counts[[10, 20, 30]], counts[40], counts[50] = 9, 6, 60
    index = index_of(counts)
    numbers = np.array([10, 20, 30, 40, 50])
    for seed in range(20):
        shown = documents(numbers, index, conf("base.oracle_share=0.0", "base.distractors=1", f"base.seed={seed}"))
        row, number, passages = articles_shown(shown, 5_000)
        stand_in = {int(row): int(number) for row, number, many in zip(row, number, passages, strict=True) if many > 1}
        assert all(stand_in[at] in {10, 20, 30} - {numbers[at]} for at in (0, 1, 2))
        assert counts[stand_in[3]] == 3  # 3 and 9 are as near: the smaller one
        assert stand_in[4] in (10, 20, 30)


def test_a_split_in_which_nothing_can_stand_in_ends_in_a_clear_error():
    index = index_of(np.full(3, 2), np.array([1, 2, 1, 3, 1, 4], np.uint32))
    with pytest.raises(InputError, match="no article can stand in for the passages of pubid 1000"):
        documents(np.arange(3), index, conf("base.oracle_share=0.0", "base.distractors=0"))


def test_every_oracle_passage_of_a_kept_row_is_shown_once_and_marked(large):
    index, numbers, shown = large
    rows, counts = np.unique(shown.row[shown.oracle], return_counts=True)
    assert (counts == index.count[numbers[rows]]).all()
    assert (shown.number[shown.oracle] == numbers[shown.row[shown.oracle]]).all()
    assert len(np.unique(shown.position(index)[shown.oracle])) == shown.oracle.sum()


def test_the_number_of_passages_does_not_tell_whether_the_oracle_is_there(large):
    index, numbers, shown = large
    lengths = np.bincount(shown.row, minlength=len(numbers))
    assert (lengths == index.count + 3).all()  # k = 3 more than the row's own, with and without


def test_every_article_is_drawn_equally_often():
    numbers = np.arange(200_000)
    shown = drawn(numbers, index_of(random_counts(200_000)), conf("base.absent=singles"))
    in_degree = np.bincount(shown.number[~shown.oracle], minlength=len(numbers))
    assert abs(in_degree.var() / in_degree.mean() - 1) < 0.03


def test_passages_of_an_article_are_drawn_equally_often(large):
    index, _, shown = large
    of_seven = index.count[shown.number] == 7
    counts = np.bincount(shown.passage[~shown.oracle & of_seven], minlength=7)
    expected = counts.sum() / 7
    assert ((counts - expected) ** 2 / expected).sum() < 22.5  # 0.999 quantile at 6 degrees of freedom


def test_the_position_of_the_oracle_is_uniform():
    index = index_of(np.ones(100_000, np.int64))
    shown = documents(np.arange(100_000), index, conf("base.oracle_share=1.0"))
    place = np.arange(len(shown.row)) % 4  # one own passage and three distractors a row
    counts = np.bincount(place[shown.oracle], minlength=4)
    assert ((counts - 25_000) ** 2 / 25_000).sum() < 16.3  # 0.999 quantile at 3 degrees of freedom


@pytest.mark.parametrize("absent", ["stand_in", "singles"])
def test_both_variants_of_a_row_show_the_same_distractors_and_one_more_for_each_passage_that_it_lost(absent: str):
    index = index_of(random_counts(500))
    numbers = np.arange(500)
    shown = documents(numbers, index, conf("base.variants=both", f"base.absent={absent}"))
    for number in numbers:
        own = index.count[number]
        with_oracle, without = shown.row == 2 * number, shown.row == 2 * number + 1
        assert shown.oracle[with_oracle].sum() == own
        assert not shown.oracle[without].any()
        assert with_oracle.sum() == without.sum() == 3 + own
        first, second = (
            set(zip(shown.number[row & ~shown.oracle], shown.passage[row & ~shown.oracle], strict=True))
            for row in (with_oracle, without)
        )
        assert first < second


def test_the_notebooks_counts_under_its_settings():
    index = index_of(random_counts(20_000))
    notebook = config.load(["conf/notebook.toml"]).base
    numbers = np.arange(20_000)
    shown = documents(numbers, index, notebook)
    lengths = np.bincount(shown.row, minlength=20_000)
    keep = np.isin(numbers, shown.row[shown.oracle])
    assert (lengths[keep] == index.count[keep] + 3).all()
    assert (lengths[~keep] == 3).all()


def as_rows(index: CorpusIndex, numbers: NDArray[np.int64], settings: config.Base) -> dict[int, bytes]:
    """Return what each row shows, by pubid: (pubid, passage) in order."""
    shown = drawn(numbers, index, settings)
    pairs = np.stack([index.pubid[shown.number], shown.passage], axis=1)
    ends = np.searchsorted(shown.row, np.arange(1, len(numbers)))
    parts = np.split(pairs, ends)
    return {int(index.pubid[number]): part.tobytes() for number, part in zip(numbers, parts, strict=True)}


@pytest.mark.parametrize(("absent", "draws_a_row"), [("stand_in", 3 + 0.3 * 2), ("singles", 3 + 0.3 * 4)])
def test_adding_one_percent_articles_changes_few_rows(absent: str, draws_a_row: float):
    counts = random_counts(50_500)
    before, after = index_of(counts[:50_000]), index_of(counts)
    numbers, settings = np.arange(50_000), conf(f"base.absent={absent}")
    old, new = as_rows(before, numbers, settings), as_rows(after, numbers, settings)
    changed = sum(old[pubid] != new[pubid] for pubid in old) / len(old)
    assert 0 < changed <= 1.2 * draws_a_row / 100


def test_withdrawing_an_article_changes_only_rows_that_used_it():
    counts = random_counts(5_000)
    gone = 1_234
    without = counts.copy()
    without[gone] = 0
    before = index_of(counts)
    after = CorpusIndex(np.where(without > 0, before.pubid, -1), before.first, without, before.checksum, before.offsets)
    numbers = np.delete(np.arange(5_000), gone)
    old, new = as_rows(before, numbers, conf()), as_rows(after, numbers, conf())
    shown = documents(numbers, before, conf())
    used = {int(before.pubid[number]) for number in numbers[shown.row[shown.number == gone]]}
    assert used
    assert {pubid for pubid in old if old[pubid] != new[pubid]} == used


def test_a_text_that_is_an_oracle_passage_or_stands_there_already_is_never_shown():
    counts = np.full(40, 2)
    texts = np.random.default_rng(1).integers(0, 25, 80).astype(np.uint32)  # many duplicate passages
    index = index_of(counts, texts)
    shown = documents(np.arange(40), index, conf("base.distractors=4"))
    text = index.checksum[shown.position(index)]
    for row in range(40):
        own = set(texts[2 * row : 2 * row + 2])
        drawn = text[(shown.row == row) & ~shown.oracle]
        assert not own & set(drawn)
        of_article = [
            set(text[(shown.row == row) & (shown.number == each)]) for each in set(shown.number[shown.row == row])
        ]
        assert sum(map(len, of_article)) == len(set.union(*of_article))  # an article may repeat its own text


def test_a_batch_of_rows_is_drawn_as_each_row_alone():
    index = index_of(random_counts(300))
    whole = as_rows(index, np.arange(300), conf())
    alone = {}
    for number in range(300):
        alone |= as_rows(index, np.array([number]), conf())
    assert whole == alone


def test_k_0_and_p_0_and_1():
    index = index_of(random_counts(100))
    numbers = np.arange(100)
    nothing = documents(numbers, index, conf("base.distractors=0", "base.oracle_share=0.0", "base.absent=nothing"))
    assert len(nothing.row) == 0
    only_oracle = documents(numbers, index, conf("base.distractors=0", "base.oracle_share=1.0"))
    assert only_oracle.oracle.all()
    assert len(only_oracle.row) == index.count.sum()


def test_a_split_of_one_text_ends_in_a_clear_error():
    index = index_of(np.ones(20, np.int64), np.zeros(20, np.uint32))
    with pytest.raises(InputError, match="too few different passages"):
        documents(np.arange(20), index, conf())


def test_another_seed_is_another_draw():
    index = index_of(random_counts(1_000))
    one, other = (as_rows(index, np.arange(1_000), conf(f"base.seed={seed}")) for seed in (0, 1))
    assert sum(one[pubid] == other[pubid] for pubid in one) < 10


def plain_row(number: int, index: CorpusIndex, settings: config.Base, *, keep: bool) -> list[tuple[int, int, bool]]:
    """State the rule for one row: slots are filled in turn, and draw until article and text are new to the row."""
    pubid, own = index.pubid[number], range(index.count[number])
    texts = {index.checksum[index.first[number] + passage] for passage in own}
    used, shown = {number}, [(passage, number, passage, True) for passage in own if keep]
    slots = settings.distractors + (len(own) if settings.absent == "singles" and not keep else 0)
    draws = [(slot, attempt) for slot in range(slots) for attempt in range(100)]
    filled = 0
    for slot, attempt in draws:
        if slot < filled:
            continue
        bits = hash64(settings.seed, Stream.DRAW, np.array([pubid]), slot, attempt)
        drawn = int(jump_hash(bits, index.size)[0])
        passage = int(randbelow(hash64(settings.seed, Stream.PASSAGE, bits), index.count[[drawn]])[0])
        text = index.checksum[index.first[drawn] + passage] if index.count[drawn] else None
        if text is not None and drawn not in used and text not in texts:
            shown.append((slot + 2**32, drawn, passage, False))
            used.add(drawn)
            texts.add(text)
            filled += 1
    assume(filled == slots)
    if settings.absent == "stand_in" and not keep:
        whole = plain_stand_in(number, index, settings.seed, (used, texts))
        assume(whole is not None)
        shown += [(passage, whole, passage, False) for passage in range(index.count[whole])]
    shown.sort(key=lambda each: int(hash64(settings.seed, Stream.ORDER, pubid, each[0])))
    return [each[1:] for each in shown]


def plain_stand_in(number: int, index: CorpusIndex, seed: int, known: tuple[set[int], set[int]]) -> int | None:
    """State the rule: draw of the whole split, then of those with the size, then the same with the nearest other size."""
    used, texts = known
    own, sizes = index.count[number], {int(size) for size in index.count if size}
    attempt = 0
    for size in sorted(sizes, key=lambda size: (abs(size - own), size)):
        members = [at for at, count in enumerate(index.count) if count == size]
        for among in (range(index.size), members):
            for _ in range(64):
                bits = hash64(seed, Stream.STAND_IN, np.array([index.pubid[number]]), attempt)
                drawn = among[int(jump_hash(bits, len(among))[0])]
                of_drawn = {index.checksum[index.first[drawn] + passage] for passage in range(index.count[drawn])}
                if index.count[drawn] == size and drawn not in used and not of_drawn & texts:
                    return drawn
                attempt += 1
    return None


@given(
    st.lists(st.integers(0, 3), min_size=12, max_size=16),
    st.integers(0, 2**32),
    st.sampled_from([40, 90, 2**32 - 1]),
    st.tuples(st.integers(0, 3), st.sampled_from(["one", "both"]), st.sampled_from(ABSENT), st.integers(0, 9)),
)
def test_rows_are_drawn_as_the_rule_says_one_after_the_other(counts, chance, texts, chosen):
    size = np.array(counts)
    index = index_of(size, np.random.default_rng(chance).integers(0, texts, size.sum()).astype(np.uint32))
    names = ("distractors", "variants", "absent", "seed")
    settings = conf(*(f"base.{name}={str(value).lower()}" for name, value in zip(names, chosen, strict=True)))
    numbers = np.flatnonzero(size)
    which, keep = sampling.base_rows(index.pubid[numbers], settings)
    expected = [
        plain_row(int(number), index, settings, keep=bool(kept))
        for number, kept in zip(numbers[which], keep, strict=True)
    ]
    shown = sampling.choose_documents(numbers[which], keep, index, settings)
    found = zip(shown.number.tolist(), shown.passage.tolist(), shown.oracle.tolist(), strict=True)
    assert list(found) == [document for row in expected for document in row]
    assert shown.row.tolist() == [row for row, documents in enumerate(expected) for _ in documents]


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([0, 1, 2, 2**63, 2**63 + 1, 2**64 - 1]))))
def test_documents_with_nearly_the_same_hash_stand_in_its_order(pairs):
    row, bits = (np.array([pair[at] for pair in pairs], kind) for at, kind in ((0, np.int64), (1, np.uint64)))
    assert sampling._order_in_rows(row, bits).tolist() == sorted(range(len(pairs)), key=pairs.__getitem__)
