"""Ask a teacher on your own OpenAI-compatible server, such as vLLM, llama.cpp or Ollama.

python examples/openai_server.py http://127.0.0.1:8000/v1 MODEL [settings.toml ...]
"""

import sys

import raft_spark as rs

url, model, *files = sys.argv[1:]
teacher = {
    "completions.endpoint": "mine",
    "endpoints.mine": {"kind": "openai", "url": url, "model": model},  # api_key_env names a variable that holds a key
    "completions.in_flight": 32,  # requests that are open at once
    "articles.source": "sample:200",
}
conf = rs.load_config(*files, overrides=teacher)

# Make the questions, look at one answer, and estimate the cost before all questions are asked.
rs.run_stage("articles", conf)
rs.run_stage("base", conf)
shown = rs.preview(conf)
print(f"{shown.completion}\n({shown.seconds:.1f} s, {shown.prompt_tokens} + {shown.completion_tokens} tokens)")
estimate = rs.estimate(conf)
print(f"{estimate.to_ask} of {estimate.requests} requests to ask")
if estimate.use and estimate.use.seconds:
    print(f"about {estimate.use.tokens_out.value:.0f} tokens of answers in {estimate.use.seconds.value:.0f} s")

counts = rs.run(conf).stages["completions"].counts
print(f"{counts['answered']} answers, {counts['known']} known before, {counts['failed']} failed")
