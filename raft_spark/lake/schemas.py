"""Define the names and columns of the tables; schemas are never inferred.

The partition column, `split` or for completions `day`, is not listed: it is part of the folder's name. A new column is added
at the end, and is null in earlier versions.
"""

from collections.abc import Mapping, Sequence

import pyarrow as pa

SPLITS = ("train", "validation", "test")
ARTICLES, BASE, COMPLETIONS, DATASET = "articles", "base", "completions", "dataset"
EVALUATION = "evaluation"
EMBEDDINGS = "embeddings"  # a store of vectors alone, without versions

_strings = pa.list_(pa.string())
_documents = pa.list_(
    pa.struct(
        [
            ("pubid", pa.int64()),
            ("passage", pa.int32()),
            ("text", pa.string()),
            ("oracle", pa.bool_()),
            ("method", pa.string()),
            ("rank", pa.int32()),
            ("score", pa.float32()),
        ]
    )
)
SCHEMAS: Mapping[str, pa.Schema] = {
    ARTICLES: pa.schema(
        [
            ("pubid", pa.int64()),
            ("question", pa.string()),
            ("passages", _strings),
            ("labels", _strings),
            ("meshes", _strings),
            ("long_answer", pa.string()),
            ("final_decision", pa.string()),
            ("number", pa.int64()),
            ("fingerprint", pa.string()),
        ]
    ),
    BASE: pa.schema(
        [
            ("pubid", pa.int64()),
            ("question", pa.string()),
            ("documents", _documents),
            ("oracle", pa.string()),
            ("distracted", pa.bool_()),
            ("original_answer", pa.string()),
            ("final_decision", pa.string()),
            ("second_oracles", pa.int32()),
        ]
    ),
    COMPLETIONS: pa.schema(
        [
            ("key", pa.string()),
            ("pubid", pa.int64()),
            ("completion", pa.string()),
            ("error_class", pa.string()),
            ("error", pa.string()),
            ("attempts", pa.int32()),
            ("model", pa.string()),
            ("finish_reason", pa.string()),
            ("prompt_tokens", pa.int32()),
            ("completion_tokens", pa.int32()),
            ("latency_ms", pa.int32()),
            ("created_at", pa.timestamp("us", "UTC")),
            ("run_id", pa.string()),
            ("key_of_any_length", pa.string()),
            ("max_tokens", pa.int32()),
            ("removed", pa.string()),
        ]
    ),
    EVALUATION: pa.schema(
        [
            ("pubid", pa.int64()),
            ("student", pa.string()),
            ("setting", pa.string()),
            ("distractors", pa.int32()),
            ("shown", pa.int32()),
            ("position", pa.int32()),
            ("question", pa.string()),
            ("answer", pa.string()),
            ("error_class", pa.string()),
            ("cut", pa.bool_()),
            ("reference", pa.string()),
            ("final_decision", pa.string()),
            ("decision", pa.string()),
            ("abstained", pa.bool_()),
            ("token_f1", pa.float64()),
            ("rouge_l", pa.float64()),
            ("bleu", pa.float64()),
            ("chrf", pa.float64()),
            ("quoted", _strings),
            ("quotes", pa.int32()),
            ("quotes_of_oracle", pa.int32()),
            ("quotes_of_distractors", pa.int32()),
            ("faithfulness", pa.float64()),
            ("relevance", pa.float64()),
            ("judge_error", pa.string()),
            ("squad_f1", pa.float64()),
            ("citations", pa.int32()),
            ("citations_of_oracle", pa.int32()),
        ]
    ),
}
# the columns that identify a row, the partition column first, for each table of the Iceberg catalog
KEYS: Mapping[str, Sequence[str]] = {
    ARTICLES: ("split", "pubid"),
    BASE: ("split", "pubid", "distracted"),
    COMPLETIONS: ("day", "key", "run_id", "created_at"),  # a request that failed and was sent again has two rows
}
METRICS = pa.schema(
    [
        ("student", pa.string()),
        ("against", pa.string()),
        ("setting", pa.string()),
        ("distractors", pa.int32()),
        ("place", pa.string()),
        ("figure", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("articles", pa.int64()),
        ("p", pa.float64()),
        ("p_holm", pa.float64()),
        ("seeds", pa.int32()),
    ]
)
QUARANTINE = pa.schema(
    [("pubid", pa.int64()), ("reason", pa.string()), ("source", pa.string()), ("record", pa.string())]
)
FILES = pa.schema(
    [
        ("path", pa.string()),
        ("rows", pa.int64()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("row_groups", pa.list_(pa.int64())),
    ]
)
