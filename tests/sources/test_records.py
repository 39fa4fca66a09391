"""A record becomes an article or a reason; whatever a source holds, never an exception."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft_spark import config
from raft_spark.sources.records import Article, Rejected, check_record, leak_digests

pytestmark = pytest.mark.row

CONF = config.load().articles
SMALL = CONF.model_copy(update={"max_passages": 3, "max_text_chars": 100})
GOOD = {
    "pubid": 25429730,
    "question": " Are group 2 innate lymphoid cells increased?\n",
    "context": {"contexts": ["\tChronic rhinosinusitis. ", "ILC2s were counted."], "labels": ["BACKGROUND", "METHODS"], "meshes": [" Adult "]},
    "long_answer": " They are. ",
    "final_decision": "yes",
}  # fmt: skip


def good(**changes: object) -> dict[str, object]:
    """Return the good record with other values; `contexts`, `labels` and `meshes` go where they belong."""
    inner = {name: value for name, value in changes.items() if name in {"contexts", "labels", "meshes"}}
    outer = {name: value for name, value in changes.items() if name not in inner}
    return {**GOOD, "context": {**GOOD["context"], **inner}, **outer}


def without(*names: str) -> dict[str, object]:
    return {name: value for name, value in GOOD.items() if name not in names}


def test_a_good_record_is_kept_with_its_texts_stripped():
    article = check_record(GOOD, CONF)
    assert isinstance(article, Article)
    assert article._replace(fingerprint="") == Article(
        pubid=25429730,
        question="Are group 2 innate lymphoid cells increased?",
        passages=["Chronic rhinosinusitis.", "ILC2s were counted."],
        labels=["BACKGROUND", "METHODS"],
        meshes=["Adult"],
        long_answer="They are.",
        final_decision="yes",
        fingerprint="",
    )


def test_texts_as_bytes_are_the_same_texts():
    context = {name: [text.encode() for text in texts] for name, texts in GOOD["context"].items()}
    as_bytes = {
        "pubid": GOOD["pubid"],
        **{name: GOOD[name].encode() for name in ("question", "long_answer", "final_decision")},
    }
    assert check_record({**as_bytes, "context": context}, CONF) == check_record(GOOD, CONF)


@pytest.mark.parametrize(("given", "kept"), [("Yes", "yes"), (" NO\n", "no"), (b"MAYBE", "maybe")])
def test_a_decision_may_be_in_capitals(given: object, kept: str):
    article = check_record(good(final_decision=given), CONF)
    assert isinstance(article, Article)
    assert article == check_record(good(final_decision=kept), CONF)
    assert article.final_decision == kept


@pytest.mark.parametrize("missing", [None, "", "  ", float("nan")])
def test_the_answers_are_optional(missing: object):
    article = check_record(good(long_answer=missing, final_decision=missing), CONF)
    assert isinstance(article, Article)
    assert (article.long_answer, article.final_decision) == (None, None)


def test_labels_meshes_and_answers_may_be_absent():
    article = check_record({"pubid": 0, "question": "q", "context": {"contexts": ["p"]}}, CONF)
    assert isinstance(article, Article)
    assert (article.pubid, article.labels, article.meshes, article.long_answer) == (0, [], [], None)


def test_other_columns_do_not_matter():
    assert check_record(good(YEAR="2015", reasoning_required_pred=object()), CONF) == check_record(GOOD, CONF)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (without("pubid"), "no pubid"),
        (good(pubid=None), "no pubid"),
        (good(pubid=True), "wrong type: pubid is bool"),
        (good(pubid=1.0), "wrong type: pubid is float"),
        (good(pubid="1"), "wrong type: pubid is text"),
        (good(pubid=b"1"), "wrong type: pubid is text"),
        (good(pubid=[1]), "wrong type: pubid is a list"),
        (good(pubid=-1), "pubid is out of range"),
        (good(pubid=2**63), "pubid is out of range"),
        (without("question"), "no question"),
        (good(question=None), "no question"),
        (good(question=" \n\t\u00a0\u2003"), "no question"),
        (good(question=7), "wrong type: question is int"),
        (good(question=["q"]), "wrong type: question is a list"),
        (good(question={"text": "q"}), "wrong type: question is a table"),
        (without("context"), "no passage"),
        (good(context=None), "no passage"),
        (good(context={}), "no passage"),
        (good(contexts=None), "no passage"),
        (good(contexts=[]), "no passage"),
        (good(context="text"), "wrong type: context is text"),
        (good(context=[]), "wrong type: context is a list"),
        (good(context=0), "wrong type: context is int"),
        (good(contexts="one text"), "wrong type: contexts is text"),
        (good(contexts={"0": "a"}), "wrong type: contexts is a table"),
        (good(contexts=["a", 5]), "wrong type: contexts is int"),
        (good(contexts=["a", ["b"]]), "wrong type: contexts is a list"),
        (good(contexts=["a", ""]), "blank passage"),
        (good(contexts=["a", " \n"]), "blank passage"),
        (good(contexts=["a", None]), "blank passage"),
        (good(labels="METHODS"), "wrong type: labels is text"),
        (good(labels=[1]), "wrong type: labels is int"),
        (good(meshes=[["Adult"]]), "wrong type: meshes is a list"),
        (good(long_answer=3.5), "wrong type: long_answer is float"),
        (good(final_decision="perhaps"), "final_decision is not yes, no or maybe"),
        (good(final_decision="Yes!"), "final_decision is not yes, no or maybe"),
        (good(pubid=float("nan")), "no pubid"),
        (good(question=float("nan")), "no question"),
        (good(context=float("nan")), "no passage"),
        (good(contexts=["a", float("nan")]), "blank passage"),
        (good(final_decision=True), "wrong type: final_decision is bool"),
        (good(question=b"caf\xe9"), "invalid UTF-8 in question"),
        (good(contexts=[b"\xff\xfe"]), "invalid UTF-8 in contexts"),
        (good(labels=[b"\xc0\x80"]), "invalid UTF-8 in labels"),
        (good(long_answer=b"\xed\xa0\x80"), "invalid UTF-8 in long_answer"),
        (good(question="half \ud83d of a pair"), "invalid UTF-8 in question"),
        (good(contexts=["\udcff"]), "invalid UTF-8 in contexts"),
        ([GOOD], "wrong type: the record is a list"),
        ("text", "wrong type: the record is text"),
        (None, "wrong type: the record is NoneType"),
        (5, "wrong type: the record is int"),
    ],
)
def test_a_bad_record_is_rejected_with_its_reason(record: object, reason: str):
    rejected = check_record(record, CONF)
    assert isinstance(rejected, Rejected)
    assert rejected.reason == reason


def test_a_rejected_record_keeps_its_pubid_where_it_has_one():
    assert check_record(good(question=""), CONF) == Rejected(25429730, "no question")
    assert check_record(good(pubid="x"), CONF) == Rejected(None, "wrong type: pubid is text")


@pytest.mark.parametrize("name", ["question", "long_answer", "contexts", "labels", "meshes"])
def test_a_text_of_max_text_chars_is_kept_and_a_longer_one_is_not(name: str):
    def of_length(size: int) -> dict[str, object]:
        text = "\u00e9" * size  # characters count, not bytes
        return good(**{name: [text] if name in GOOD["context"] else text})

    assert isinstance(check_record(of_length(100), SMALL), Article)
    assert check_record(of_length(101), SMALL) == Rejected(25429730, f"{name} is too long")


def test_an_article_of_max_passages_is_kept_and_one_with_more_is_not():
    assert isinstance(check_record(good(contexts=["a", "b", "c"]), SMALL), Article)
    assert check_record(good(contexts=["a", "b", "c", "d"]), SMALL) == Rejected(25429730, "too many passages")


def decoding_error(line: bytes) -> ValueError:
    try:
        json.loads(line.decode())
    except ValueError as error:
        return error
    raise AssertionError(line)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"pubid": 1,', "invalid JSON"),
        (b"not json", "invalid JSON"),
        (b'{"pubid": ' + b"9" * 5_000 + b"}", "invalid JSON"),  # beyond what Python takes for a number
        (b'{"question": "caf\xe9"}', "invalid UTF-8 in the line"),
    ],
)
def test_a_broken_line_is_rejected_with_its_reason(line: bytes, reason: str):
    assert check_record(decoding_error(line), CONF) == Rejected(None, reason)


@pytest.mark.parametrize(
    "change",
    [
        {"question": "Another?"},
        {"contexts": ["ILC2s were counted.", "Chronic rhinosinusitis."]},
        {"contexts": ["Chronic rhinosinusitis. ILC2s were counted."]},
        {"labels": ["BACKGROUND"]},
        {"labels": ["BACKGROUND", "METHODS", "Adult"], "meshes": []},
        {"meshes": []},
        {"long_answer": None},
        {"final_decision": "no"},
    ],
)
def test_the_fingerprint_changes_with_every_field(change: dict[str, object]):
    before, after = check_record(GOOD, CONF), check_record(good(**change), CONF)
    assert isinstance(before, Article)
    assert isinstance(after, Article)
    assert before.fingerprint != after.fingerprint


def test_the_fingerprint_is_the_same_in_every_run_and_release():
    article = check_record({"pubid": 1, "question": "q", "context": {"contexts": ["p"]}}, CONF)
    assert isinstance(article, Article)
    # printf '["q", ["p"], [], [], null, null]' | b2sum -l 128
    assert article.fingerprint == "9e0a70e58c9fde6d6a055e3742d940bd"


FOLLOWED = "Forty men were followed for two years."
TWO_YEARS = "A two-year study of forty men."


def hashes(*passages: str, question: str = "Why?") -> list[int]:
    found = check_record({"pubid": 1, "question": question, "context": {"contexts": list(passages)}}, CONF)
    assert isinstance(found, Article)
    return [int.from_bytes(digest) for digest in leak_digests([found.question, *found.passages]) if digest]


@pytest.mark.parametrize(
    ("passage", "held_out"),
    [
        ("Forty men  were followed for two years.", FOLLOWED),
        ("Forty\u00a0men were\nfollowed for two years.", FOLLOWED),
        ("FORTY MEN WERE FOLLOWED FOR TWO YEARS.", FOLLOWED),
        ("Forty men were followed for two years", FOLLOWED),
        (" Forty men were fol\u00adlowed for two years...", FOLLOWED),
        ("A two\u2013year study of forty men.", TWO_YEARS),
        ("A two\u2011year study of forty men.", TWO_YEARS),
        ("Two centres in Que\u0301bec enrolled forty-one men.", "Two centres in Qu\u00e9bec enrolled forty-one men."),
        ("In 40 men the \u201crisk\u201d was high (p &lt; 0.05).", 'In 40 men the "risk" was high (p < 0.05).'),
    ],
)
def test_texts_that_say_the_same_have_the_same_hash(passage: str, held_out: str):
    assert hashes(passage) == hashes(held_out)
    assert hashes(held_out) == hashes("None.", question=passage)
    assert len(hashes(held_out)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "None.",
        "Case series.",
        "Randomized controlled trial.",
        "Not applicable.",
        "A prospective randomized clinical study.",
        "University Level I trauma center.",
        "This was a cross-sectional study.",
        "Melbourne, Australia.",
        "NCT00816829.",
    ],
)
def test_boilerplate_is_no_leak(text: str):
    assert hashes(text) == []


def test_other_texts_have_other_hashes():
    # printf 'forty men were followed for two years' | b2sum -l 64
    assert hashes(FOLLOWED) == [0x3011B1887AF72D2E]
    assert len({*hashes(FOLLOWED), *hashes(TWO_YEARS), *hashes(FOLLOWED.replace("two", "three"))}) == 3


texts = st.text(max_size=5) | st.binary(max_size=5) | st.sampled_from(["\ud800", "yes", " ", b"\xff"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
nearly_good = st.fixed_dictionaries(
    {},
    optional={
        "pubid": values | st.integers(-1, 2**64),
        "question": values | texts,
        "context": values
        | st.fixed_dictionaries(
            {}, optional={name: values | st.lists(texts) for name in ("contexts", "labels", "meshes")}
        ),
        "long_answer": values | texts,
        "final_decision": values | texts,
    },
)


@settings(deadline=None)
@given(values | nearly_good)
def test_anything_gives_an_article_or_a_reason(record: object):
    found = check_record(record, SMALL)
    if isinstance(found, Rejected):
        assert found.reason
        return
    assert 0 <= found.pubid < 2**63
    assert found.question == found.question.strip() != ""
    assert 1 <= len(found.passages) <= 3
    assert all(text == text.strip() != "" for text in found.passages)
    assert found.final_decision in {"yes", "no", "maybe", None}
    " ".join([found.question, *found.passages, *found.labels, *found.meshes, found.long_answer or ""]).encode()
