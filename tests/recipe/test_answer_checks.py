"""What is wrong with a completion is found: quotes that nobody wrote, no answer, another decision; and only that."""

import html
import re
import unicodedata

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from raft_spark import config
from raft_spark.inference import acceptance
from raft_spark.recipe import answer_checks, quote_search
from raft_spark.scoring import scores

pytestmark = pytest.mark.row

ORACLE = (
    "Aspirin was given to 40 patients \u2014 20 of them women.\n\n"
    "Pain fell by 30% (95% CI 21\u201339) within two hours, and \u201cno harm\u201d was seen."
)
GOOD = (
    "The trial was small. ##begin_quote##Pain fell by 30% (95% CI 21-39) within two hours##end_quote## That is a clear effect.\n"
    "<ANSWER>: Yes, within two hours."
)


def reasons(completion: str, final_decision: str | None = "yes", *assignments: str) -> list[str]:
    conf = config.load(assignments=["completions.style=cot", *assignments])
    return found(completion, final_decision, conf)


def found(completion: str, final_decision: str | None, conf: config.Config) -> list[str]:
    checked = answer_checks.check_answer(completion, ORACLE, final_decision, conf.completions, conf.dataset)
    return [each.reason for each in checked]


def with_quote(text: str) -> str:
    return f"So it is: ##begin_quote##{text}##end_quote##\n<ANSWER>: Yes."


def test_a_good_thought_has_nothing_wrong_with_it():
    assert reasons(GOOD) == []
    assert answer_checks.parse(GOOD).answer == "Yes, within two hours."
    assert answer_checks.parse(GOOD).quotes == ("Pain fell by 30% (95% CI 21-39) within two hours",)


@pytest.mark.parametrize(
    "quote",
    [
        "Aspirin was given to 40 patients \u2014 20 of them women",
        "Aspirin was  given to\n40 patients - 20 of them women.",
        "\u201cno harm\u201d was seen",
        '"no harm" was seen...',
        "Aspirin was given to 40 pati\u00adents",
        "Aspirin\u00a0was given to \uff14\uff10 patients",
        "Pain fell by 30% ( 95% CI 21 - 39 )",
    ],
)
def test_a_quote_may_differ_in_spaces_dashes_and_quotation_marks(quote: str):
    assert reasons(with_quote(quote)) == []


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (with_quote("Pain fell by 31% (95% CI 21-39)"), ["false quote"]),
        (with_quote("Aspirin was Given to 40 patients"), ["false quote"]),
        (with_quote("Aspirin was given ... by 30% (95% CI 21-39)"), ["false quote"]),
        (with_quote("Pain fell"), ["no quote"]),
        ("It is so.\n<ANSWER>: Yes.", ["no quote"]),
        ("##begin_quote##Pain fell by 30% (95% CI\n<ANSWER>: Yes.", ["broken quote", "no quote"]),
        ("Pain fell##end_quote## by 30%.\n<ANSWER>: Yes.", ["broken quote", "no quote"]),
        (GOOD.replace("##end_quote##", "##begin_quote##"), ["broken quote", "no quote"]),
        ("##Begin_Quote##All died##End_Quote## " + GOOD, ["broken quote"]),
        ("## begin_quote ##All died## end quote ## " + GOOD, ["broken quote"]),
        ("##begin_quote##...##end_quote## " + GOOD, ["broken quote"]),
        (GOOD.partition("<ANSWER>")[0], ["no answer line"]),
        (GOOD.partition(" Yes")[0], ["no answer line"]),
        (GOOD + "\nMore of it.", ["no answer line"]),
        (GOOD + "\n<ANSWER>: No.", ["no answer line"]),
        (GOOD.replace("Yes, within", "I don't know, within"), ["refusal"]),
        (GOOD.replace("Yes", "No"), ["another decision"]),
        (GOOD.replace("Yes", "MAYBE"), ["another decision"]),
        (GOOD.replace("Yes,", "_No_,"), ["another decision"]),
        (GOOD.replace("Yes,", "Answer: **No**,"), ["another decision"]),
        (GOOD.replace("Yes, within two hours", "No it does not"), ["another decision"]),
        (GOOD.replace("Yes, within two hours", "No harm was seen"), []),
        (GOOD.replace("Yes, within two hours", "No-reflow is a predictor of death, so yes"), []),
    ],
)
def test_what_is_wrong_is_named(completion: str, expected: list[str]):
    assert reasons(completion) == expected


def test_an_answer_without_a_decision_is_wrong_only_where_one_was_asked_for():
    open_answer = GOOD.replace("Yes, within", "Within")
    assert reasons(open_answer) == []
    assert reasons(open_answer, "yes", "completions.decision=true") == ["no decision"]
    assert reasons(GOOD.replace("Yes", "No"), None) == []
    assert reasons(GOOD.replace("Yes", "No. I don't know"), "no", "completions.decision=true") == ["refusal"]


CITING = "completions.passage_marks=numbers"


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (GOOD.replace("small.", "small [1]. So it was [2]."), []),
        (GOOD.replace("small.", "small [1, 2]."), []),
        (GOOD.replace("small.", "small [3]."), ["false citation"]),  # the oracle has two passages
        (GOOD.replace("small.", "small [0]."), ["false citation"]),
        (GOOD.replace("hours.", "hours [1-3]."), ["false citation"]),
        (GOOD.replace("small.", "small [95% CI 3-4], of [2019]."), []),
        ("It fell: ##begin_quote##no harm [12] was seen in [3]##end_quote##\n<ANSWER>: Yes.", ["false quote"]),
    ],
)
def test_a_citation_must_name_a_passage_that_the_teacher_was_shown(completion: str, expected: list[str]):
    assert reasons(completion, "yes", CITING) == expected
    assert "false citation" not in reasons(completion)
    assert "false citation" not in reasons(completion, "yes", "completions.passage_marks=tags")


def test_a_false_citation_is_rejected_flagged_or_let_be():
    row = {
        "completion": GOOD.replace("small.", "small [3]."),
        "oracle": ORACLE,
        "final_decision": "yes",
        "finish_reason": "stop",
    }
    for action, expected in {
        "reject": acceptance.Acceptance(("false citation",)),
        "flag": acceptance.Acceptance((), ("false citation",)),
        "off": acceptance.Acceptance(),
    }.items():
        conf = config.load(assignments=["completions.style=cot", CITING, f"dataset.gate.citation={action}"])
        assert acceptance.judge_answer(row, conf.dataset, conf.completions) == expected
    assert config.load().dataset.gate.citation == "reject"


DECISIONS = {  # decision -> beginnings of answers
    "yes": """yes.|YES|**Yes**, because|(yes)|'Yes'|\u201cYes\u201d|\u00abYes\u00bb|\u200bYes|\ufeffYes|Yes\u2026|Yes\u2014it does|Yes-it does
        Yes it does|yes\\nbecause|A: yes|Answer: **Yes**|**Answer:** Yes|Answer - yes|Answer is yes|The answer is yes|Decision: yes
        My final answer is: yes|Verdict: yes|In conclusion, yes|Overall, yes|Therefore, yes|I would say yes|I\u2019d say yes|I think yes
        Based on the passage, yes|According to the given context, yes, it does|Yes, no harm was seen.|Yes, yes.|Yes. No harm was seen.""",
    "no": """No|NO!|No, it does not|No it does not|No they do not|No because it fell|No the drug does not work|No-it does not|No\u2026
        No\u2014it does not|**No**, it|No\\nThe drug failed|No. 45% of them died|No, no.|No. Maybe larger trials help.|The answer is no.
        In conclusion, no, it does not""",
    "maybe": """Maybe|maybe: it|Maybe the drug works.|Maybe, maybe not|Answer: maybe|Possibly.|Perhaps, in women|Possibly; more are needed
        Maybe. No significant effect was found""",
    None: """Yesterday|Nope.|Noninvasive|None|Not really|Probably yes|It is unclear|It depends.|No evidence supports it.|No harm was seen.
        No significant difference was found.|No-one|No other than|No longer|No doubt it helps.|Answer: no difference.|Yes and no|yes or no
        In conclusion, no difference was found.|I would say no harm was done|Yes/No|maybe/no|Maybe yes|Yes, no, maybe|Yes, but no.
        Neither yes nor no|Perhaps the drug works.|Possibly the most frequent cause| """,
}


@pytest.mark.parametrize("decision", DECISIONS)
def test_a_decision_is_what_an_answer_begins_with(decision: str | None):
    answers = [line.replace("\\n", "\n") for line in re.split(r"\||\n\s*", DECISIONS[decision])]
    assert {answer: answer_checks.read_decision(answer) for answer in answers} == dict.fromkeys(answers, decision)


def test_dataset_and_evaluation_read_the_same_decision():
    plain = config.load(assignments=["completions.decision=true"])
    assert found("No significant difference was found.", "no", plain) == ["no decision"]
    assert scores.score("No significant difference was found.", "", [], [], "answer")["decision"] is None
    assert found("In conclusion, yes.", "no", plain) == ["another decision"]
    assert scores.score("In conclusion, yes.", "", [], [], "answer")["decision"] == "yes"


def test_a_plain_answer_needs_no_quote():
    conf = config.load()
    assert found("It works.", "yes", conf) == []
    assert found("No, it does not.", "yes", conf) == ["another decision"]


def test_a_quote_may_differ_by_as_much_as_the_settings_say_and_no_more():
    two_of_thirty = with_quote("Paln fell by 30% (95% CI 21-39) wlthin")
    assert reasons(two_of_thirty) == ["false quote"]
    assert reasons(two_of_thirty, "yes", "dataset.quote_distance=0.05") == ["false quote"]
    assert reasons(two_of_thirty, "yes", "dataset.quote_distance=0.07") == []
    longer = with_quote(f"{ORACLE} And more, that nobody has written down anywhere.")
    assert reasons(longer, "yes", "dataset.quote_distance=0.5") == ["false quote"]
    longer = with_quote(f"{ORACLE} So.")
    assert reasons(longer, "yes", "dataset.quote_distance=0.05") == ["false quote"]


def test_answers_that_are_too_short_or_too_long_are_found():
    assert reasons(GOOD, "yes", "dataset.min_words=5") == ["too short"]
    assert reasons(GOOD, "yes", "dataset.min_words=4", "dataset.max_words=4") == []
    assert reasons(GOOD, "yes", "dataset.max_words=3") == ["too long"]


def test_an_answer_in_another_language_is_found_where_that_is_looked_at():
    german = config.load(assignments=["dataset.gate.language=reject"])
    answer = "Ja, die Behandlung hat bei den meisten Kindern geholfen, und niemand kam zu Schaden."
    assert found(answer, None, german) == ["another language"]
    assert found(answer, None, config.load()) == []
    assert found(answer, None, config.load(assignments=["dataset.gate.language=reject", "dataset.language=de"])) == []
    assert found("Ja, es half.", None, german) == []  # too short to tell


words = st.text(st.characters(codec="utf-8", exclude_characters="#<"), min_size=1, max_size=200)


@given(words, st.integers(0, 10), st.integers(7, 20))
def test_whatever_stands_in_the_oracle_may_be_quoted(around: str, begin: int, length: int):
    passage, begin = (ORACLE.split("\n\n")[begin % 2], begin // 2 * (begin % 2 == 0))
    quote = " ".join(passage.split()[begin : begin + length])
    assert reasons(f"{around}\n##begin_quote##{quote}##end_quote##\n<ANSWER>: Yes.") == []


@pytest.mark.parametrize(
    ("oracle", "quote"),
    [
        ("95% of patients improved under aspirin", "5% of patients improved under aspirin"),
        ("Surgery was ineffective in reducing mortality", "effective in reducing mortality"),
        ("They took 0.5 mg daily for all the weeks", "5 mg daily for all the weeks"),
        ("In all patients pain fell by 30.5%", "In all patients pain fell by 30"),
        ("In all patients pain fell by 1,300", "In all patients pain fell by 1"),
        ("The patients who improved markedly", "The patients who improve"),
        ("They took .5 mg daily for all the weeks", "5 mg daily for all the weeks"),
        ("They took 5 mg daily for all the weeks", ".5 mg daily for all the weeks"),
        ("They took 0\u00b75 mg daily for all the weeks", "5 mg daily for all the weeks"),
        ("It changed by \u22125 % of the baseline", "5 % of the baseline"),
        ("It changed by 10-5 % of the baseline", "-5 % of the baseline"),
        (
            "\u0395\u03af\u03bd\u03b1\u03b9 \u03b1\u03c3\u03c6\u03b1\u03bb\u03ad\u03c2 \u03c6\u03ac\u03c1\u03bc\u03b1\u03ba\u03bf",
            "\u03b1\u03bb\u03ad\u03c2 \u03c6\u03ac\u03c1\u03bc\u03b1\u03ba\u03bf",
        ),
    ],
)
@pytest.mark.parametrize("distance", [0.0, 0.01])
def test_a_quote_that_begins_or_ends_within_a_word_or_number_is_false(oracle: str, quote: str, distance: float):
    assert not quote_search.contains_quote(
        quote_search.comparable_quote(quote), quote_search.QuoteSearch(quote_search.normalize(oracle)), distance
    )
    assert scores.locate_quotes([quote], [oracle], []) == ["nowhere"]


@pytest.mark.parametrize(
    ("oracle", "quote"),
    [
        ("Dose: 5, 10 and 20 mg daily", "5, 10 and 20 mg"),
        ("It fell by 30%, then by 40 %.", "fell by 30%, then by 40"),
        ("The mean was 30.Patients improved in a week", "Patients improved in a week"),
        ("In a week it improved in most patients.12", "improved in most patients"),
        ("They took .5 mg daily for all the weeks", "...took .5 mg daily for all the weeks..."),
        ("They took .5 mg daily for all the weeks", ".5 mg daily for all the weeks"),
        ("Pain fell by 30% within two hours", "\u201cPain fell by 30% within two hours\u201d"),
        ("Pain fell by 30% within two hours", "**Pain fell by 30% within two hours.**"),
        ("of 21-39 patients in all centres", "39 patients in all centres"),
        (
            "\u8be5\u6cbb\u7597\u5bf9\u5927\u591a\u6570\u60a3\u8005\u662f\u6709\u6548\u7684\u5e76\u4e14\u5b89\u5168",
            "\u5bf9\u5927\u591a\u6570\u60a3\u8005\u662f\u6709\u6548\u7684\u5e76\u4e14",
        ),  # no spaces between words
    ],
)
@pytest.mark.parametrize("distance", [0.0, 0.01])
def test_a_quote_from_edge_to_edge_stands(oracle: str, quote: str, distance: float):
    assert quote_search.contains_quote(
        quote_search.comparable_quote(quote), quote_search.QuoteSearch(quote_search.normalize(oracle)), distance
    )


PASSAGES = (
    "Methods were given elsewhere.\n\nOf 1,234 patients (beta-blocker group, n = 612), 30.5% were well at 12 weeks; the dose was not "
    "markedly different in non-drinkers, but only in the younger group (p < 0.05). Giving 0.5 mg of drug Y moved the score by -2.4 "
    "points, whereas in significant disease it rose to \u2265 7 (HLA-B*27 \u00b1 2)."
)


@pytest.mark.parametrize("distance", ["0", "0.3"])
@pytest.mark.parametrize(
    ("quote", "is_faithful"),
    [
        ("Giving 0.5 mg of drug Y moved the score by -2.4 points", True),
        ("giving 0.5 mg of drug Y moved the score by \u22122.4 points", True),
        ("Giving 0.5 mg of drug Y ... rose to \u2265 7", True),
        ("Giving 0.5 mg of drug Y moved [...]", True),
        ("[\u2026] moved the score (\u2026) whereas in significant disease", True),
        ("in significant disease it rose to >= 7", True),
        ("of 1\u202f234 patients (beta-blocker group, n=612)", True),
        ("Of 1234 patients (beta-blocker group", True),
        ("but only in the younger group (p &lt; 0.05)", True),
        ("Giving **0.5 mg** of _drug Y_ moved the score", True),
        ("it rose to \u2265 7 (HLA-B*27 \u00b1 2)", True),
        ("the dose was not markedly different in non-drinkers, but only in the younger group", True),
        ("Giving 0.7 mg of drug Y moved the score by -2.4 points", False),
        ("Giving 0.5 mg of drug Y moved the score by 2.4 points", False),
        ("moved the score by +2.4 points, whereas", False),
        ("5 mg of drug Y moved the score by -2.4 points", False),
        ("Of 1,235 patients (beta-blocker group, n = 612)", False),
        ("but only in the younger group (p > 0.05)", False),
        ("(p < .05). Giving 0.5 mg of drug Y", False),
        ("the dose was markedly different in non-drinkers, but", False),
        ("the dose was ... markedly different in non-drinkers, but", False),
        ("markedly different in non-drinkers, but only in the younger group", False),
        ("different in non-drinkers, but only in the younger group", False),
        ("drinkers, but only in the younger group", False),
        ("the dose was not markedly different in drinkers, but", False),
        ("the dose was not markedly different in non-drinkers", False),
        ("whereas insignificant disease it rose to \u2265 7", False),
        ("rose to \u2265 7 ... Giving 0.5 mg of drug Y", False),
        ("elsewhere. Of 1,234 patients (beta-blocker group, n = 612)", False),
    ],
)
def test_a_faithful_quote_is_found_and_no_other(quote: str, is_faithful: bool, distance: str):  # noqa: FBT001 - a table
    conf = config.load(assignments=["completions.style=cot", f"dataset.quote_distance={distance}"])
    checked = answer_checks.check_answer(with_quote(quote), PASSAGES, "yes", conf.completions, conf.dataset)
    assert [problem.reason for problem in checked] == ([] if is_faithful else ["false quote"])


@given(words, st.sampled_from(["false", "decision", "truncated", "refusal"]), words)
def test_a_planted_fault_never_reaches_training(said: str, fault: str, around: str):
    conf = config.load(assignments=["completions.style=cot", "completions.decision=true"])
    quote, answer = ORACLE[:40], "Yes."
    if fault == "false":
        planted = quote_search.comparable_quote(said)
        assume(planted and quote_search.ELLIPSIS not in planted)
        assume(planted.lower() not in quote_search.QuoteSearch(quote_search.normalize(ORACLE)).packed.lower())
        quote = said
    answer = {"decision": f"No. {said}", "refusal": f"I don't know. {said}"}.get(fault, answer)
    completion = (
        f"{around}##begin_quote##{ORACLE[60:90]}##end_quote## ##begin_quote##{quote}##end_quote##\n<ANSWER>: {answer}"
    )
    row = {"completion": completion, "oracle": ORACLE, "final_decision": "yes", "last_error": None}
    row["finish_reason"] = "length" if fault == "truncated" else "stop"
    judged = acceptance.judge_answer(row, conf.dataset, conf.completions)
    assert judged.rejected


IGNORED = re.compile(  # one alternative for each kind
    rf"\s(?:(?<!\w\s)|(?!\s*\w)|(?<=[{quote_search._UNSPACED}]\s)|(?=\s*[{quote_search._UNSPACED}]))"
    r"|[ ,](?:(?<=(?<![\d.])\d.)|(?<=(?<![\d.])\d\d.)|(?<=(?<![\d.])\d\d\d.))(?=\d{3}(?!\d))"
)
pieces = st.lists(
    st.sampled_from(
        [
            *" \n\t\u00a0\u2009,.;(-=+*_`\"'&[]1230\u0661aZ\u00e9\u2013\u2019\u201c\u00b1\u2265\u200b\ufb01\u6cbb\uff11\u2026",
            *["...", ". . .", "[...]", "1,234", "12 345", "word", "two words", "&lt;", "&amp;"],
        ]
    ),
    max_size=20,
).map("".join)


@given(pieces | st.text())
@settings(deadline=None, max_examples=1_000)
def test_what_is_not_compared_is_what_one_alternative_for_each_kind_finds(text: str):
    search, left_out = quote_search.QuoteSearch(text), {found.start() for found in IGNORED.finditer(text)}
    places = [place for place in range(len(text)) if place not in left_out]
    assert search.packed == "".join(
        " "
        if text[place].isspace() and text[place] in "\t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\u2028\u2029"
        else text[place]
        for place in places
    )
    assert [search._position(index) for index in range(len(places))] == places


@given(pieces | st.text())
@settings(deadline=None, max_examples=500)
def test_a_quote_is_compared_without_emphasis_and_ellipsis_wherever_they_stand(text: str):
    plain = html.unescape(text)
    if not plain.isascii():
        unified = unicodedata.normalize("NFKC", plain.translate(quote_search._UNIFIED)).translate(quote_search._UNIFIED)
        plain = quote_search._FORMAT.sub("", unified)
    assert quote_search.normalize(text) == plain
    plain = quote_search._ELLIPSIS.sub("\u2026", quote_search._EMPHASIS.sub(r"\2", plain))
    parts = (quote_search._pack(part.strip()) for part in plain.split("\u2026"))
    stripped = (quote_search._LEADING.sub("", part).rstrip(".,;:\"'*") for part in parts)
    assert quote_search.comparable_quote(text) == "\u2026".join(filter(None, stripped))


@given(st.text(" a\n\u00a0", max_size=12), st.integers(0, 5), st.integers(0, 5))
def test_words_are_counted_up_to_the_limits(answer: str, least: int, most: int):
    conf = config.load(assignments=[f"dataset.min_words={least}", f"dataset.max_words={most}"]).dataset
    found = [problem.reason for problem in answer_checks._check_length(answer, conf)]
    count = len(answer.split())
    assert found == ["too short"] * (count < least) + ["too long"] * (0 < most < count)
