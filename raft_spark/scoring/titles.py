"""The words of an evaluation's report: what its metrics, settings and tables are called, and how to read them."""

from collections.abc import Mapping, Sequence

from raft_spark.scoring.metrics import DECISION_METRICS, LOSSES, OVERLAP_METRICS

METRIC_TITLES = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "decided": "says yes, no or maybe",
    "token_f1": "token F1",
    "squad_f1": "F1 (SQuAD)",
    "rouge_l": "ROUGE-L",
    "bleu": "BLEU",
    "chrf": "chrF",
    "abstained": "abstains",
    "quoting": "answers with a quote",
    "quotes_of_oracle": "quotes in the oracle",
    "quotes_of_distractors": "quotes in a distractor",
    "citations_of_oracle": "citations that name the oracle",
    "faithfulness": "faithfulness",
    "relevance": "relevance",
    "unjudged": "not judged",
    "cut": "cut",
    "failed": "failed",
    "recall": "recall@k",
    "mrr": "MRR@k",
    "accuracy_lost": "accuracy lost",
    "rouge_l_lost": "ROUGE-L lost",
    "token_f1_lost": "token F1 lost",
}
SETTING_TITLES = {
    "closed": "no passage",
    "without": "without oracle",
    "retrieved": "retrieved",
    "with": "with oracle",
    "alone": "oracle alone",
}
TABLES: Mapping[str, tuple[Sequence[str], str]] = {
    "Decisions": (
        (*DECISION_METRICS, "decided"),
        (
            "The yes, no or maybe at the start of the answer, compared with final_decision (PubMedQA's metrics). A "
            "missing answer, or one that says none of the three, counts as wrong."
        ),
    ),
    "Words": (
        OVERLAP_METRICS,
        (
            "The answer compared with the article's own long_answer; articles without one are left out. Token F1 splits "
            "words as ROUGE does, F1 (SQuAD) as SQuAD's script does: it leaves out a, an and the. The best sentence of the oracle is chosen by that comparison, so it is an upper bound for copying and no baseline."
        ),
    ),
    "Lost to distractors": (
        tuple(LOSSES),
        "The metric with the oracle alone, less the metric with the oracle among k distractors, on the same articles.",
    ),
    "Oracle and quotes": (
        ("abstained", "quoting", "quotes_of_oracle", "quotes_of_distractors", "citations_of_oracle", "cut", "failed"),
        (
            "Abstaining is right without the oracle and wrong with it. A quote is found if it occurs word for word; "
            "the shares are of all quotes. A quote that is neither in the oracle nor in a distractor is invented."
        ),
    ),
}
JUDGE_CAPTION = (
    "As in ragas. Faithfulness: the share of an answer's statements that follow from the passages shown. Relevance: "
    "how similar the question is, by chrF, to the questions that the answer would answer. The last column counts the "
    "answers for which the judge did not keep to the requested form; no other metric includes them."
)
RECIPES_CAPTION = (
    "The mean over the students of each recipe, which were trained with different seeds ({}). Intervals are over articles and "
    "seeds together. A recipe of one student has no spread of seeds: its interval holds for these weights only."
)
RETRIEVER_CAPTION = (
    "How well BM25 finds the oracle among all passages of the test split. Recall@k: the share of articles with a passage "
    "of their own among the k best for their question. MRR@k: the mean of 1 / the rank of the first such passage, 0 where "
    "it is not among the k best. The more articles the split has, the harder it is."
)
FOUND_CAPTION = (
    "The answers to the passages retrieved, by whether a passage of the oracle was among them. The articles differ, and "
    "are often harder where it was not found, so compare students with each other, not one row with the next. Abstaining "
    "is right where it was not found."
)
COMPARED_METRICS = ("accuracy", "macro_f1", "token_f1", "rouge_l", "abstained", "quotes_of_oracle", *LOSSES)
