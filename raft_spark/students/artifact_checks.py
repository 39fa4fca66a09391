"""A student's folder in S3 -> its problems for the service that is to host it, before anything is created or costs
money.
"""

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
IMPORT_TOKENS = 128 * 1024  # context length
# The architectures of the Bedrock user guide, "Import a customized model", as config.json names them.
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
US_EAST_1_ONLY = frozenset({"GptOssForCausalLM"})  # Bedrock imports these in us-east-1 only


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """The files of the folder `uri` with their sizes in bytes, and its config.json, {} when there is none."""

    uri: str
    files: Mapping[str, int]
    config: Mapping[str, Any]

    @property
    def architecture(self) -> str:
        """Return the class name that transformers uses, "" when config.json names none."""
        return str(next(iter(self.config.get("architectures") or ()), ""))


def inspect(client: AwsClient, uri: str) -> ModelFolder:
    """List a folder in S3. Raises ConfigError when S3 refuses, InputError when config.json is not JSON."""
    bucket, key = aws.split_uri(f"{uri.rstrip('/')}/")
    with aws.config_errors(f"{uri} cannot be read"):
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key)
        files = {found["Key"][len(key) :]: found["Size"] for page in pages for found in page.get("Contents", ())}
        text = client.get_object(Bucket=bucket, Key=key + CONFIG)["Body"].read() if CONFIG in files else b"{}"
    try:
        config = json.loads(text)
    except ValueError as error:
        msg = f"{uri}/{CONFIG} is not valid JSON: {error}"
        raise InputError(msg) from error
    return ModelFolder(uri.rstrip("/"), files, config if isinstance(config, dict) else {})


def problems(student: ModelFolder, conf: Hosting, region: str) -> list[str]:
    """Return one sentence for each problem, naming the folder."""
    if not student.files:
        return [f"{student.uri} is empty; it must be the folder of a trained student in S3"]
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
        yield f"has no {', no '.join(missing)}"
    if ADAPTER in student.files:
        yield "has a LoRA adapter that is not merged; `raft-spark model train` merges it"


def _weights_problems(files: Collection[str]) -> Iterator[str]:
    """Check that the folder itself has safetensors, and all shards of them."""
    weights = [file for file in files if file.endswith(".safetensors") and not file.startswith("adapter")]
    if not [file for file in weights if "/" not in file]:
        packed = [file for file in files if file.endswith((".tar.gz", ".bin", ".gguf", ".pt"))]
        yield f"has no safetensors{f', but {min(packed)}' if packed else ''}"
    shards = {match[1]: int(match[2]) for file in weights if (match := SHARD.fullmatch(file))}
    for stem, total in shards.items():
        present = sum(file.startswith(f"{stem}-") for file in weights)
        if present < total:
            yield f"has {present} of the {total} shards of {stem}.safetensors"


def _import_problems(student: ModelFolder, region: str) -> Iterator[str]:
    if region not in IMPORT_REGIONS:
        yield f"cannot be imported in {region or 'an unknown region'}; Bedrock imports in {', '.join(sorted(IMPORT_REGIONS))}"
    architecture = student.architecture
    if architecture not in IMPORT_ARCHITECTURES:
        yield f"is a {architecture or 'model of unknown architecture'}; Bedrock imports {', '.join(sorted(IMPORT_ARCHITECTURES))}"
    elif architecture in US_EAST_1_ONLY and region != "us-east-1":
        yield f"is a {architecture}, which Bedrock imports in us-east-1 only"
    weights_bytes = sum(size for file, size in student.files.items() if file.endswith(".safetensors"))
    if weights_bytes >= IMPORT_BYTES:
        yield f"has {weights_bytes / 1e9:,.0f} GB of weights; Bedrock imports less than {IMPORT_BYTES / 1e9:,.0f} GB"
    if int(student.config.get("max_position_embeddings") or 0) > IMPORT_TOKENS:
        yield f"has a context of {student.config['max_position_embeddings']:,} tokens; Bedrock imports up to {IMPORT_TOKENS:,}"
