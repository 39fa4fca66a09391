"""Compare two students on the questions of the test split, with and without the oracle among the passages.

python examples/evaluation.py [settings.toml ...]
"""

import sys

import raft_spark as rs

# The students are endpoints. Two fake ones, which make up their answers, take the place of your models here. A student on
# your own server has kind "openai" and an url, as the teacher in openai_server.py.
students = {
    "endpoints.before": {"kind": "fake", "model": "before"},
    "endpoints.after": {"kind": "fake", "model": "after"},
    "evaluation.students": ["before", "after"],
    "evaluation.rows": 10,  # questions
    "evaluation.distractors": [3],  # distractor passages of each question
    "articles.source": "sample:200",
}
conf = rs.load_config(*sys.argv[1:], overrides=students)
rs.run_stage("articles", conf)
for bound in rs.estimate(conf, evaluation=True):
    print(f"{bound.endpoint} is asked at most {bound.requests} requests")

result = rs.evaluate(conf)
for each in result.metrics:
    if each["setting"] == "with" and each["figure"] == "rouge_l" and each["place"] is None:
        against = f" - {each['against']}" if each["against"] else ""
        print(f"ROUGE-L {each['student']}{against}: {each['value']:.3f} ({each['low']:.3f} to {each['high']:.3f})")
print("the page to open:", result.page)
