"""(answer, reference, passages) -> scores: compare an answer with the article's own answer and with the passages shown.

The answer of a failed request is scored as an empty answer: wrong, and 0 everywhere. ROUGE (Lin 2004) gives exactly the
values of the package rouge-score without stemmer; that package has no wheel, so EMR cannot install it. BLEU (Papineni
et al. 2002, by sentence) and chrF (Popovic 2015) come from sacrebleu, divided by 100.
"""

import functools
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from raft_spark.config.templates import Marks
from raft_spark.recipe import answer_checks, quote_search, refusals

QuoteSource = Literal["oracle", "distractor", "nowhere"]
PACKAGES = ("rapidfuzz", "sacrebleu")
_WORD = re.compile(r"[a-z0-9]+")
_ARTICLE, _NO_PUNCTUATION = re.compile(r"\b(?:a|an|the)\b"), str.maketrans("", "", string.punctuation)
_ANSWER_TO = re.compile(  # how students that were not trained begin; the question may be repeated in it
    r"(?:the )?(?:\w+ )?answer to (?:this|the|your) question(?: [\"\u201c][^\n]{0,500}?[\"\u201d])? (?=is\b|would be\b)",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9(])")
QUESTION, LAST_SENTENCES, BEST_SENTENCE, MAJORITY = (
    "the question itself",
    "the last two sentences",
    "the best sentence",
    "the majority's decision",
)
FAITHFULNESS, RELEVANCE = JUDGE_METRICS = ("faithfulness", "relevance")  # metrics from a judge, see scoring.judge


@dataclass(frozen=True, slots=True)
class Overlap:
    """The word overlap of an answer with the reference, 0..1. `token_f1` is the F1 of ROUGE-1, `squad_f1` that of SQuAD."""

    token_f1: float = 0.0
    squad_f1: float = 0.0
    rouge_l: float = 0.0
    bleu: float = 0.0
    chrf: float = 0.0


def score(
    answer: str | None,
    reference: str,
    oracle: Sequence[str],
    distractors: Sequence[str],
    style: str,
    marks: Marks = answer_checks.MARKS,
) -> dict[str, Any]:
    """Return the scores of one answer by column of the table `evaluation`. `answer` is None for a failed request;
    `oracle` has all passages of the article, `distractors` those that were shown.
    """
    parsed = answer_checks.parse(answer or "", marks)
    line = parsed.answer if style == "cot" else answer or ""
    text = line or answer or ""  # the whole text of a chain of thought without an answer line
    sources = locate_quotes(parsed.quotes, oracle, distractors)
    return {
        "decision": read_decision(line),
        "abstained": refusals.is_refusal(text, marks.unknown),
        **asdict(overlap(text, reference)),
        "quoted": sources,
        "quotes": len(sources),
        "quotes_of_oracle": sources.count("oracle"),
        "quotes_of_distractors": sources.count("distractor"),
    }


def read_decision(answer: str) -> str | None:
    """Return the yes, no or maybe that an answer begins with, as of a completion, also after `The answer to this question is`."""
    begun = _ANSWER_TO.match(answer.lstrip())
    return answer_checks.read_decision("The answer " + answer.lstrip()[begun.end() :] if begun else answer)


def overlap(answer: str, reference: str) -> Overlap:
    """Return the word overlap of two texts; 0 when one of them is empty."""
    if not answer.strip() or not reference.strip():
        return Overlap()
    bleu, chrf = _scorers()
    of_words = token_f1(answer, reference), squad_f1(answer, reference), rouge_l(answer, reference)
    return Overlap(*of_words, bleu(answer, reference), chrf(answer, reference))


def token_f1(answer: str, reference: str) -> float:
    """Return the F1 of ROUGE-1: each word counts as often as both texts have it."""
    return _bag_f1(words(answer), words(reference))


def squad_f1(answer: str, reference: str) -> float:
    """Return the F1 of SQuAD's evaluation script (Rajpurkar et al. 2016)."""
    return _bag_f1(squad_words(answer), squad_words(reference))


def _bag_f1(predicted: Sequence[str], expected: Sequence[str]) -> float:
    return _f1(predicted, expected, (Counter(predicted) & Counter(expected)).total())


def rouge_l(answer: str, reference: str) -> float:
    """Return the F1 of ROUGE-L: of the longest common subsequence of words."""
    from rapidfuzz.distance import LCSseq  # noqa: PLC0415 - only scoring needs the package

    predicted, expected = words(answer), words(reference)
    return _f1(predicted, expected, LCSseq.similarity(predicted, expected))


def words(text: str) -> list[str]:
    """Return the words that ROUGE counts: lower case, split at every character but a-z and 0-9."""
    return _WORD.findall(text.lower())


def squad_words(text: str) -> list[str]:
    """Return the words that SQuAD counts: lower case, without ASCII punctuation, then without a, an and the, split at white space."""
    return _ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()


def _f1(predicted: Sequence[str], expected: Sequence[str], shared: int) -> float:
    """Return the harmonic mean of precision and recall, given the number of shared words."""
    if not shared:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(expected)
    return 2 * precision * recall / (precision + recall)


def chrf(text: str, reference: str) -> float:
    """Return chrF, 0..1."""
    return _scorers()[1](text, reference)


def locate_quotes(quotes: Sequence[str], oracle: Sequence[str], distractors: Sequence[str]) -> list[QuoteSource]:
    """Return where each quote is found word for word: in a passage of the article, shown or not, else in a distractor,
    else nowhere. An unclosed quote, or one below quote_search.MIN_QUOTE_CHARS, counts as found nowhere.
    """
    in_oracle, in_distractors = (
        [quote_search.QuoteSearch(quote_search.normalize(text)) for text in texts] for texts in (oracle, distractors)
    )

    def locate(quote: str) -> QuoteSource:
        if not quote_search.has_min_length(quote):
            return "nowhere"
        if any(text.find(quote) for text in in_oracle):
            return "oracle"
        return "distractor" if any(text.find(quote) for text in in_distractors) else "nowhere"

    return [locate(quote_search.comparable_quote(quote)) for quote in quotes]


def baseline_answers(question: str, oracle: Sequence[str], reference: str, majority: str | None) -> Mapping[str, str]:
    """Return the answers of the baselines, which need no model, by baseline. `majority` is the most frequent decision.

    The best sentence is the one most similar to the reference, which no student sees: an upper bound for copying.
    """
    sentences = [sentence for text in oracle for sentence in _SENTENCE_END.split(text) if sentence.strip()]
    best = max(sentences, key=lambda sentence: rouge_l(sentence, reference), default="")
    answers = {QUESTION: question, LAST_SENTENCES: " ".join(sentences[-2:]), BEST_SENTENCE: best}
    return answers | ({MAJORITY: f"{majority.capitalize()}."} if majority else {})


@functools.cache
def _scorers() -> tuple[Callable[[str, str], float], Callable[[str, str], float]]:
    """Return the functions for sentence BLEU and chrF; import sacrebleu on the first call."""
    from sacrebleu import BLEU, CHRF  # noqa: PLC0415 - only scoring needs the package

    bleu, chrf = BLEU(effective_order=True), CHRF()
    return (
        lambda answer, reference: bleu.sentence_score(answer, [reference]).score / 100,
        lambda answer, reference: chrf.sentence_score(answer, [reference]).score / 100,
    )
