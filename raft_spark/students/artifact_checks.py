"""A student's folder in S3 -> what is wrong with it for the one who hosts it, before anything is made or paid."""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from raft_spark.common import aws
from raft_spark.common.aws import AwsClient
from raft_spark.config import Hosting
from raft_spark.errors import InputError

CONFIG, ADAPTER = "config.json", "adapter_config.json"
TOKENIZERS = frozenset({"tokenizer.json", "tokenizer.model"})
SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})\.safetensors")
IMPORT_REGIONS = frozenset({"us-east-1", "us-east-2", "us-west-2", "eu-central-1"})
IMPORT_BYTES = 200_000_000_000
IMPORT_TOKENS = 128 * 1024  # of context
# Bedrock user guide, "Import a customized model": what its architectures are called in config.json.
IMPORT_ARCHITECTURES = frozenset(
    [
        "MistralForCausalLM",
        "MixtralForCausalLM",
        "T5ForConditionalGeneration",
        "LlamaForCausalLM",
        "MllamaForConditionalGeneration",
        "GPTBigCodeForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen2VLForConditionalGeneration",
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen3ForCausalLM",
        "Qwen3MoeForCausalLM",
        "GptOssForCausalLM",
    ]
)
US_EAST_1_ONLY = frozenset({"GptOssForCausalLM"})  # imported in us-east-1 alone


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """What lies in the folder `uri`: sizes of its files in bytes, and its config.json, {} without one."""

    uri: str
    files: Mapping[str, int]
    config: Mapping[str, Any]

    @property
    def architecture(self) -> str:
        """Return what transformers calls it, "" when that is not said."""
        return str(next(iter(self.config.get("architectures") or ()), ""))


def inspect(client: AwsClient, uri: str) -> ModelFolder:
    """Look at a folder in S3. Raises ConfigError for what S3 refuses, InputError for a config.json that is none."""
    bucket, key = aws.split_uri(f"{uri.rstrip('/')}/")
    with aws.config_errors(f"{uri} cannot be looked at"):
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key)
        files = {found["Key"][len(key) :]: found["Size"] for page in pages for found in page.get("Contents", ())}
        text = client.get_object(Bucket=bucket, Key=key + CONFIG)["Body"].read() if CONFIG in files else b"{}"
    try:
        config = json.loads(text)
    except ValueError as error:
        msg = f"{uri}/{CONFIG} is no JSON: {error}"
        raise InputError(msg) from error
    return ModelFolder(uri.rstrip("/"), files, config if isinstance(config, dict) else {})


def problems(student: ModelFolder, conf: Hosting, region: str) -> list[str]:
    """Return a sentence for each."""
    if not student.files:
        return [f"{student.uri} holds nothing: it must be the folder of a trained student in S3"]
    found = [*_missing_files(student), *_weights_problems(student.files)]
    if conf.kind == "bedrock":
        found += _import_problems(student, region)
    return [f"{student.uri} {sentence}" for sentence in found]


def _missing_files(student: ModelFolder) -> Iterator[str]:
    missing = [CONFIG] if CONFIG not in student.files else []
    if not TOKENIZERS & student.files.keys():
        missing.append("tokenizer.json")
    if "tokenizer_config.json" not in student.files:
        missing.append("tokenizer_config.json")
    if missing:
        yield f"holds no {', no '.join(missing)}"
    if ADAPTER in student.files:
        yield "holds a LoRA adapter that is not merged; `raft-spark model train` merges it"


def _weights_problems(files: Collection[str]) -> Iterator[str]:
    """Look for safetensors right in the folder, every part of them."""
    weights = [file for file in files if file.endswith(".safetensors") and not file.startswith("adapter")]
    if not [file for file in weights if "/" not in file]:
        packed = [file for file in files if file.endswith((".tar.gz", ".bin", ".gguf", ".pt"))]
        yield f"holds no safetensors{f', but {min(packed)}' if packed else ''}"
    shards = {match[1]: int(match[2]) for file in weights if (match := SHARD.fullmatch(file))}
    for stem, most in shards.items():
        there = sum(file.startswith(f"{stem}-") for file in weights)
        if there < most:
            yield f"holds {there} of the {most} parts of {stem}.safetensors"


def _import_problems(student: ModelFolder, region: str) -> Iterator[str]:
    if region not in IMPORT_REGIONS:
        yield f"cannot be imported in {region or 'a region that is not known'}; Bedrock imports in {', '.join(sorted(IMPORT_REGIONS))}"
    told = student.architecture
    if told not in IMPORT_ARCHITECTURES:
        yield f"is a {told or 'model of no known architecture'}; Bedrock imports {', '.join(sorted(IMPORT_ARCHITECTURES))}"
    elif told in US_EAST_1_ONLY and region != "us-east-1":
        yield f"is a {told}, which Bedrock imports in us-east-1 alone"
    weight = sum(size for file, size in student.files.items() if file.endswith(".safetensors"))
    if weight >= IMPORT_BYTES:
        yield f"has {weight / 1e9:,.0f} GB of weights; Bedrock imports less than {IMPORT_BYTES / 1e9:,.0f} GB"
    if int(student.config.get("max_position_embeddings") or 0) > IMPORT_TOKENS:
        yield f"has a context of {student.config['max_position_embeddings']:,} tokens; Bedrock imports up to {IMPORT_TOKENS:,}"
