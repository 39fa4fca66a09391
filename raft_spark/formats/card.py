"""Counts and settings of a dataset -> its card, README.md: front matter for `datasets`, and a description for people."""

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
    """Return the card of one format's folder. `files` are its shards, with paths relative to the folder."""
    shards = sorted(files, key=lambda file: file.path)
    by_split = {split: [file for file in shards if _split(file) == split] for split in schemas.SPLITS}
    by_split = {split: found for split, found in by_split.items() if found}
    paragraphs = (
        f"# RAFT dataset: {name}",
        _contents(name, shards, conf),
        _splits(by_split, counts),
        _answers(counts, conf),
        _recipe(conf),
        *([_found(counts["found"])] if counts.get("found") else []),
        _leakage(counts["tells"]),
        _rights(conf),
    )
    return _front_matter(name, by_split) + "\n" + "\n\n".join(paragraphs) + "\n"


def _split(file: parquet.DataFile) -> str:
    return PurePath(file.path).name.partition("-")[0]


def _front_matter(name: str, by_split: Mapping[str, Shards]) -> str:
    """Return the YAML that `datasets` reads: shards by split, and features.

    `datasets` derives the name of its cache from the front matter alone. Without a digest of the shards in it, loading
    a new version of the dataset would return the cached rows of an old one.
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
    """Yield the features in the YAML of `datasets`; types are strings, booleans and lists of structs."""
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
        f"{conf.base.distractors} or more do not,\n"
        f"and an answer that {_describe_author(conf)} (RAFT, arXiv 2403.10131)."
        f"{_ABSENT[conf.dataset.absent_answer]}"
    )


def _splits(by_split: Mapping[str, Shards], counts: Mapping[str, Any]) -> str:
    table = ["| split | rows | without their oracle passages |", "|---|---|---|"]
    for split, found in by_split.items():
        table.append(f"| {split} | {sum(file.rows for file in found)} | {counts['distracted'].get(split, 0)} |")
    return "\n".join(table)


def _answers(counts: Mapping[str, Any], conf: config.Config) -> str:
    rejected, shortened, tokens = counts["rejected"], sum(counts["shortened"].values()), counts["tokens"]
    sentences = f"Of {counts['rows']} rows {sum(rejected.values())} were left out"
    sentences += f" ({wording.counts(rejected)})." if rejected else "."
    if counts["flagged"]:
        sentences += f" Kept, and to be looked at: {wording.counts(counts['flagged'])}."
    if shortened:
        sentences += f" {shortened} rows lost distractors to fit into {conf.dataset.max_tokens} tokens."
    read, written = ("not counted" if tokens[name] is None else tokens[name] for name in ("prompt", "completion"))
    uncounted = max(counts.get("not_counted", {}).values(), default=0)
    sentences += f"\nTokens of the answers: {read} in, {written} out"
    if uncounted:
        sentences += f", without {uncounted} answers whose tokens the server did not count"
    if counts["dollars"] is None:
        return f"{sentences}; no price is configured."
    return f"{sentences}, {counts['dollars']} dollars at the configured prices."


ABSENT = {
    "stand_in": "another article's passages in place of a missing oracle",
    "singles": "a single passage in place of each of a missing oracle",
    "nothing": "k passages without the oracle",
}


def _recipe(conf: config.Config) -> str:
    recipe = f"How it was made: k = {conf.base.distractors} distractors, P = {_oracle_share(conf)}, "
    recipe += f"seed {conf.base.seed}, {ABSENT[conf.base.absent]}"
    if conf.dataset.answer == "completion":
        temperatures = " or ".join(map(str, (conf.completions.temperature, *conf.completions.retry_temperatures)))
        recipe += f",\nanswers at temperature {temperatures} with at most {conf.completions.max_new_tokens} tokens"
    return f"{recipe}. `manifest.json`, one folder up, holds every setting, version and checksum."


def _found(found: Mapping[str, Any]) -> str:
    total = sum(method["documents"] for method in found["methods"].values())
    parts = [
        f"{wording.share(method['documents'], total)} {name}"
        + (f" (mean score {method['score']:g})" if method["score"] is not None else "")
        for name, method in found["methods"].items()
    ]
    return (
        f"How distractors and stand-ins were found: {', '.join(parts)}. {found['second_oracles']} near articles were left out, "
        "since they may\nanswer the question too: the score of a passage is above that of the answering ones, or a text is nearly the same."
    )


def _leakage(leakage: Mapping[str, Any]) -> str:
    area, (low, high) = leakage["area"], leakage["interval"]
    return (
        f"Label leakage: how well a small classifier, which learned from {leakage['learned_from']} rows, finds the rows without "
        "oracle,\nas the area under its ROC curve (0.5 = not at all, 1 = always). From the lengths of the passages: "
        f"{area['lengths']}; with the sections of\ntheir abstracts: {area['lengths and sections']}; with the words that they share: "
        f"{area['lengths, sections and words']} (95 % interval {low} to {high}).\n"
        f"Mean position of oracle passages: {leakage['oracle_place']} (0 = first, 1 = last). "
        f"Texts in rows of more than one split: {leakage['in_two_splits']}."
    )


def _rights(conf: config.Config) -> str:
    """Return who has the rights to the texts, and where the answers come from."""
    location = conf.articles.source
    if location.startswith("sample:"):
        texts = "The articles are invented, and say nothing about medicine"
    elif location.startswith(PUBMEDQA):
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
    """Return where the articles come from; of a path or a glob only the last name, because cards are published."""
    location = conf.articles.source
    if location.startswith("sample:"):
        return f"{location}, articles that raft-spark invents"
    if location.startswith("hf:"):
        return f"{location}, a data set of the Hugging Face hub"
    names = [name for name in re.sub("^.*://", "", location).split("/") if re.search(r"[^.~]", name)]
    while names and re.search(r"[*?\[]", names[-1]):
        names.pop()
    kind = "a bucket" if "://" in location else "local files"
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
