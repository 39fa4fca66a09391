"""Find rows without their oracle by gradient boosting, which finds more than the classifier of the card.

    build/env-leakage/bin/python tests/benchmarks/boosted_leakage.py [--articles 20000] [--check]        (make bench-leakage)

For each recipe the rows of base are described by four sets of features, and scikit-learn's HistGradientBoostingClassifier
learns on four fifths of the articles what it is tested with on the last fifth, five times. Prints the area under the ROC curve
of each (0.5 is a guess) with the interval of 95 %, keeps it in build/bench/boosted_leakage.json, and with --check fails when a set finds
more than MOST with stand-ins. The real rows come from the Parquet file that RAFT_SPARK_REAL_ARTICLES names, if it is set.
"""

import argparse
import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import GroupKFold, cross_val_predict

os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")

from raft_spark import config
from raft_spark.lake import parquet, session, tables
from raft_spark.recipe import leakage
from raft_spark.stages import articles, base

MOST = 0.53
RECIPES = {
    "stand_in": ["base.absent=stand_in"],
    "stand_in and bm25": ["base.absent=stand_in", "base.distractors_from={bm25=1.0}"],
    "singles": ["base.absent=singles"],
}
COLUMNS = ["pubid", "distracted", "documents"]
Row = Mapping[str, Any]


def main() -> None:
    """Measure, print, keep, check."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--articles", type=int, default=20_000)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    sources = {"built-in": f"sample:{options.articles}", "real": os.environ.get("RAFT_SPARK_REAL_ARTICLES", "")}
    found = {
        f"{name}, {recipe}": areas(rows_of(source, recipe))
        for name, source in sources.items()
        if source
        for recipe in RECIPES
    }
    session.stop()
    kept = Path("build/bench/boosted_leakage.json")
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(found, indent=1))
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    found_out = {
        f"{name}, {features}: {area}"
        for name, of in found.items()
        for features, (area, *_) in of.items()
        if name.endswith("stand_in") and area > MOST
    }
    if options.check and found_out:
        sys.exit(f"more than {MOST}: {sorted(found_out)}")


def rows_of(source: str, recipe: str) -> list[Row]:
    """Return the rows of base of a source."""
    with tempfile.TemporaryDirectory(prefix="raft-leakage-") as lake:
        settings = [f"lake.root={lake}", f"articles.source={source}", *RECIPES[recipe]]
        conf = config.load(assignments=[*settings, 'spark."spark.master"="local[2]"'])
        articles.run(conf)
        groups = tables.row_groups(conf.lake, base.run(conf))
        return [row for group in groups for row in parquet.read_row_group(group, COLUMNS).to_pylist()]


def areas(rows: Sequence[Row]) -> dict[str, list[float]]:
    """Return the area under the ROC curve and its interval, for each set of features together with those before."""
    missing = np.array([row["distracted"] for row in rows])
    pubids = np.array([row["pubid"] for row in rows])
    found, columns = {}, []
    for name, describe in FEATURES.items():
        columns.append(np.array([describe(row["documents"]) for row in rows], float))
        scores = cross_val_predict(
            HistGradientBoostingClassifier(random_state=0),
            np.concatenate(columns, axis=1),
            missing,
            groups=pubids,
            cv=GroupKFold(5),
            method="predict_proba",
        )[:, 1]
        area = leakage.auc(scores, missing)
        found[name] = [round(value, 3) for value in (area, *leakage.interval(area, missing))]
    return found


def lengths(documents: Sequence[Row]) -> list[float]:
    """Return number, sum, extremes and ends of the passages' lengths."""
    sizes = [len(each["text"]) for each in documents]
    return [
        len(sizes),
        sum(sizes),
        *np.quantile(sizes, (0, 0.25, 0.5, 0.75, 1)),
        sizes[0],
        sizes[-1],
        float(np.std(sizes)),
    ]


def characters(documents: Sequence[Row]) -> list[float]:
    """Return how many digits, signs and capitals the passages have, and how unlike they are in that."""
    shares = [[len(re.findall(kind, each["text"])) / len(each["text"]) for kind in KINDS] for each in documents]
    return [
        value for column in zip(*shares, strict=True) for value in (min(column), max(column), float(np.std(column)))
    ]


KINDS = (r"\d", r"[^\w\s]", r"[A-Z]", r"[%=<>]")


def places(documents: Sequence[Row]) -> list[float]:
    """Return where in their abstracts the passages stand."""
    at = [each["passage"] for each in documents]
    return [len(set(at)), max(at), at.count(0), at.count(1), at.count(2), float(np.std(at)), at[0], at[-1]]


def words(documents: Sequence[Row]) -> list[float]:
    """Return how many words two passages share, by pairs of passages: the most, the next ones, the mean."""
    known = [set(re.findall(r"\w{4,}", each["text"].lower())) for each in documents]
    shared = sorted((len(one & two) / max(1, len(one | two)) for one, two in combinations(known, 2)), reverse=True)
    shared += [0.0] * 3
    return [*shared[:3], float(np.mean(shared)), float(np.std(shared)), sum(each > 0.1 for each in shared)]


FEATURES = {"lengths": lengths, "digits and punctuation": characters, "places": places, "shared words": words}

if __name__ == "__main__":
    main()
