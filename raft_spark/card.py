"""Counts -> README.md of a published folder: the front matter that `datasets` reads, and what a reader should know."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from raft_spark import __version__, config, parts, schemas
from raft_spark.formats import FORMATS

_CARD = """---
configs:
- config_name: default
  description: {digest}
  data_files:
{data_files}tags:
- raft
- retrieval-augmented-fine-tuning
---

# RAFT dataset: {name}

{rows} rows in {about}, made by raft-spark {version} from {source}. Each holds a question, passages of which some answer it
(for {share} of the rows) and {k} or more do not, and an answer that {origin}
(RAFT, arXiv 2403.10131).{absent}

| split | rows | without their oracle passages |
|---|---|---|
{splits}

Of {all_rows} rows {left_out} were left out{reasons}.{flagged}{shortened}
Tokens of the answers: {prompt_tokens} in, {completion_tokens} out, {dollars} dollars at the configured prices.

How it was made: k = {k} distractors, P = {share}, seed {seed}, {lengths}, answers at temperature {temperature} with at most
{max_new_tokens} tokens. `manifest.json`, one folder up, holds every setting, version and checksum.

What gives a missing oracle away without reading, as the area under the ROC curve of a small classifier (0.5 = nothing, 1 = all):
the lengths of the passages {lengths_tell}, with the parts of their abstracts that they are {sections_tell}. Oracle passages stand at
{oracle_place} in the mean (0 = first, 1 = last). Texts in rows of more than one split: {in_two_splits}.

The texts of PubMedQA are abstracts from PubMed; the answers are a model's and may be wrong.
"""


_ORIGINS = {
    "completion": "{model} wrote from the answering passages alone",
    "original": "is the article's own conclusion",
}
_ABSENT = {
    "oracle": "",
    "answer_only": " Rows without their oracle passages give the answer without reasoning and quotes.",
    "refuse": " Rows without their oracle passages say that the passages do not answer the question.",
}


def written(name: str, files: Iterable[parts.DataFile], counts: Mapping[str, Any], conf: config.Config) -> str:
    """Return the card of one format's folder, whose shards are `files`, by paths below it.

    `datasets` names its cache by the front matter alone: without a digest of the shards it gives the rows of another version.
    """
    files = sorted(files, key=lambda file: file.path)
    by_split: dict[str, list[parts.DataFile]] = {}
    for file in files:
        by_split.setdefault(file.path.split("/")[-1].split("-")[0], []).append(file)
    data_files, splits = "", []
    for split in filter(by_split.__contains__, schemas.SPLITS):
        paths = "".join(f"    - {file.path}\n" for file in by_split[split])
        data_files += f"  - split: {split}\n    path:\n{paths}"
        rows = sum(file.rows for file in by_split[split])
        splits.append(f"| {split} | {rows} | {counts['distracted'].get(split, 0)} |")
    rejected, shortened = counts["rejected"], sum(counts["shortened"].values())
    reasons, flagged = (
        ", ".join(f"{count} {reason}" for reason, count in found.items()) for found in (rejected, counts["flagged"])
    )
    return _CARD.format(
        digest=hashlib.sha256("".join(file.sha256 for file in files).encode()).hexdigest(),
        data_files=data_files,
        name=name,
        rows=sum(file.rows for file in files),
        about=FORMATS[name].about,
        version=__version__,
        source=conf.articles.source,
        share=0.5 if conf.base.variants == "both" else conf.base.oracle_share,
        k=conf.base.distractors,
        origin=_ORIGINS[conf.dataset.answer].format(model=conf.teacher.model),
        absent=_ABSENT[conf.dataset.absent_answer],
        splits="\n".join(splits),
        all_rows=counts["rows"],
        left_out=sum(rejected.values()),
        reasons=f" ({reasons})" if reasons else "",
        flagged=f" Kept, and to be looked at: {flagged}." if flagged else "",
        shortened=f" {shortened} rows lost distractors to fit into {conf.dataset.max_tokens} tokens."
        if shortened
        else "",
        prompt_tokens=counts["tokens"]["prompt"],
        completion_tokens=counts["tokens"]["completion"],
        dollars=counts["dollars"],
        lengths_tell=counts["tells"]["area"]["lengths"],
        sections_tell=counts["tells"]["area"]["lengths and sections"],
        oracle_place=counts["tells"]["oracle_place"],
        in_two_splits=counts["tells"]["in_two_splits"],
        seed=conf.base.seed,
        lengths="as many passages with the oracle as without"
        if conf.base.equal_length
        else "k passages without the oracle",
        temperature=" or ".join(map(str, (conf.completions.temperature, *conf.completions.asked_again_at))),
        max_new_tokens=conf.completions.max_new_tokens,
    )
