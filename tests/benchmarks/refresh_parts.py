"""Measure which parts of base and dataset a refresh could take over by reference when the source grows a little.

    python tests/benchmarks/refresh_parts.py [--articles 20000 211269] [--forms end few spread] [--tables base dataset]

A source grows by the last 1 % of its articles (`end`), by the last 0.1 % (`few`) and by 1 % at random places (`spread`). A row of
the old version stays if the new one has an equal row, and a file or a row group stays if all its rows do: only then could a new
manifest name it. Prints a table of Markdown, and keeps it in build/bench/refresh_parts.md: the shares that change and stay, the
CPU seconds of the stage in the refresh, and the bytes and CPU seconds that files taken over would save, at most.
Articles' own answers, no teacher.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from base import written_source
from watch import watched

from raft_spark import config
from raft_spark.lake import browse, schemas, session, tables
from raft_spark.lake.tables import Version
from raft_spark.stages import articles, base, completions, dataset

FORMS: Mapping[str, Callable[[int], np.ndarray]] = {  # the numbers of the articles that are new
    "end": lambda count: np.arange(count - count // 100, count),
    "few": lambda count: np.arange(count - count // 1_000, count),
    "spread": lambda count: np.random.default_rng(0).choice(count, count // 100, replace=False),
}
NAMES = ("articles", "grows", "table", "rows changed", "files", "stay", "row groups", "stay", "MB", "MB saved")
CPU_NAMES = ("CPU s of the stage", "saved", "CPU s of all stages")


@dataclass(frozen=True)
class Part:
    """A file of a version: a digest of each row by row group, and its bytes."""

    row_groups: Sequence[np.ndarray]
    size: int


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--articles", type=int, nargs="+", default=[20_000, 211_269])
    parser.add_argument("--forms", nargs="+", default=list(FORMS))
    parser.add_argument("--tables", nargs="+", default=[schemas.BASE, schemas.DATASET])
    options = parser.parse_args()
    names = (*NAMES, *CPU_NAMES)
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for count in options.articles:
        with tempfile.TemporaryDirectory(prefix="raft-bench-") as folder:
            lines += measured(count, Path(folder), options)
        session.stop()
    text = "\n".join(lines) + "\n"
    kept = Path("build/bench/refresh_parts.md")
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(text)
    sys.stdout.write(text)


def measured(count: int, folder: Path, options: argparse.Namespace) -> Iterator[str]:
    """Yield a line for each form of growth, in a lake of its own, and each table."""
    source = pq.read_table(written_source(folder, count))
    for form in options.forms:
        old = np.delete(np.arange(count), FORMS[form](count))
        conf = settled(folder, form)
        before, _ = run(conf, source.take(pa.array(old)), options.tables)
        after, seconds = run(conf, source, options.tables)
        for table in options.tables:
            found = compared(parts(conf, before[table]), parts(conf, after[table]))
            saved = seconds[table] * found.pop("share")
            cpu = (f"{seconds[table]:.1f}", f"{saved:.1f}", f"{sum(seconds.values()):.1f}")
            yield "| " + " | ".join((f"{count:,}", form, table, *found.values(), *cpu)) + " |"


def settled(folder: Path, form: str) -> config.Config:
    """Settle a lake for a form of growth."""
    words = [f"lake.root={folder}/{form}", f"articles.source={folder}/{form}.parquet", "dataset.answer=original"]
    return config.load(assignments=[*words, 'spark."spark.master"="local[2]"'])


def run(conf: config.Config, source: pa.Table, wanted: Sequence[str]) -> tuple[dict[str, Version], dict[str, float]]:
    """Build the tables from a source; return their versions, and the CPU seconds of each stage."""
    pq.write_table(source, conf.articles.source)
    session.start(conf)
    stages = {schemas.ARTICLES: articles.run, schemas.BASE: base.run}
    if schemas.DATASET in wanted:
        stages |= {schemas.COMPLETIONS: completions.run, schemas.DATASET: dataset.run}
    seconds = {table: sum(watched(lambda stage=stage: stage(conf)).cpu.values()) for table, stage in stages.items()}
    return {table: tables.require(conf.lake, table) for table in stages}, seconds


def parts(conf: config.Config, version: Version) -> list[Part]:
    """Return the files of a version that have rows."""
    folder = Path(browse.folder(conf.lake, version))
    files = [file for file in version.files if file.path.endswith((".parquet", ".jsonl")) and file.rows]
    return [Part(row_groups(folder / file.path), file.bytes) for file in files]


def row_groups(path: Path) -> list[np.ndarray]:
    """Return the digests of a file's rows by row group. A file of lines is one."""
    if path.suffix == ".jsonl":
        return [np.array([hash(line) for line in path.read_bytes().splitlines()])]
    with pq.ParquetFile(path) as file:
        if "documents" not in file.schema_arrow.names:
            rows = (file.read_row_group(number).to_pylist() for number in range(file.num_row_groups))
            return [np.array([hash(repr(row)) for row in group]) for group in rows]
        columns = ["pubid", "distracted", "documents"]
        return [base_digests(file.read_row_group(number, columns)) for number in range(file.num_row_groups)]


def base_digests(rows: pa.Table) -> np.ndarray:
    """Return a digest of each row of base: which passages it has in which order. No text of an article changes here."""
    documents, digests = rows["documents"].combine_chunks(), []
    sources, places = (documents.flatten().field(name).to_numpy() for name in ("pubid", "passage"))
    ends = documents.offsets.to_numpy()
    for number, key in enumerate(zip(rows["pubid"].to_pylist(), rows["distracted"].to_pylist(), strict=True)):
        own = slice(ends[number] - ends[0], ends[number + 1] - ends[0])
        digests.append(hash((*key, sources[own].tobytes(), places[own].tobytes())))
    return np.array(digests)


def compared(old: Sequence[Part], new: Sequence[Part]) -> dict[str, object]:
    """Return what changed and what stays, as texts; `share` is the share of the bytes that could be taken over."""
    kept = np.concatenate([group for part in new for group in part.row_groups])
    stays = [[np.isin(group, kept) for group in part.row_groups] for part in old]
    rows = np.concatenate([group for part in stays for group in part])
    groups = [bool(group.all()) for part in stays for group in part]
    files = [all(group.all() for group in part) for part in stays]
    size, saved = (
        sum(part.size for part, stay in zip(old, files, strict=True) if stay or whole) for whole in (True, False)
    )
    return {
        "changed": f"{1 - rows.mean():.2%}",
        "files": str(len(files)),
        "files stay": str(sum(files)),
        "groups": str(len(groups)),
        "groups stay": str(sum(groups)),
        "MB": f"{size / 1e6:.0f}",
        "MB saved": f"{saved / 1e6:.0f}",
        "share": saved / size,
    }


if __name__ == "__main__":
    main()
