"""Scored rows of a made-up evaluation: 40 articles, two students, all settings."""

import random
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from raft_spark import config
from raft_spark.lake import schemas
from raft_spark.scoring import metrics, scores
from raft_spark.scoring.summary import EvaluationSummary

SCHEMA = schemas.SCHEMAS[schemas.EVALUATION]
ROW: dict[str, Any] = {
    "pubid": 1, "student": "plain", "setting": "with", "distractors": 3, "shown": 6, "position": 0, "question": "Does it?",
    "answer": "Yes.", "error_class": None, "cut": False, "reference": "It does.", "final_decision": "yes", "decision": "yes",
    "abstained": False, "token_f1": 0.0, "squad_f1": 0.0, "rouge_l": 0.0, "bleu": 0.0, "chrf": 0.0, "quoted": [], "quotes": 0,
    "quotes_of_oracle": 0, "quotes_of_distractors": 0, "citations": 0, "citations_of_oracle": 0,
}  # fmt: skip
PASSAGES = [
    "Dislocation was the commonest early reason; 40 patients \u2014 12 of them women \u2014 were followed for two years.",
    "Pain fell by 30 % (95 % CI 21\u201339) within two hours, and no harm was seen.",
]
DISTRACTOR = "The median survival of the other cohort was eleven months in all centres."
CONDITIONS = [
    ("with", 1),
    ("with", 3),
    ("with", 6),
    ("without", 1),
    ("without", 3),
    ("without", 6),
    ("alone", 0),
    ("closed", 0),
]
ACCURACIES = {"base": {"with": 0.6, "without": 0.5, "alone": 0.66, "closed": 0.52}, "tuned": {"with": 0.8, "without": 0.45, "alone": 0.82, "closed": 0.5}}  # fmt: skip


def evaluation_config(*assignments: str) -> config.Config:
    students = [f"endpoints.{name}.{key}" for name in ACCURACIES for key in ("kind=fake", f"model={name}-1b")]
    basis = [
        "completions.style=cot",
        "completions.decision=true",
        "evaluation.students=base,tuned",
        "evaluation.resamples=300",
    ]
    return config.load(assignments=[*students, *basis, *assignments])


def scored_rows() -> Iterator[dict[str, Any]]:
    """Yield the rows of all students and baselines; some requests of the first student failed."""
    chance = random.Random(11)
    for pubid in range(40):
        truth = chance.choices(["yes", "no", "maybe"], [55, 34, 11])[0]
        about = {**ROW, "pubid": pubid, "question": f"Does drug {pubid} ease pain after a fracture of the hip?", "final_decision": truth,
                 "reference": f"Drug {pubid} eased pain within two hours, and no harm was seen in two years."}  # fmt: skip
        for student, rates in ACCURACIES.items():
            for setting, k in CONDITIONS:
                yield {
                    **about,
                    "student": student,
                    "setting": setting,
                    "distractors": k,
                    **scored_answer(chance, truth, student, setting, rates[setting] - 0.01 * k),
                }
        for name, answer in scores.baseline_answers(about["question"], PASSAGES, about["reference"], "yes").items():
            bare = {"student": name, "setting": "baseline", "distractors": 0, "position": None, "shown": 0}
            yield {
                **about,
                **bare,
                "answer": answer,
                **scores.score(answer, about["reference"], PASSAGES, [], "answer"),
            }


def scored_answer(chance: random.Random, truth: str, student: str, setting: str, rate: float) -> dict[str, Any]:
    if student == "base" and chance.random() < 0.03:
        return {"answer": None, "error_class": "timeout", **scores.score(None, "", PASSAGES, [DISTRACTOR], "cot")}
    decision = truth if chance.random() < rate else chance.choice(["yes", "no", "maybe", "it"])
    shown = setting in {"with", "alone"}
    quote = chance.choice(
        [PASSAGES[1][:48], PASSAGES[0][:42], DISTRACTOR[:40], "Nothing of this kind was written"]
        if student == "base"
        else [PASSAGES[1][:48], PASSAGES[0][:42]]
    )
    knows = shown or student == "base" or chance.random() < 0.4
    line = f"{decision.capitalize()}, pain fell within two hours." if knows else "I don't know."
    answer = f"The trial was small, but ##begin_quote##{quote}##end_quote## is clear.\n<ANSWER>: {line}"
    position = chance.randrange(5) if shown else None
    return {
        "answer": answer,
        "position": position,
        "shown": 5 if shown else 0,
        **scores.score(answer, "Pain eased within two hours.", PASSAGES, [DISTRACTOR], "cot"),
    }


def summary_of(rows: list[dict[str, Any]], *assignments: str) -> EvaluationSummary:
    conf, table = evaluation_config(*assignments), pa.Table.from_pylist(rows, SCHEMA)
    return EvaluationSummary(conf, "20261123T050000Z-made-up", table, metrics.compute_metrics(table, conf))
