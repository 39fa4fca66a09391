"""Which records stay, in which split and under which number; numbers never change while articles come and go."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft_spark import config
from raft_spark.sources import splits
from raft_spark.sources.splits import (
    BEYOND_LIMIT,
    DUPLICATE,
    HELD_OUT,
    NO_ARTICLES,
    Assignment,
    NumberedArticles,
    Records,
    assign,
)

pytestmark = pytest.mark.row

TRAIN, VALIDATION, TEST = 0, 1, 2
MASK = 2**64 - 1


def conf(**changes: object) -> config.Articles:
    return config.load().articles.model_copy(update=changes)


ONE_SPLIT = conf(validation_share=0.0, test_share=0.0)
THIRDS = conf(validation_share=0.33, test_share=0.33)


def assigned(
    pubids: list[int],
    settings: config.Articles,
    before: NumberedArticles = NO_ARTICLES,
    texts: list[list[int]] | None = None,
) -> Assignment:
    """Assign records that each have one passage no other has, or these passages (equal numbers are equal texts)."""
    return assign(records(pubids, texts or [[10_000 + index] for index in range(len(pubids))]), settings, before)


def records(pubids: list[int], texts: list[list[int]], part: int = 3) -> Records:
    """Return records that are read `part` at a time."""
    starts = range(0, len(pubids), part)
    return Records(
        len(pubids),
        lambda: (np.array(pubids[start : start + part], np.int64) for start in starts),
        lambda: (
            (
                np.array([len(own) for own in texts[start : start + part]], np.int64),
                np.array([text for own in texts[start : start + part] for text in own], np.uint64),
            )
            for start in starts
        ),
    )


def version(pubids: list[int], assignment: Assignment) -> NumberedArticles:
    """Return what the next run finds of this one, one article at a time."""
    rows = list(zip(pubids, assignment.codes, assignment.numbers, strict=True))
    return NumberedArticles(
        assignment.sizes,
        lambda split: ((np.array([pubid]), np.array([number])) for pubid, code, number in rows if code == split),
    )


def numbers(pubids: list[int], assignment: Assignment, split: int = TRAIN) -> dict[int, int]:
    """Return number by pubid of one split."""
    rows = zip(pubids, assignment.codes, assignment.numbers, strict=True)
    return {pubid: int(number) for pubid, code, number in rows if code == split}


def share_of(pubid: int) -> float:
    """Draw as the published reference of splitmix64 does it: seed 0, stream 1, pubid."""

    def finalised(state: int) -> int:
        state = (state + 0x9E3779B97F4A7C15) & MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
        return state ^ (state >> 31)

    state = finalised(0)
    for part in (1, pubid):
        state = finalised(state ^ part)
    return (state >> 11) / 2**53


def in_split(split: int, count: int) -> list[int]:
    """Return pubids that fall into this split under THIRDS."""
    low, high = {TEST: (0, 0.33), VALIDATION: (0.33, 0.66), TRAIN: (0.66, 1)}[split]
    return [pubid for pubid in range(1, 400) if low <= share_of(pubid) < high][:count]


# Splits


def test_a_hash_of_pubid_alone_decides_on_the_split():
    pubids = [*range(300), 25429730, 2**63 - 1]
    drawn = [share_of(pubid) for pubid in pubids]
    expected = [TEST if share < 0.1 else VALIDATION if share < 0.25 else TRAIN for share in drawn]
    assert splits.split_of(np.array(pubids), conf(test_share=0.1, validation_share=0.15)).tolist() == expected
    assert assigned(pubids, conf(test_share=0.1, validation_share=0.15)).codes.tolist() == expected


def test_held_out_pubids_are_in_the_test_split_and_the_others_stay_where_they_were():
    pubids = list(range(1, 400))
    source = records(pubids, [[pubid] for pubid in pubids])
    without, with_holdout = (
        assign(source, THIRDS, NO_ARTICLES, np.array(held, np.int64)) for held in ([], [2, 5, 7, 5_000])
    )
    assert (without.held_out, with_holdout.held_out) == (0, 3)
    assert with_holdout.codes[[1, 4, 6]].tolist() == [TEST, TEST, TEST]
    assert {int(code) for code in without.codes[[1, 4, 6]]} != {TEST}
    others = np.isin(pubids, [2, 5, 7], invert=True)
    assert with_holdout.codes[others].tolist() == without.codes[others].tolist()


def test_shares_of_zero_leave_everything_to_train():
    assert assigned(list(range(100)), ONE_SPLIT).sizes == (100, 0, 0)


def test_the_splits_have_their_shares():
    sizes = assigned(list(range(50_000)), conf(test_share=0.1, validation_share=0.2)).sizes
    assert sizes == pytest.approx((35_000, 10_000, 5_000), abs=400)


# First numbers


def test_numbers_are_dense_in_pubid_order_within_each_split():
    pubids = [pubid for split in (TEST, TRAIN, VALIDATION) for pubid in reversed(in_split(split, 5))]
    assignment = assigned(pubids, THIRDS)
    for split in (TRAIN, VALIDATION, TEST):
        assert numbers(pubids, assignment, split) == {pubid: at for at, pubid in enumerate(in_split(split, 5))}
    assert assignment.sizes == (5, 5, 5)


def test_of_one_pubid_the_first_record_stays():
    assignment = assigned([7, 5, 7, 5, 7], ONE_SPLIT)
    assert assignment.codes.tolist() == [TRAIN, TRAIN, DUPLICATE, DUPLICATE, DUPLICATE]
    assert assignment.numbers.tolist() == [1, 0, -1, -1, -1]


def test_no_records_are_no_error():
    assignment = assigned([], ONE_SPLIT)
    assert assignment.sizes == (0, 0, 0)
    assert not assignment.is_kept.any()


# Held-out texts


def test_a_passage_of_test_or_validation_leaves_train_and_one_of_test_leaves_validation():
    train, validation, test = in_split(TRAIN, 3), in_split(VALIDATION, 2), in_split(TEST, 1)
    assignment = assigned(
        [*train, *validation, *test],
        THIRDS,
        texts=[[1, 100], [2, 200], [3], [4, 200], [5, 300], [6, 100, 300]],
    )
    assert assignment.codes.tolist() == [HELD_OUT, HELD_OUT, TRAIN, VALIDATION, HELD_OUT, TEST]
    assert assignment.numbers.tolist() == [-1, -1, 0, 0, -1, 0]


def test_a_text_of_a_record_that_is_itself_left_out_holds_nothing_back():
    (train,), (validation,), (test,) = in_split(TRAIN, 1), in_split(VALIDATION, 1), in_split(TEST, 1)
    duplicate_of_test = test
    assignment = assigned(
        [train, validation, test, duplicate_of_test], THIRDS, texts=[[1, 8, 9], [2, 9, 300], [300], [8]]
    )
    assert assignment.codes.tolist() == [TRAIN, HELD_OUT, TEST, DUPLICATE]
    assert assignment.numbers.tolist() == [0, -1, 0, -1]


def test_texts_may_be_shared_within_a_split():
    assert assigned([1, 2, 3], ONE_SPLIT, texts=[[1, 1], [1], [1, 2]]).sizes == (3, 0, 0)


# Limit


@given(st.lists(st.integers(0, 500), max_size=60), st.integers(1, 60), st.integers(0, 20))
@settings(deadline=None, max_examples=50)
def test_a_larger_limit_only_adds(pubids: list[int], limit: int, more: int):
    texts = [[pubid % 40] for pubid in pubids]  # so that some leak
    few = assigned(pubids, THIRDS.model_copy(update={"limit": limit}), texts=texts)
    many = assigned(pubids, THIRDS.model_copy(update={"limit": limit + more}), texts=texts)
    everything = assigned(pubids, THIRDS, texts=texts)
    assert few.is_kept.sum() == min(limit, everything.is_kept.sum())
    assert not (few.is_kept & ~many.is_kept).any()
    assert ((few.codes == BEYOND_LIMIT) == (everything.is_kept & ~few.is_kept)).all()
    assert (few.codes[few.is_kept] == many.codes[few.is_kept]).all()


def test_a_limit_does_not_depend_on_the_order_of_the_records():
    pubids = list(range(1_000))
    forwards = assigned(pubids, conf(limit=100))
    backwards = assigned(pubids[::-1], conf(limit=100))
    assert (forwards.codes.tolist(), forwards.numbers.tolist()) == (
        backwards.codes.tolist()[::-1],
        backwards.numbers.tolist()[::-1],
    )


def test_a_limit_takes_from_all_over():
    kept = np.flatnonzero(assigned(list(range(10_000)), conf(limit=1_000)).is_kept)
    assert abs(kept.mean() - 5_000) < 400  # four standard errors


# Later runs


def test_old_numbers_stay_and_new_articles_are_appended_in_pubid_order():
    first = [20, 40, 60]
    again = [50, 60, 10, 40, 20]
    assignment = assigned(again, ONE_SPLIT, version(first, assigned(first, ONE_SPLIT)))
    assert numbers(again, assignment) == {20: 0, 40: 1, 60: 2, 10: 3, 50: 4}
    assert assignment.sizes == (5, 0, 0)


def test_a_withdrawn_articles_number_stays_empty_and_is_not_given_again():
    first, second, third = [1, 2, 3, 4], [1, 2, 4], [1, 2, 4, 9]
    after_second = assigned(second, ONE_SPLIT, version(first, assigned(first, ONE_SPLIT)))
    assert numbers(second, after_second) == {1: 0, 2: 1, 4: 3}
    assert after_second.sizes == (4, 0, 0)
    after_third = assigned(third, ONE_SPLIT, version(second, after_second))
    assert numbers(third, after_third) == {1: 0, 2: 1, 4: 3, 9: 4}


def test_the_last_articles_number_is_not_given_again_either():
    first, second, third = [1, 2, 3], [1, 2], [1, 2, 5]
    after_second = assigned(second, ONE_SPLIT, version(first, assigned(first, ONE_SPLIT)))
    assert numbers(third, assigned(third, ONE_SPLIT, version(second, after_second))) == {1: 0, 2: 1, 5: 3}


def test_half_of_the_numbers_in_use_are_kept_and_fewer_are_given_anew():
    four, five = [1, 2, 3, 4], [1, 2, 3, 4, 5]
    half = assigned([3, 4, 7], ONE_SPLIT, version(four, assigned(four, ONE_SPLIT)))
    assert numbers([3, 4, 7], half) == {3: 2, 4: 3, 7: 4}
    fewer = assigned([3, 4, 7], ONE_SPLIT, version(five, assigned(five, ONE_SPLIT)))
    assert numbers([3, 4, 7], fewer) == {3: 0, 4: 1, 7: 2}
    assert fewer.sizes == (3, 0, 0)


def test_each_split_is_numbered_anew_on_its_own():
    train, test = in_split(TRAIN, 4), in_split(TEST, 4)
    first = [*train, *test]
    before = version(first, assigned(first, THIRDS))
    second = [*train[1:], test[3]]
    assignment = assigned(second, THIRDS, before)
    assert numbers(second, assignment, TRAIN) == {train[1]: 1, train[2]: 2, train[3]: 3}
    assert numbers(second, assignment, TEST) == {test[3]: 0}
    assert assignment.sizes == (4, 0, 1)


def test_an_article_that_other_shares_move_is_appended_where_it_comes():
    pubids = [*in_split(TRAIN, 6), *in_split(VALIDATION, 2)]
    before = version(pubids, assigned(pubids, THIRDS))
    moved = assigned(pubids, THIRDS.model_copy(update={"validation_share": 0.0}), before)
    first, second = sorted(in_split(VALIDATION, 2))
    assert numbers(pubids, moved) == {pubid: at for at, pubid in enumerate([*in_split(TRAIN, 6), first, second])}


def test_a_split_that_is_left_empty_starts_anew():
    first = [1, 2]
    emptied = assigned([], ONE_SPLIT, version(first, assigned(first, ONE_SPLIT)))
    assert emptied.sizes == (0, 0, 0)


def test_the_order_of_the_version_before_does_not_matter():
    before = NumberedArticles((4, 0, 0), lambda split: [(np.array([9, 3, 6]), np.array([1, 0, 2]))][split:])
    assert numbers([3, 6, 7, 9], assigned([3, 6, 7, 9], ONE_SPLIT, before)) == {3: 0, 9: 1, 6: 2, 7: 4}


batches = st.lists(st.lists(st.integers(0, 30), max_size=30), min_size=1, max_size=5)


@given(batches)
@settings(deadline=None, max_examples=50)
def test_through_any_history_numbers_are_unique_below_size_and_every_record_is_accounted_for(history: list[list[int]]):
    before = NO_ARTICLES
    for pubids in history:
        assignment = assigned(pubids, THIRDS, before, texts=[[pubid // 2] for pubid in pubids])
        left_out = Counter(assignment.codes[assignment.codes < 0].tolist())
        assert set(left_out) <= {DUPLICATE, HELD_OUT}
        assert left_out[DUPLICATE] == len(pubids) - len(set(pubids))
        assert left_out.total() + assignment.is_kept.sum() == len(pubids)
        for split in (TRAIN, VALIDATION, TEST):
            given_out = numbers(pubids, assignment, split)
            assert len(set(given_out.values())) == len(given_out)
            assert all(0 <= number < assignment.sizes[split] for number in given_out.values())
            old = {int(pubid): int(number) for (pubid,), (number,) in before.parts(split)}
            same = {pubid: old[pubid] for pubid in given_out if pubid in old}
            if 2 * len(same) >= before.sizes[split]:
                assert {pubid: given_out[pubid] for pubid in same} == same
                assert all(given_out[pubid] >= before.sizes[split] for pubid in given_out if pubid not in old)
        before = version(pubids, assignment)


texts_of_a_record = st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 2**64 - 1]), max_size=3)
many_records = st.lists(st.tuples(st.integers(1, 15), texts_of_a_record), max_size=40)


def by_the_rule(found: list[tuple[int, list[int]]], holdout: set[int]) -> list[int]:
    """Return the code of each record, one record after another."""
    codes, held_back = [DUPLICATE] * len(found), set[int]()
    first = {found[at][0]: at for at in reversed(range(len(found)))}.values()
    for split in (TEST, VALIDATION, TRAIN):
        own = [at for at in first if (TEST if found[at][0] in holdout else split_by_share(found[at][0])) == split]
        for at in own:
            codes[at] = HELD_OUT if held_back & set(found[at][1]) else split
        held_back |= {text for at in own if codes[at] == split for text in found[at][1]}
    return codes


def split_by_share(pubid: int) -> int:
    return TEST if share_of(pubid) < 0.33 else VALIDATION if share_of(pubid) < 0.66 else TRAIN


@given(many_records, st.sets(st.integers(1, 15), max_size=5), st.integers(1, 50))
@settings(deadline=None, max_examples=200)
def test_records_in_parts_of_any_size_have_the_codes_of_the_rule(
    found: list[tuple[int, list[int]]], holdout: set[int], part: int
):
    pubids, texts = [pubid for pubid, _ in found], [own for _, own in found]
    held = np.array(sorted(holdout), np.int64)
    assignment = assign(records(pubids, texts, part), THIRDS, NO_ARTICLES, held)
    assert assignment.codes.tolist() == by_the_rule(found, holdout)
    assert assignment.held_out == len(holdout & set(pubids))
