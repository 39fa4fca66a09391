"""Make a dataset from your own articles: one JSON object a line, in the schema of PubMedQA.

python examples/own_jsonl.py [settings.toml ...]
"""

import json
import sys
from pathlib import Path

import raft_spark as rs

# `pubid` is a number that you choose. The teacher answers from `contexts`, the passages of the article.
articles = [
    {
        "pubid": number,
        "question": f"Does compound {number} lower the blood pressure of rats?",
        "context": {
            "contexts": [f"Compound {number} was given to rats.", f"It lowered the pressure by {number} mmHg."]
        },
        "long_answer": f"Compound {number} lowers the blood pressure of rats by {number} mmHg.",  # may be missing
        "final_decision": "yes",  # may be missing
    }
    for number in range(1, 41)
]
file = Path("build/own/articles.jsonl").absolute()
file.parent.mkdir(parents=True, exist_ok=True)
file.write_text("".join(json.dumps(article) + "\n" for article in articles), encoding="utf-8")

settings = {
    "articles.source": str(file.parent),  # a folder, a file or a glob
    "articles.validation_share": 0.0,  # 40 articles are too few for three splits
    "articles.test_share": 0.0,
    "dataset.answer": "original",  # use `long_answer`; "completion", the default, asks the teacher
}
conf = rs.load_config(*sys.argv[1:], overrides=settings)
counts = rs.run(conf).stages["articles"].counts
print(f"{counts['articles']} of {counts['read']} records became articles; left out: {counts['reasons']}")
print(rs.open_table(conf, "dataset").to_arrow()["messages"][0].as_py())
