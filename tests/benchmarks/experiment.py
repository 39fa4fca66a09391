"""What training on RAFT is worth: one small student, trained by several recipes, asked about articles that none of them saw.

    python tests/benchmarks/experiment.py [--sources built-in real] [--recipes base dsf ...] [--seeds 0 1 2]
                                          [--rows 80 320] [--set evaluation.rows=48]

    build/experiment/SOURCE/RECIPE/lake             the recipe's dataset; articles and splits are the same in all of them
    build/experiment/SOURCE/RECIPE/STUDENT          a trained student; student.gguf is what answers
    build/experiment/SOURCE/students.toml           every student as an endpoint, which the evaluation is told
    build/experiment/SOURCE/table.md                what they are worth, in short; its last line names evaluation.html, which tells all
    build/experiment/SOURCE/chart.svg               ROUGE-L of each recipe by what was shown

Each recipe is trained once with each of --seeds (training.seed) and on each number of --rows. With several seeds, the table
has a recipe's mean, with an interval over articles and trainings together.

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import experiment_chart
import growth
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
    "retrieved, 3": ("retrieved", 3),
    "no passage": ("closed", 0),
}
RAFT = "base.distractors=3"
RECIPES: dict[str, Sequence[str]] = {
    "base": (),  # as it came
    "dsf": ("base.distractors=0", "base.oracle_share=1.0"),  # domain-specific fine-tuning: the oracle alone
    "raft-100": (RAFT, "base.oracle_share=1.0"),  # P, in percent
    "raft-70": (RAFT, "base.oracle_share=0.7"),
    "raft-40": (RAFT, "base.oracle_share=0.4"),
    "raft-70-singles": (RAFT, "base.oracle_share=0.7", "base.absent=singles"),  # what the stand-in replaces
    "raft-70-bm25": (RAFT, "base.oracle_share=0.7", "base.distractors_from={bm25=1.0}"),  # hard distractors
}
DEFAULT = ("base", "dsf", "raft-100", "raft-70", "raft-40")


@dataclass(frozen=True)
class Student:
    """One training: of a recipe, on so many rows, with this seed."""

    recipe: str
    rows: int
    seed: int

    @property
    def group(self) -> str:
        """Name what differs from other students but for the seed."""
        return f"{self.recipe}-{self.rows}-rows" if RECIPES[self.recipe] else self.recipe

    @property
    def name(self) -> str:
        """Name the student."""
        return f"{self.group}-seed-{self.seed}" if RECIPES[self.recipe] else self.recipe


def main() -> None:
    """Train what is not trained yet, then ask every student."""
    real = os.environ.get("RAFT_SPARK_REAL_ARTICLES", "")
    sources = {"built-in": "sample:700", **({"real": real} if real else {})}
    parser = argparse.ArgumentParser()
    parser.add_argument("--sources", nargs="+", default=list(sources), choices=list(sources))
    parser.add_argument("--recipes", nargs="+", default=DEFAULT, choices=list(RECIPES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rows", nargs="+", type=int, default=[320])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--set", action="append", default=[], dest="assignments", metavar="section.key=value")
    options = parser.parse_args()
    students = list(
        dict.fromkeys(
            Student(recipe, rows, seed) if RECIPES[recipe] else Student(recipe, 0, 0)
            for recipe in options.recipes
            for rows in options.rows
            for seed in options.seeds
        )
    )
    for source in options.sources:
        folder = options.folder / source
        own = [f"articles.source={sources[source]}", *options.assignments]
        for student in students:
            if RECIPES[student.recipe]:
                trained(folder, student, own)
        made = evaluated(folder, [*own, *RECIPES["raft-100"]], told(folder, students))
        names = list(dict.fromkeys(student.group if len(options.seeds) > 1 else student.name for student in students))
        metrics = pq.read_table(made / "metrics/metrics.parquet").to_pylist()
        table = "\n".join([*lines(metrics, names), f"{made}/evaluation.html"])
        (folder / "table.md").write_text(table + "\n")
        (folder / "chart.svg").write_text(chart(metrics, names))
        sys.stdout.write(f"{table}\n")


def trained(folder: Path, student: Student, assignments: Sequence[str]) -> None:
    """Build a recipe's dataset and train on it; say what it took."""
    recipe, path = folder / student.recipe, folder / student.recipe / student.name
    assignments = [f"lake.root={recipe / 'lake'}", *RECIPES[student.recipe], *assignments]
    steps = max(1, student.rows // config.load([str(CONF)], assignments).training.batch_rows)
    assignments += [f"training.seed={student.seed}", f"training.max_steps={steps}"]
    raft_spark("run", CONF, assignments=assignments)
    raft_spark("model", "train", CONF, "--to", path, assignments=assignments)
    made = json.loads((path / "model/training.json").read_text())
    losses = [round(entry["eval_loss"], 3) for entry in made["log"] if "eval_loss" in entry]
    sys.stdout.write(f"{path}: loss on validation {losses}, {made['seconds']} s, {made['data']['train']}\n")


def told(folder: Path, students: Sequence[Student]) -> Path:
    """Write every student as an endpoint of its own, and which of them are of one recipe."""
    path = folder / "students.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    groups: dict[str, list[str]] = {}
    for student in students:
        groups.setdefault(student.group, []).append(student.name)
    of_recipes = [f"{json.dumps(name)} = {json.dumps(of)}" for name, of in groups.items() if len(of) > 1]
    sections = [f"[evaluation]\nstudents = {json.dumps([student.name for student in students])}\n"]
    sections += ["[evaluation.recipes]", *of_recipes, ""]
    for student in students:
        weights = folder / student.recipe / student.name / "student.gguf"
        sections.append(f'[endpoints."{student.name}"]\nkind = "embedded"')
        sections.append(f"weights = {json.dumps(str(weights))}\n" if RECIPES[student.recipe] else "")
    path.write_text("\n".join(sections))
    return path


def evaluated(folder: Path, assignments: Sequence[str], students: Path) -> Path:
    """Ask the students about the held-out articles of one lake, which all recipes have in common; return what was made."""
    lake = f"lake.root={folder / 'evaluation'}"
    raft_spark("run", CONF, assignments=[lake, *assignments])
    raft_spark("evaluation", CONF, students, assignments=[lake, *assignments])
    conf = config.load([str(CONF), str(students)], [lake, *assignments])
    return Path(browse.folder(conf.lake, tables.require(conf.lake, schemas.EVALUATION)))


def chart(metrics: Sequence[Mapping[str, Any]], students: Sequence[str]) -> str:
    """Draw ROUGE-L of each student by what was shown to it."""
    found = {
        (row["student"], row["setting"], row["distractors"]): row
        for row in metrics
        if row["figure"] == "rouge_l" and not row["place"] and row["against"] is None
    }
    shown = {name: case for name, case in COLUMNS.items() if all((student, *case) in found for student in students)}
    points = {student: [found[student, *case] for case in shown.values()] for student in students}
    drawn = experiment_chart.chart("ROUGE-L by what was shown, with 95 % intervals", list(shown), points)
    return growth.themed(drawn)


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
