"""The built-in articles have PubMedQA's shape, are all different, and their answers can be read off their passages."""

import math
import re
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from raft_spark.errors import InputError
from raft_spark.sources import synthetic

pytestmark = pytest.mark.row

NUMBER = re.compile(r"\d+(?:\.\d+)?")
INTERVAL = re.compile(r"interval (?:from )?(-?[\d.]+) to (-?[\d.]+)")
SHARE = re.compile(r"(\d+) of (\d+) (?:patients )?\((\d+\.\d)%\)")  # 29 of 183 patients (15.8%)
NAME = re.compile(r"(?:[bdfjklmnrstvw][aeiou]){3}(?:br|cl|dr|fl|k|ph|tr|z)(?:ax|ex|ond|ul)", re.IGNORECASE)
LAST = 8_788_000  # 65 syllables three times over, and 32 endings


@pytest.fixture(scope="module")
def rows():
    return synthetic.articles(0, 4_000, seed=1).to_pylist()


@pytest.fixture(scope="module")
def many():
    return synthetic.articles(0, 50_000, seed=1)


def name_in(question):
    (name,) = NAME.findall(question)
    return name.lower()


def passages(batch):
    return batch.column("context").field("contexts").flatten().to_pylist()


def test_the_schema_is_that_of_the_published_files():
    strings = pa.list_(pa.string())
    context = pa.struct([("contexts", strings), ("labels", strings), ("meshes", strings)])
    names = ["pubid", "question", "context", "long_answer", "final_decision"]
    expected = pa.schema(list(zip(names, [pa.int32(), pa.string(), context, pa.string(), pa.string()], strict=True)))
    assert expected == synthetic.SCHEMA
    assert synthetic.articles(0, 3, seed=1).schema == expected
    assert synthetic.articles(5, 5, seed=1).schema == expected
    assert synthetic.articles(5, 5, seed=1).num_rows == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, LAST - 60), st.integers(0, 59), st.integers(1, 60), st.integers(-(2**70), 2**70))
def test_a_row_does_not_depend_on_the_batch_it_is_in(first, skipped, length, seed):
    whole = synthetic.articles(first, first + 60, seed)
    stop = min(skipped + length, 60)
    assert synthetic.articles(first + skipped, first + stop, seed).equals(whole.slice(skipped, stop - skipped))


def test_batches_longer_than_a_piece_are_the_same_rows():
    whole = synthetic.articles(10, 2_510, seed=4)
    assert whole.num_rows == 2_500
    assert whole.slice(990, 20).equals(synthetic.articles(1_000, 1_020, seed=4))
    assert whole.slice(1_990, 20).equals(synthetic.articles(2_000, 2_020, seed=4))


def test_a_sample_is_the_same_in_every_release():
    # written down once; a change to the words or their order gives every user of a seed other articles
    row = synthetic.articles(123_456, 123_457, seed=7).to_pylist()[0]
    assert row["pubid"] == 96_492_995
    assert row["question"] == "Severe fatigue in teachers with gout: does soberebrond matter?"
    assert row["long_answer"] == (
        "In gout, soberebrond prevents severe fatigue. After 17 months the share was 37.6% in the soberebrond group "
        "and 57.8% in the placebo group."
    )
    assert row["final_decision"] == "yes"


def test_seeds_tell_different_stories():
    first, second = (synthetic.articles(0, 500, seed).to_pylist() for seed in (1, 2))
    assert not {row["question"] for row in first} & {row["question"] for row in second}
    assert sum(a["final_decision"] == b["final_decision"] for a, b in zip(first, second, strict=True)) < 350


def test_no_two_of_50_000_rows_share_a_pubid_a_question_or_a_passage(many):
    assert len(set(many.column("pubid").to_pylist())) == 50_000
    assert len(set(many.column("question").to_pylist())) == 50_000
    assert len(set(passages(many))) == len(passages(many))


def test_high_rows_work_and_do_not_meet_low_ones(many):
    high = synthetic.articles(3_000_000, 3_000_100, seed=1)
    assert not set(high.column("pubid").to_pylist()) & set(many.column("pubid").to_pylist())
    assert not set(high.column("question").to_pylist()) & set(many.column("question").to_pylist())
    assert not set(passages(high)) & set(passages(many))


def test_every_row_has_its_own_name():
    # steps without a factor in common with the codes meet each code once; a name of such parts is spelt in one way only
    assert math.gcd(synthetic.STRIDE, LAST) == 1
    assert synthetic.NAMES == LAST
    assert len(set(synthetic.SYLLABLES)) == 65
    assert {len(syllable) for syllable in synthetic.SYLLABLES} == {2}
    assert len(set(synthetic.ENDINGS)) == 32
    codes = [0, 1, 32, 32 * 65, 32 * 65 * 65, LAST - 1]
    names = ["babababrax", "babababrex", "bababebrax", "babebabrax", "bebababrax", "wuwuwuzul"]
    assert [synthetic.compound_name(code) for code in codes] == names


@settings(max_examples=50, deadline=None)
@given(st.integers(0, LAST - 1), st.integers(0, LAST - 1), st.integers(0, 2**64 - 1))
def test_any_two_rows_have_different_names(first, second, seed):
    assume(first != second)
    one, other = (synthetic.articles(row, row + 1, seed).to_pylist()[0] for row in (first, second))
    assert one["pubid"] != other["pubid"]
    assert (other["pubid"] - one["pubid"] - synthetic.STRIDE * (second - first)) % LAST == 0
    assert name_in(one["question"]) != name_in(other["question"])


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 4), (LAST, LAST + 1)])
def test_rows_that_do_not_exist_are_refused(start, stop):
    with pytest.raises(
        InputError, match=f"sample rows {start}..{stop} do not exist; 0 <= start <= stop <= 8788000 is required"
    ):
        synthetic.articles(start, stop, seed=1)


def test_articles_have_two_to_five_labelled_passages_and_no_blank_text(rows):
    for row in rows:
        context = row["context"]
        assert 2 <= len(context["contexts"]) <= 5
        assert len(context["labels"]) == len(context["contexts"])
        assert len(set(context["labels"])) == len(context["labels"])
        assert 4 <= len(set(context["meshes"])) == len(context["meshes"])
        assert all(text.strip() for texts in context.values() for text in texts)
        assert all(30 <= len(passage.split()) <= 80 for passage in context["contexts"])
        assert row["pubid"] > 90_000_000


def test_sentences_are_written_out(rows):
    for row in rows:
        assert re.fullmatch(r"[A-Z][^?{}]+[?]", row["question"])
        assert 1 <= len(re.findall(r"[.](?= |$)", row["long_answer"])) <= 3
        for text in [*row["context"]["contexts"], row["long_answer"]]:
            assert text[0].isupper()
            assert text.endswith(".")
            assert not re.search(r"[{}]|  |[.] [^A-Z]|[.][.]", text)


def test_the_question_and_every_passage_hold_the_name(rows):
    for row in rows:
        name = name_in(row["question"])
        assert all(name in passage.lower() for passage in row["context"]["contexts"])


def test_articles_are_no_clones(rows):
    assert len({tuple(row["context"]["labels"]) for row in rows}) >= 10
    openings = Counter(row["question"].split()[0] for row in rows)
    assert all(100 < openings[word] < 2_000 for word in ("Does", "Can", "In", "Is", "Over", "Should"))
    skeletons = Counter(re.sub(r"\d+|" + NAME.pattern, "", row["long_answer"], flags=re.IGNORECASE) for row in rows)
    assert skeletons.most_common(1)[0][1] <= 5
    assert any(not passage.isascii() for row in rows for passage in row["context"]["contexts"])


def test_the_numbers_of_the_answer_stand_in_the_passages(rows):
    for row in rows:
        answer = set(NUMBER.findall(row["long_answer"]))
        assert answer
        assert answer <= set(NUMBER.findall(" ".join(row["context"]["contexts"])))


def test_percentages_follow_from_the_counts_beside_them(rows):
    shares = [share for row in rows for text in row["context"]["contexts"] for share in SHARE.findall(text)]
    assert len(shares) > 2_000
    for hits, patients, percent in shares:
        assert abs(100 * int(hits) / int(patients) - float(percent)) <= 0.05 + 1e-9


def test_figures_by_hand():
    # 200 and 200 patients, 35 % in the other group and 20 points more in this one: 110 and 70 patients;
    # 1.96 * sqrt(0.55 * 0.45 / 200 + 0.35 * 0.65 / 200) = 0.0955
    counts = {"n1": 200, "n2": 200, "n": 400, "a": 110, "b": 70}
    share = {"value": "55.0", "reference": "35.0", "difference": "20.0", "gap": "20.0", "low": "10.4", "high": "29.6"}
    assert synthetic.trial_figures(20, 1.0, (200, 200), iter([0, 0, 0])) == counts | share
    mean = {"value": "11.0", "reference": "7.0", "difference": "4.0", "gap": "4.0", "low": "2.1", "high": "5.9"}
    assert synthetic.trial_figures(20, 0.2, (200, 200), iter([0, 0, 0])) == counts | mean


def test_the_decision_can_be_read_off_the_interval(many):
    for row in many.to_pylist():
        low, high = map(float, INTERVAL.search(" ".join(row["context"]["contexts"])).groups())
        assert (row["final_decision"] == "yes") == (low > 0 or high < 0)


def test_an_effect_goes_the_way_it_was_hoped_to_go(rows):
    for row in rows:
        _, high = map(float, INTERVAL.search(" ".join(row["context"]["contexts"])).groups())
        if row["final_decision"] == "yes":
            assert (high < 0) == bool(re.search("(?:prevent|reduce)s", row["long_answer"]))


def test_decisions_are_mixed_as_in_the_labelled_part(many):
    counts = Counter(many.column("final_decision").to_pylist())
    assert counts.keys() == {"yes", "no", "maybe"}
    assert counts["yes"] / 50_000 == pytest.approx(0.55, abs=0.01)
    assert counts["no"] / 50_000 == pytest.approx(0.34, abs=0.01)
