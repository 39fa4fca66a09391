"""Follow a source that grows: only new articles are processed, and readers see all new versions at once or none.

python examples/refresh.py [settings.toml ...]
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import raft_spark as rs

folder = Path("build/growing").absolute()
settings = {
    "articles.source": str(folder),
    "articles.validation_share": 0.0,  # so few articles are too few for three splits
    "articles.test_share": 0.0,
    "dataset.answer": "original",  # use `long_answer`; "completion", the default, asks the teacher
    "refresh.max_changed_share": 0.5,  # new articles change the distractors of some rows
}
conf = rs.load_config(*sys.argv[1:], overrides=settings)


def write(numbers: Iterable[int]) -> None:
    """Write the source: an article for each number."""
    articles = [
        {
            "pubid": number,
            "question": f"Does compound {number} lower the blood pressure of rats?",
            "context": {"contexts": [f"Compound {number} lowered the pressure by {number} mmHg."]},
            "long_answer": f"Compound {number} lowers it by {number} mmHg.",
        }
        for number in numbers
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "articles.jsonl").write_text("".join(json.dumps(article) + "\n" for article in articles))


write(range(1, 101))
first = rs.refresh(conf)
print(first.outcome, first.after["dataset"])
print(rs.refresh(conf).outcome)

write(range(1, 104))
second = rs.refresh(conf)
print(second.outcome, second.changes["articles"], second.changes["base"])

# A source that loses many articles is refused. The tables stay as they were.
write(range(60, 104))
try:
    rs.refresh(conf)
except rs.GateError as error:
    print("refused:", error)

print("rolled back to", rs.rollback(conf, first.after["dataset"])["dataset"])
