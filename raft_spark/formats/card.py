"""Counts -> README.md of a published folder: the front matter that `datasets` reads, and what a reader should know."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import pyarrow as pa

from raft_spark import __version__, config
from raft_spark.common import wording
from raft_spark.formats.formats import FORMATS
from raft_spark.lake import parquet, schemas

PUBMEDQA = "hf:qiaojin/PubMedQA/"
_ABSENT = {
    "oracle": "",
    "answer_only": " Rows without their oracle passages give the answer without reasoning and quotes.",
    "refuse": " Rows without their oracle passages say that the passages do not answer the question.",
}
Shards = Sequence[parquet.DataFile]


def render(name: str, files: Iterable[parquet.DataFile], counts: Mapping[str, Any], conf: config.Config) -> str:
    """Return the card of one format's folder, whose shards are `files`, by paths below it."""
    shards = sorted(files, key=lambda file: file.path)
    by_split = {split: [file for file in shards if _split(file) == split] for split in schemas.SPLITS}
    by_split = {split: found for split, found in by_split.items() if found}
    paragraphs = (
        f"# RAFT dataset: {name}",
        _contents(name, shards, conf),
        _splits(by_split, counts),
        _answers(counts, conf),
        _recipe(conf),
        _leakage(counts["tells"]),
        _rights(conf),
    )
    return _front_matter(name, by_split) + "\n" + "\n\n".join(paragraphs) + "\n"


def _split(file: parquet.DataFile) -> str:
    return PurePath(file.path).name.partition("-")[0]


def _front_matter(name: str, by_split: Mapping[str, Shards]) -> str:
    """Return the part for programs, which lists the shards and their features.

    `datasets` names its cache by the front matter alone: without a digest of the shards it gives the rows of another version.
    """
    shards = sorted((file for found in by_split.values() for file in found), key=lambda file: file.path)
    digest = hashlib.sha256("".join(file.sha256 for file in shards).encode()).hexdigest()
    lines = ["---", "configs:", "- config_name: default", f"  description: {digest}", "  data_files:"]
    for split, found in by_split.items():
        lines += [f"  - split: {split}", "    path:", *(f"    - {file.path}" for file in found)]
    lines += ["dataset_info:", "  config_name: default", "  features:", *_features(FORMATS[name].schema, "  ")]
    lines += ["tags:", "- raft", "- retrieval-augmented-fine-tuning", "---"]
    return "\n".join(lines) + "\n"


def _features(fields: Iterable[pa.Field], indent: str) -> Iterator[str]:
    """Yield the YAML of `datasets` for texts, truth values and lists of structs."""
    for field in fields:
        yield f"{indent}- name: {field.name}"
        if pa.types.is_list(field.type):
            yield f"{indent}  list:"
            yield from _features(field.type.value_type, f"{indent}  ")
        else:
            yield f"{indent}  dtype: {field.type}"


def _contents(name: str, shards: Shards, conf: config.Config) -> str:
    rows = sum(file.rows for file in shards)
    return (
        f"{rows} rows in {FORMATS[name].about}, made by raft-spark {__version__} from {describe_source(conf)}.\n"
        f"Each holds a question, passages of which some answer it (for {_oracle_share(conf)} of the rows) and "
        f"{conf.base.distractors} or more do not,\nand an answer that {_describe_author(conf)} (RAFT, arXiv 2403.10131)."
        f"{_ABSENT[conf.dataset.absent_answer]}"
    )


def _splits(by_split: Mapping[str, Shards], counts: Mapping[str, Any]) -> str:
    table = ["| split | rows | without their oracle passages |", "|---|---|---|"]
    for split, found in by_split.items():
        table.append(f"| {split} | {sum(file.rows for file in found)} | {counts['distracted'].get(split, 0)} |")
    return "\n".join(table)


def _answers(counts: Mapping[str, Any], conf: config.Config) -> str:
    rejected, shortened, tokens = counts["rejected"], sum(counts["shortened"].values()), counts["tokens"]
    said = f"Of {counts['rows']} rows {sum(rejected.values())} were left out"
    said += f" ({wording.counts(rejected)})." if rejected else "."
    if counts["flagged"]:
        said += f" Kept, and to be looked at: {wording.counts(counts['flagged'])}."
    if shortened:
        said += f" {shortened} rows lost distractors to fit into {conf.dataset.max_tokens} tokens."
    return (
        f"{said}\nTokens of the answers: {tokens['prompt']} in, {tokens['completion']} out, "
        f"{counts['dollars']} dollars at the configured prices."
    )


def _recipe(conf: config.Config) -> str:
    lengths = (
        "as many passages with the oracle as without" if conf.base.equal_length else "k passages without the oracle"
    )
    said = f"How it was made: k = {conf.base.distractors} distractors, P = {_oracle_share(conf)}, seed {conf.base.seed}, {lengths}"
    if conf.dataset.answer == "completion":
        temperatures = " or ".join(map(str, (conf.completions.temperature, *conf.completions.retry_temperatures)))
        said += f",\nanswers at temperature {temperatures} with at most {conf.completions.max_new_tokens} tokens"
    return f"{said}. `manifest.json`, one folder up, holds every setting, version and checksum."


def _leakage(tells: Mapping[str, Any]) -> str:
    lengths, sections = tells["area"]["lengths"], tells["area"]["lengths and sections"]
    return (
        "What gives a missing oracle away without reading, as the area under the ROC curve of a small classifier\n"
        f"(0.5 = nothing, 1 = all): the lengths of the passages {lengths}, with the parts of their abstracts that they are "
        f"{sections}.\nOracle passages stand at {tells['oracle_place']} in the mean (0 = first, 1 = last). "
        f"Texts in rows of more than one split: {tells['in_two_splits']}."
    )


def _rights(conf: config.Config) -> str:
    """Say whose the texts are, and the answers."""
    where = conf.articles.source
    if where.startswith("sample:"):
        texts = "The articles are invented, and say nothing about medicine"
    elif where.startswith(PUBMEDQA):
        texts = "The texts of PubMedQA are abstracts from PubMed"
    else:
        texts = f"The rights to the texts are those of {describe_source(conf)}"
    answers = (
        "the answers are a model's and may be wrong"
        if conf.dataset.answer == "completion"
        else "the answers are the articles' own"
    )
    return f"{texts}; {answers}."


def describe_source(conf: config.Config) -> str:
    """Say where the articles come from; of a folder, a file or a glob only the last name, since a card is published."""
    where = conf.articles.source
    if where.startswith("sample:"):
        return f"{where}, articles that raft-spark invents"
    if where.startswith("hf:"):
        return f"{where}, a data set of the Hugging Face hub"
    names = [name for name in re.sub("^.*://", "", where).split("/") if re.search(r"[^.~]", name)]
    while names and re.search(r"[*?\[]", names[-1]):
        names.pop()
    kind = "a bucket" if "://" in where else "local files"
    name = wording.visible(names[-1]).replace("`", "'").replace("\n", " ") if names else ""
    return f"{kind}, `{name}`" if name else kind


def _describe_author(conf: config.Config) -> str:
    if conf.dataset.answer == "original":
        return "is the article's own conclusion"
    model = conf.teacher.model
    return (
        f"{PurePath(model).name if re.match(r'[.~]{0,2}/', model) else model} wrote from the answering passages alone"
    )


def _oracle_share(conf: config.Config) -> float:
    return 0.5 if conf.base.variants == "both" else conf.base.oracle_share
