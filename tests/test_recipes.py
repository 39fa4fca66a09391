"""The recipes for teachers are true: each one settles as it stands, and what it sends is written here by hand."""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from raft_spark import config, endpoints
from raft_spark.config import templates
from raft_spark.endpoints import outgoing
from raft_spark.inference import embeddings
from raft_spark.recipe import prompts

pytestmark = pytest.mark.row
BLOCK = re.compile(r"^## (?P<title>[^\n]+)$|^```toml\n(?P<block>.*?)^```$", re.MULTILINE | re.DOTALL)
PROMPT = frozenset({"messages", "prompt", "inputs", "system", "input", "inputText"})
SAGEMAKER = "https://runtime.sagemaker.us-east-1.amazonaws.com/endpoints"
BEDROCK = "https://bedrock-runtime.us-east-1.amazonaws.com/model"
AZURE = "https://my-resource.openai.azure.com/openai"


@dataclass(frozen=True)
class Sent:
    """The address of a call, its headers beyond those of every call, and its body without the prompt."""

    url: str
    body: Mapping[str, Any]
    key_header: str = ""


GENERATE = {"max_new_tokens": 512, "do_sample": False, "details": True, "return_full_text": False}
CONVERSE = {"maxTokens": 512, "temperature": 0.0}
IN_REAL_TIME = {
    "SageMaker: TGI": Sent(f"{SAGEMAKER}/llama-3-1-8b-tgi/invocations", {"parameters": GENERATE}),
    "SageMaker: LMI": Sent(f"{SAGEMAKER}/qwen-7b-lmi/invocations", {"temperature": 0.0, "max_tokens": 512}),
    "Bedrock: Claude": Sent(
        f"{BEDROCK}/us.anthropic.claude-haiku-4-5-20251001-v1%3A0/converse", {"inferenceConfig": CONVERSE}
    ),
    "Bedrock: Nova": Sent(f"{BEDROCK}/us.amazon.nova-lite-v1%3A0/converse", {"inferenceConfig": CONVERSE}),
    "Bedrock: Llama": Sent(f"{BEDROCK}/us.meta.llama3-3-70b-instruct-v1%3A0/converse", {"inferenceConfig": CONVERSE}),
    "Bedrock: an imported model": Sent(
        f"{BEDROCK}/arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Aimported-model%2Fa1b2c3d4e5f6/invoke",
        {"max_gen_len": 512, "temperature": 0.0},
    ),
    "vLLM": Sent(
        "http://10.0.0.5:8000/v1/chat/completions",
        {
            "model": "Qwen/Qwen3-8B",
            "temperature": 0.0,
            "max_tokens": 512,
            "chat_template_kwargs": {"enable_thinking": False},
        },
        "Authorization",
    ),
    "Ollama": Sent(
        "http://127.0.0.1:11434/v1/chat/completions", {"model": "llama3.1:8b", "temperature": 0.0, "max_tokens": 512}
    ),
    "llama.cpp": Sent(
        "http://127.0.0.1:8080/v1/chat/completions",
        {"model": "llama-3.1-8b-q4", "temperature": 0.0, "max_tokens": 512},
    ),
    "LiteLLM": Sent(
        "http://127.0.0.1:4000/v1/chat/completions",
        {"model": "my-model", "temperature": 0.0, "max_tokens": 512},
        "Authorization",
    ),
    "Azure: the v1 API": Sent(
        f"{AZURE}/v1/chat/completions", {"model": "my-deployment", "max_completion_tokens": 512}, "api-key"
    ),
    "Azure: a dated API version": Sent(
        f"{AZURE}/deployments/my-deployment/chat/completions?api-version=2024-10-21",
        {"model": "my-deployment", "temperature": 0.0, "max_tokens": 512},
        "api-key",
    ),
    "OpenAI: chat models": Sent(
        "https://api.openai.com/v1/chat/completions",
        {"model": "gpt-4.1-mini", "temperature": 0.0, "max_tokens": 512},
        "Authorization",
    ),
    "OpenAI: reasoning models": Sent(
        "https://api.openai.com/v1/chat/completions",
        {"model": "gpt-5-mini", "max_completion_tokens": 4096, "reasoning_effort": "low"},
        "Authorization",
    ),
}
EMBEDDINGS = {
    "Embeddings: any server with OpenAI's calls": Sent(
        "https://api.openai.com/v1/embeddings", {"model": "text-embedding-3-small", "dimensions": 384}, "Authorization"
    ),
    "Embeddings: Bedrock Titan": Sent(f"{BEDROCK}/amazon.titan-embed-text-v2%3A0/invoke", {"dimensions": 512}),
}
IN_BATCHES: Mapping[str, Mapping[str, Any]] = {  # a line of a job's input, without the prompt
    "SageMaker: asynchronous": {"key": "0a", "body": {"temperature": 0.0, "max_tokens": 512}},
    "Bedrock: batch jobs": {"recordId": "0a", "modelInput": {"inferenceConfig": CONVERSE}},
    "OpenAI: batch jobs": {
        "custom_id": "0a",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "gpt-4.1-mini", "temperature": 0.0, "max_tokens": 512},
    },
}


def blocks(page: str) -> list[tuple[str, str]]:
    """Return each block of TOML on a page with the title of its section."""
    found, title = [], ""
    for part in BLOCK.finditer((ROOT / "docs" / page).read_text()):
        title = part["title"] or title
        if part["block"] is not None:
            found.append((title, part["block"]))
    return found


RECIPES = dict(blocks("recipes.md"))


def settle(block: str, folder: Path) -> config.Config:
    """Return the settings that a person has who saves a block as a file."""
    file = folder / "my.toml"
    file.write_text(block)
    return config.load([str(file)])


def without_prompt(value: object) -> object:
    """Return a JSON value without the texts of the prompt."""
    if not isinstance(value, dict):
        return value
    return {name: without_prompt(part) for name, part in value.items() if name not in PROMPT}


def test_every_recipe_is_checked_here_and_stands_once():
    assert [title for title, _ in blocks("recipes.md")] == list(RECIPES)
    assert {*RECIPES} == {*IN_REAL_TIME, *EMBEDDINGS, *IN_BATCHES}


@pytest.mark.parametrize(
    ("title", "expected"), {**IN_REAL_TIME, **EMBEDDINGS}.items(), ids={**IN_REAL_TIME, **EMBEDDINGS}
)
def test_a_recipe_sends_what_its_model_takes(title: str, expected: Sent, tmp_path: Path):
    conf = settle(RECIPES[title], tmp_path)
    if title in EMBEDDINGS:
        conf.check_max_spend()
        conf = embeddings.endpoint_settings(conf)
        request = embeddings.build_request({"text": "Why?"}, conf.completions, conf.teacher.model)
    else:
        request = prompts.teacher_request("Why?", "Because.", conf.teacher.model, conf.teacher_requests)
    call = outgoing.describe(conf.teacher, request)
    assert call.url == expected.url
    body = {name: part for name, part in call.body.items() if name != "requestMetadata"}
    assert without_prompt(body) == expected.body
    assert PROMPT & call.body.keys()
    if conf.teacher.kind == "openai":
        keys = {name for name in ("Authorization", "api-key") if name in call.headers}
        assert keys == ({expected.key_header} if expected.key_header else set())


@pytest.mark.parametrize(("title", "expected"), IN_BATCHES.items(), ids=IN_BATCHES)
def test_a_recipe_in_batch_mode_writes_such_lines(title: str, expected: Mapping[str, Any], tmp_path: Path):
    conf = settle(RECIPES[title], tmp_path)
    assert conf.completions.mode == "batch"
    request = prompts.teacher_request("Why?", "Because.", conf.teacher.model, conf.teacher_requests)
    line = endpoints.batch_service_of(conf.teacher, conf.completions).line("0a", request)
    assert without_prompt(json.loads(line)) == expected


@pytest.mark.parametrize("block", [block for _, block in blocks("teachers.md")], ids=lambda block: block.split("\n")[0])
def test_a_block_of_the_page_teachers_is_right(block: str, tmp_path: Path):
    if "[teacher]" in block:  # words of prompts
        assert templates.parse(block.encode(), "teachers.md", "answer").marks.answer == "<ANSWER>:"
        return
    added = tomllib.loads(block).get("endpoints", {})
    conf = settle(block, tmp_path)
    assert added.keys() <= conf.endpoints.keys()
    assert conf.completions.endpoint in {*added, "embedded"}
