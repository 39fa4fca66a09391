"""What training on RAFT is worth: one small student, trained by five recipes, asked about articles that none of them saw.

    python tests/benchmarks/experiment.py [--sources built-in real] [--recipes base dsf ...] [--set training.max_steps=2]

    build/experiment/SOURCE/RECIPE/lake             the recipe's dataset; articles and splits are the same in all of them
    build/experiment/SOURCE/RECIPE/student          the trained student; student.gguf is what answers
    build/experiment/SOURCE/students.toml           every student as an endpoint, which the evaluation is told
    build/experiment/SOURCE/table.md                what they are worth, in short; evaluation.html beside it tells all

Hours, on a GPU where there is one. Every step is skipped when it is done, and an interrupted training goes on. The facts
of built-in articles stand nowhere else, so no student can know them; real articles are those of a Parquet file in the
PubMedQA schema that RAFT_SPARK_REAL_ARTICLES names.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from raft_spark import config
from raft_spark.lake import browse, schemas, tables
from raft_spark.scoring import scores
from raft_spark.scoring.summary import format_interval
from raft_spark.scoring.titles import METRIC_TITLES

os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
CONF = Path(__file__).with_suffix(".toml")
FOLDER = Path("build/experiment")
COLUMNS = {
    "oracle alone": ("alone", 0),
    "k = 1": ("with", 1),
    "k = 3": ("with", 3),
    "k = 6": ("with", 6),
    "k = 3, without the oracle": ("without", 3),
    "no passage": ("closed", 0),
}
RAFT = "base.distractors=3"
RECIPES: dict[str, Sequence[str]] = {
    "base": (),  # as it came
    "dsf": ("base.distractors=0", "base.oracle_share=1.0"),  # domain-specific fine-tuning: the oracle alone
    "raft-100": (RAFT, "base.oracle_share=1.0"),  # P, in percent
    "raft-70": (RAFT, "base.oracle_share=0.7"),
    "raft-40": (RAFT, "base.oracle_share=0.4"),
}


def main() -> None:
    """Train what is not trained yet, then ask every student."""
    real = os.environ.get("RAFT_SPARK_REAL_ARTICLES", "")
    sources = {"built-in": "sample:700", **({"real": real} if real else {})}
    parser = argparse.ArgumentParser()
    parser.add_argument("--sources", nargs="+", default=list(sources), choices=list(sources))
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--set", action="append", default=[], dest="assignments", metavar="section.key=value")
    options = parser.parse_args()
    for source in options.sources:
        folder = options.folder / source
        own = [f"articles.source={sources[source]}", *options.assignments]
        for recipe in filter(RECIPES.get, options.recipes):
            trained(folder / recipe, [*own, *RECIPES[recipe]])
        students = told(folder, options.recipes)
        made = evaluated(folder, [*own, *RECIPES["raft-100"]], students)
        table = "\n".join(lines(pq.read_table(made / "metrics/metrics.parquet").to_pylist(), options.recipes))
        (folder / "table.md").write_text(table + "\n")
        sys.stdout.write(f"{made}/evaluation.html\n\n{table}\n")


def trained(folder: Path, assignments: Sequence[str]) -> None:
    """Build a recipe's dataset and train on it; say what it took."""
    assignments = [f"lake.root={folder / 'lake'}", *assignments]
    raft_spark("run", CONF, assignments=assignments)
    raft_spark("model", "train", CONF, "--to", folder / "student", assignments=assignments)
    made = json.loads((folder / "student/model/training.json").read_text())
    losses = [round(entry["eval_loss"], 3) for entry in made["log"] if "eval_loss" in entry]
    sys.stdout.write(f"{folder}: loss on validation {losses}, {made['seconds']} s, {made['data']['train']}\n")


def told(folder: Path, recipes: Sequence[str]) -> Path:
    """Write every student as an endpoint of its own."""
    path = folder / "students.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {recipe: folder / recipe / "student/student.gguf" for recipe in recipes if RECIPES[recipe]}
    sections = [
        f'[endpoints."{recipe}"]\nkind = "embedded"\n'
        + (f"weights = {json.dumps(str(weights[recipe]))}\n" if recipe in weights else "")
        for recipe in recipes
    ]
    path.write_text("\n".join([f"[evaluation]\nstudents = {json.dumps(list(recipes))}\n", *sections]))
    return path


def evaluated(folder: Path, assignments: Sequence[str], students: Path) -> Path:
    """Ask the students about the held-out articles of one lake, which all recipes have in common; return what was made."""
    lake = f"lake.root={folder / 'evaluation'}"
    raft_spark("run", CONF, assignments=[lake, *assignments])
    raft_spark("evaluation", CONF, students, assignments=[lake, *assignments])
    conf = config.load([str(CONF), str(students)], [lake, *assignments])
    return Path(browse.folder(conf.lake, tables.require(conf.lake, schemas.EVALUATION)))


def lines(metrics: Sequence[Mapping[str, Any]], students: Sequence[str]) -> Iterator[str]:
    """Yield a table of Markdown: accuracy and ROUGE-L of each student, also less those of the first two, and the floors."""
    found = {
        (row["student"], row["against"], row["setting"], row["distractors"], row["figure"]): row
        for row in metrics
        if not row["place"]
    }

    def cell(figure: str, student: str, setting: str, k: int, against: str | None = None) -> str:
        row = found.get((student, against, setting, k, figure))
        return format_interval(row, 2) if row and row["value"] is not None else ""

    for figure in ("accuracy", "rouge_l"):
        heads = [
            METRIC_TITLES[figure],
            *COLUMNS,
            "lost at k = 3",
            *(f"k = 3, less {other}'s" for other in students[:2]),
        ]
        yield f"| {' | '.join(heads)} |"
        yield "|---" * len(heads) + "|"
        for student in students:
            lost = cell(f"{figure}_lost", student, "with", 3)
            less = [cell(figure, student, "with", 3, other) for other in students[:2]]
            of_cases = (cell(figure, student, *case) for case in COLUMNS.values())
            yield f"| {' | '.join([student, *of_cases, lost, *less])} |"
        for floor in (scores.MAJORITY, scores.QUESTION, scores.BEST_SENTENCE):
            if told := cell(figure, floor, "baseline", 0):
                yield f"| *{floor}* | {told} |{' |' * (len(heads) - 2)}"
        yield ""


def raft_spark(*words: str | Path, assignments: Sequence[str]) -> None:
    """Run a verb of the command line; the experiment ends where it fails, and goes on from there the next time."""
    sets = [text for assignment in assignments for text in ("--set", assignment)]
    program = "import sys; from raft_spark.cli.main import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-P", "-c", program, *map(str, words), *sets], check=False)
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
