"""An answer -> its scores, beside the article's own answer and the passages that were shown. Pure.

A request that failed is scored as an empty answer: wrong, and 0 everywhere. ROUGE (Lin 2004) is to the last bit what rouge-score
says without its stemmer, which has no wheel and so cannot be brought to EMR; BLEU (Papineni et al. 2002, by sentence) and chrF
(Popovic 2015) are sacrebleu's, as shares.
"""

import functools
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from raft_spark.recipe import answer_checks, prompts

QuoteSource = Literal["oracle", "distractor", "nowhere"]
PACKAGES = ("rapidfuzz", "sacrebleu")
_WORD = re.compile(r"[a-z0-9]+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9(])")
QUESTION, LAST_SENTENCES, BEST_SENTENCE, MAJORITY = (
    "the question itself",
    "the last two sentences",
    "the best sentence",
    "the majority's decision",
)
FAITHFULNESS, RELEVANCE = JUDGED = ("faithfulness", "relevance")  # what only a judge can tell, see judging


@dataclass(frozen=True, slots=True)
class Overlap:
    """How much of its words an answer shares with the reference, 0..1. `token_f1` is ROUGE-1's F."""

    token_f1: float = 0.0
    rouge_l: float = 0.0
    bleu: float = 0.0
    chrf: float = 0.0


def score(answer: str | None, reference: str, own: Sequence[str], others: Sequence[str], style: str) -> dict[str, Any]:
    """Return the scores of one answer by the names of the table's columns; None is the answer of a request that failed. `own` are the
    article's passages, `others` the distractors that were shown.
    """
    thought = answer_checks.parse(answer or "")
    line = thought.answer if style == "cot" else answer or ""
    text = line or answer or ""  # where a chain of thought has no answer line, all of it answers
    stand = locate_quotes(thought.quotes, own, others)
    return {
        "decision": answer_checks.read_decision(line),
        "abstained": bool(prompts.REFUSAL.search(text)),
        **asdict(overlap(text, reference)),
        "quoted": stand,
        "quotes": len(stand),
        "quotes_of_oracle": stand.count("oracle"),
        "quotes_of_distractors": stand.count("distractor"),
    }


def overlap(answer: str, reference: str) -> Overlap:
    """Compare words; what has none shares none."""
    if not answer.strip() or not reference.strip():
        return Overlap()
    bleu, chrf = _scorers()
    return Overlap(
        token_f1(answer, reference), rouge_l(answer, reference), bleu(answer, reference), chrf(answer, reference)
    )


def token_f1(answer: str, reference: str) -> float:
    """Return ROUGE-1's F: of words, each as often as both have it."""
    said, wanted = words(answer), words(reference)
    return _f1(said, wanted, (Counter(said) & Counter(wanted)).total())


def rouge_l(answer: str, reference: str) -> float:
    """Return ROUGE-L's F: of the longest common subsequence of words."""
    from rapidfuzz.distance import LCSseq  # noqa: PLC0415 - only who scores needs the package

    said, wanted = words(answer), words(reference)
    return _f1(said, wanted, LCSseq.similarity(said, wanted))


def words(text: str) -> list[str]:
    """Return what ROUGE counts: lower case, and everything but a-z and 0-9 splits."""
    return _WORD.findall(text.lower())


def _f1(said: Sequence[str], wanted: Sequence[str], shared: int) -> float:
    """Return the harmonic mean of the shares of both that are `shared`."""
    if not shared:
        return 0.0
    precision, recall = shared / len(said), shared / len(wanted)
    return 2 * precision * recall / (precision + recall)


def chrf(text: str, reference: str) -> float:
    """Return chrF alone."""
    return _scorers()[1](text, reference)


def locate_quotes(quotes: Sequence[str], own: Sequence[str], others: Sequence[str]) -> list[QuoteSource]:
    """Say where each quote stands, word for word: in one of the article's own passages, shown or not, else in another that was
    shown. A quote without an end, or too short to tell, stands nowhere.
    """
    oracle, distractors = (
        [answer_checks.QuoteSearch(answer_checks.normalize(text)) for text in texts] for texts in (own, others)
    )

    def stands(quote: str) -> QuoteSource:
        found = len(quote) >= answer_checks.SHORTEST
        if found and any(text.find(quote) for text in oracle):
            return "oracle"
        return "distractor" if found and any(text.find(quote) for text in distractors) else "nowhere"

    return [stands(answer_checks.bare(quote)) for quote in quotes]


def baseline_answers(question: str, own: Sequence[str], reference: str, majority: str | None) -> Mapping[str, str]:
    """Return what an answer without a model would be: the floor beside which scores are read. The best sentence is chosen
    with the reference at hand, which no student has.
    """
    sentences = [sentence for text in own for sentence in _SENTENCE_END.split(text) if sentence.strip()]
    best = max(sentences, key=lambda sentence: rouge_l(sentence, reference), default="")
    answers = {QUESTION: question, LAST_SENTENCES: " ".join(sentences[-2:]), BEST_SENTENCE: best}
    return answers | ({MAJORITY: f"{majority.capitalize()}."} if majority else {})


@functools.cache
def _scorers() -> tuple[Callable[[str, str], float], Callable[[str, str], float]]:
    """Load sacrebleu, once a process: only this stage needs it. It asks no network but for test sets, which nothing here takes."""
    from sacrebleu import BLEU, CHRF  # noqa: PLC0415 - see above

    bleu, chrf = BLEU(effective_order=True), CHRF()
    return (
        lambda answer, reference: bleu.sentence_score(answer, [reference]).score / 100,
        lambda answer, reference: chrf.sentence_score(answer, [reference]).score / 100,
    )
