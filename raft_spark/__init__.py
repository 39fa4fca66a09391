"""raft-spark: PubMedQA -> a RAFT fine-tuning dataset, as Spark jobs.

    articles     PubMedQA -> cleaned, deduplicated, numbered articles with a split        raft_spark/articles.py
    base         articles -> rows with oracle and distractor passages, shuffled           raft_spark/base.py
    completions  base -> the teacher model's answers, asked once, from the oracle alone   raft_spark/completions.py
    dataset      base + completions -> train/validation/test in training formats          raft_spark/dataset.py
    evaluation   articles -> what students answer, with and without the oracle, scored    raft_spark/evaluation.py

Each stage reads tables and writes the one that bears its name (raft_spark/tables.py). The recipe is RAFT
(Zhang et al. 2024, arXiv 2403.10131). A student is trained and hosted beside the stages (raft_spark/model).
"""

__version__ = "0.1.0"
