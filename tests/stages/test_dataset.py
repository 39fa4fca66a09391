"""base + completions -> dataset: each format loads with `datasets`, gates reject with a reason, the bytes do not change."""

import itertools
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import Make, Settle, article, write_articles
from raft_spark import config
from raft_spark.config.fields import FormatName
from raft_spark.errors import DamageError, InputError
from raft_spark.formats import placement
from raft_spark.formats.placement import Placement
from raft_spark.inference import acceptance
from raft_spark.lake import browse, dataframes, schemas, session, tables
from raft_spark.lake.filesystem import Storage
from raft_spark.stages import articles, base, completions, dataset, dataset_rows, dataset_shards
from support.fake_server import behave

REFUSAL_ANSWER = "I don't know: the given passages do not answer the question."


pytestmark = pytest.mark.spark
Walk = Callable[[config.Config], tables.Version]
ALL = f"dataset.formats={json.dumps(get_args(FormatName))}"
LOAD = """
import datasets, json, sys
found = datasets.load_dataset(sys.argv[1], cache_dir=sys.argv[2])
print(json.dumps({split: {"rows": rows.num_rows, "columns": rows.column_names, "first": rows[0]} for split, rows in found.items()}))
"""


@pytest.fixture
def walked(make: Make) -> Walk:
    def walk(conf: config.Config) -> tables.Version:
        make(conf, articles, base, completions)
        return dataset.run(conf)

    return walk


def loaded(conf: config.Config, version: tables.Version, name: str, cache: Path) -> dict[str, Any]:
    """Load a folder as a trainer would, offline, in a process of its own."""
    folder = f"{browse.folder(conf.lake, version)}/{name}"
    command = [sys.executable, "-W", "ignore", "-c", LOAD, folder, str(cache)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={"HF_HUB_OFFLINE": "1", "PATH": "", "HOME": str(cache)}
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("file", ["jsonl", pytest.param("parquet", marks=pytest.mark.slow)])
def test_every_format_loads_with_datasets(settled: Settle, walked: Walk, tmp_path: Path, file: str):
    conf = settled(ALL, f"dataset.file={file}", "dataset.shard_rows=100")
    version = walked(conf)
    counts = version.counts
    assert counts["rows"] == 300
    assert sum(counts["kept"].values()) + sum(counts["rejected"].values()) == 300
    columns = {
        "messages": ["messages"],
        "prompt_completion": ["prompt", "completion"],
        "answer_only": ["prompt", "completion"],
        "preference": ["prompt", "chosen", "rejected"],
        "notebook": ["question", "context", "oracle", "distracted", "original_answer", "synthetic_answer"],
        "jumpstart": ["instruction", "context", "response"],
        "bedrock": ["schemaVersion", "system", "messages"],
        "alpaca": ["instruction", "input", "output", "system"],
        "sharegpt": ["conversations", "system"],
    }
    assert tuple(columns) == get_args(FormatName)
    for name, expected in columns.items():
        found = loaded(conf, version, name, tmp_path / name)
        assert {split: part["rows"] for split, part in found.items()} == counts["kept"]
        assert all(part["columns"] == expected for part in found.values())
    assert len([f for f in version.files if f.path.startswith("messages/data/train-") and f.path.endswith(file)]) == 3


def test_a_record_holds_question_passages_and_answer(settled: Settle, walked: Walk, tmp_path: Path):
    conf = settled(ALL)
    version = walked(conf)
    notebook = loaded(conf, version, "notebook", tmp_path / "a")["train"]["first"]
    turns = loaded(conf, version, "messages", tmp_path / "b")["train"]["first"]["messages"]
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant"]
    assert notebook["context"] in turns[1]["content"]
    assert notebook["question"] in turns[1]["content"]
    assert turns[2]["content"] == notebook["synthetic_answer"]
    assert notebook["distracted"] is (notebook["oracle"].split("\n\n")[0] not in notebook["context"])


def test_articles_own_answers_need_no_teacher_and_what_astray_means_is_another_articles(settled: Settle, walked: Walk):
    conf = settled(
        'dataset.formats=["notebook","preference"]',
        "dataset.answer=original",
        "dataset.absent_answer=refuse",
        "completions.decision=true",
    )
    version = walked(conf)
    answers = tables.require(conf.lake, schemas.COMPLETIONS)
    assert (answers.counts["distinct"], answers.counts["asked"], answers.counts["missing"]) == (0, 0, 0)
    assert version.counts["kept"] == tables.require(conf.lake, schemas.BASE).counts["rows"]
    folder = Path(browse.folder(conf.lake, version))
    rows = [json.loads(line) for line in (folder / "notebook/data/train-00000-of-00001.jsonl").read_text().splitlines()]
    pairs = [
        json.loads(line) for line in (folder / "preference/data/train-00000-of-00001.jsonl").read_text().splitlines()
    ]
    known = {row["original_answer"] for row in rows}
    for row, pair in zip(rows, pairs, strict=True):
        said = row["synthetic_answer"]
        assert pair["chosen"][0]["content"] == said
        decision, _, answer = said.partition(". ")
        assert (decision in {"Yes", "No", "Maybe"} and answer == row["original_answer"]) or row["distracted"]
        assert said == REFUSAL_ANSWER or not row["distracted"]
        assert pair["rejected"][0]["content"].partition(". ")[2] in known - {row["original_answer"]}


def test_the_rejected_answer_is_that_of_the_hardest_distractor_and_the_card_says_how_they_were_found(
    settled: Settle, walked: Walk
):
    conf = settled('dataset.formats=["preference"]', "dataset.answer=original", "base.distractors_from={bm25=0.6}")
    version = walked(conf)
    base_rows = pq.read_table(browse.folder(conf.lake, tables.require(conf.lake, schemas.BASE)) + "/data").to_pylist()
    answer_of = {row["pubid"]: row["original_answer"] for row in base_rows}
    expected = {}
    for row in base_rows:
        others = [each for each in row["documents"] if not each["oracle"]]
        ranked = [each for each in others if each["rank"]]
        hardest = min(ranked, key=lambda each: (each["rank"], each["pubid"])) if ranked else others[0]
        expected[row["original_answer"]] = answer_of[hardest["pubid"]]
    folder = Path(browse.folder(conf.lake, version), "preference")
    lines = [line for path in sorted(folder.glob("data/*.jsonl")) for line in path.read_text().splitlines()]
    pairs = {pair["chosen"][0]["content"]: pair["rejected"][0]["content"] for pair in map(json.loads, lines)}
    assert pairs == {chosen: expected[chosen] for chosen in pairs}
    assert len(pairs) > 290
    methods = Counter(each["method"] for row in base_rows for each in row["documents"] if each["method"])
    found = version.counts["found"]
    assert {name: method["documents"] for name, method in found["methods"].items()} == methods
    assert found["second_oracles"] == sum(row["second_oracles"] for row in base_rows)
    readme = (folder / "README.md").read_text()
    assert f"bm25 (mean score {found['methods']['bm25']['score']:g})" in readme
    assert f"{found['second_oracles']} near articles were left out" in readme


def test_with_both_variants_a_question_is_asked_once_and_stands_with_and_without_its_oracle(
    settled: Settle, walked: Walk
):
    found = {}
    for strategy in ("broadcast", "join"):
        conf = settled('dataset.formats=["notebook"]', "base.variants=both", f"base.strategy={strategy}")
        tables.storage(conf.lake, schemas.BASE).delete("")
        version = walked(conf)
        assert tables.require(conf.lake, schemas.COMPLETIONS).counts["distinct"] == 300
        assert (version.counts["rows"], sum(version.counts["kept"].values())) == (600, 600)
        path = Path(browse.folder(conf.lake, version), "notebook/data/train-00000-of-00001.jsonl")
        found[strategy] = path.read_text()
    assert found["broadcast"] == found["join"]
    rows = [json.loads(line) for line in found["join"].splitlines()]
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        assert (first["question"], first["distracted"]) == (second["question"], False)
        assert second["distracted"]
        assert all(passage in first["context"] for passage in first["oracle"].split("\n\n"))
        assert first["synthetic_answer"] == second["synthetic_answer"]
        assert first["context"].count("\n\n") == second["context"].count("\n\n")


def test_rows_that_are_too_long_for_the_student_lose_distractors_and_are_counted(settled: Settle, walked: Walk):
    conf = settled('dataset.formats=["notebook"]', "dataset.max_tokens=700")
    version = walked(conf)
    shortened = sum(version.counts["shortened"].values())
    assert 0 < shortened < 300, shortened
    assert version.counts["rejected"].get("longer than max_tokens", 0) + sum(version.counts["kept"].values()) == 300
    distracted = sum(version.counts["distracted"].values()) / sum(version.counts["kept"].values())
    assert abs(distracted - 0.3) < 0.1  # P is what it was
    folder = Path(browse.folder(conf.lake, version))
    rows = [json.loads(line) for line in (folder / "notebook/data/train-00000-of-00001.jsonl").read_text().splitlines()]
    for row in rows:
        assert row["distracted"] or all(passage in row["context"] for passage in row["oracle"].split("\n\n"))


def test_rejected_rows_keep_their_reason(settled: Settle, walked: Walk):
    conf = settled("completions.max_new_tokens=38")
    version = walked(conf)
    truncated = version.counts["rejected"]["truncated"]
    assert 0 < truncated < 300
    rows = browse.head(conf.lake, version, 1000, quarantine=True)
    assert len(rows) == truncated
    assert {row["reason"] for row in rows} == {"truncated"}
    assert walked(settled("completions.max_new_tokens=38", "dataset.gate.truncated=off")).counts["rejected"] == {}


def test_a_row_without_an_answer_is_rejected_with_the_class_of_its_failure():
    row = {"completion": None, "last_error": "timeout", "finish_reason": None}
    assert judged(row).rejected == ("no answer: timeout",)
    assert judged({**row, "last_error": None}).rejected == ("no answer: not asked",)


def judged(row: dict[str, Any], *assignments: str) -> acceptance.Acceptance:
    conf = config.load(assignments=assignments)
    return acceptance.judge_answer(row, conf.dataset, conf.completions)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("off", ((), ())), ("flag", ((), ("refusal",))), ("reject", (("refusal",), ()))],
)
def test_a_check_rejects_a_row_flags_it_or_is_off(mode: str, expected: tuple[tuple[str, ...], tuple[str, ...]]):
    row = {"completion": "I don't know.", "oracle": "It worked.", "final_decision": "yes", "finish_reason": "stop"}
    found = judged(row, f"dataset.gate.refusal={mode}")
    assert (found.rejected, found.flagged) == expected


THOUGHT = "It says so: ##begin_quote##{quote}##end_quote##\n<ANSWER>: {decision}, it does."


def test_of_thoughts_only_those_that_quote_their_oracle_are_trained_on_and_the_others_keep_every_reason(
    settled: Settle, make: Make
):
    conf = settled("completions.style=cot", "completions.decision=true", "dataset.gate.decision=flag")
    make(conf, articles, base)
    spark = session.start(conf)
    rows = dataframes.read(spark, conf.lake, tables.require(conf.lake, schemas.BASE)).where("split = 'train'").collect()
    kinds = {"good": 40, "false": 30, "cut": 20, "contrary": 10}
    made = [kind for kind, count in kinds.items() for _ in range(count)]
    answered = [completed(row.asDict(recursive=True), kind) for row, kind in zip(rows, made, strict=False)]
    new = tables.open_draft(conf.lake, schemas.DATASET, "0123456789abcdef")
    task = dataset_shards.ShardsTask(conf.dataset, conf.completions, new.storage, Placement({"train": 100}, 50_000, 0))
    (written,) = dataset_shards.write(iter([(0, {0: pa.Table.from_pylist(answered, COMPLETED)})]), task)
    counts = dataset._counts([written], conf.price)
    assert counts["kept"] == {"train": 50}
    assert counts["rejected"] == {"false quote": 30, "truncated": 20}
    assert counts["flagged"] == {"another decision": 10}
    (quarantine,) = [file.path for file in written.files if file.path.startswith("quarantine/")]
    reasons = pq.read_table(new.storage.path(quarantine))["reason"].to_pylist()
    assert Counter(reasons) == {"false quote": 30, "truncated, no answer line": 20}
    (messages,) = [file.path for file in written.files if file.path.startswith("messages/")]
    for line in Path(new.storage.path(messages)).read_text().splitlines():
        system, _, assistant = json.loads(line)["messages"]
        assert "##begin_quote##" in system["content"]
        assert "never said" not in assistant["content"]


COMPLETED = pa.schema(
    [
        ("pubid", pa.int64()),
        ("passages", pa.list_(pa.string())),
        *((name, pa.string()) for name in ("question", "oracle", "original_answer", "final_decision")),
        *((name, pa.string()) for name in ("completion", "finish_reason", "last_error")),
        *((name, pa.int32()) for name in ("prompt_tokens", "completion_tokens")),
        ("distracted", pa.bool_()),
    ]
)


def completed(row: dict[str, Any], kind: str) -> dict[str, Any]:
    """Answer a base row with a thought that is good, or not."""
    other = {"yes": "no", "no": "yes", "maybe": "yes"}[row["final_decision"]]
    quote = "what nobody ever said, and never said so" if kind == "false" else " ".join(row["oracle"].split()[2:12])
    text = THOUGHT.format(quote=quote, decision=other if kind == "contrary" else row["final_decision"])
    text = text.partition("<ANSWER>")[0] if kind == "cut" else text
    told = {"finish_reason": "length" if kind == "cut" else "stop", "prompt_tokens": 9, "completion_tokens": 9}
    passages = [document["text"] for document in row["documents"]]
    return {**row, "passages": passages, "completion": text, "last_error": None, **told}


@pytest.mark.row
def test_answers_of_other_rows_are_never_written_beside_a_question():
    texts = pa.table({"pubid": [3, 1, 2], "distracted": [False, False, True], "question": ["c", "a", "b"]})
    answers = pa.table({"pubid": [2, 3, 1], "distracted": [True, False, False], "completion": ["B", "C", "A"]})
    placed = Placement({"train": 3}, 10, 0)
    rows = dataset_shards.sorted_rows({0: texts, 1: answers}, placed).to_pylist()
    assert {row["question"]: row["completion"] for row in rows} == {"a": "A", "b": "B", "c": "C"}
    for others in (answers.slice(0, 2), answers.set_column(0, "pubid", [[2, 3, 9]])):
        with pytest.raises(DamageError, match="not the same rows"):
            dataset_shards.sorted_rows({0: texts, 1: others}, placed)


@pytest.mark.row
def test_whole_articles_among_the_passages_of_a_row_are_known_by_their_pubids():
    rows = [[(1, True), (5, False), (1, True)], [], [(7, False), (8, False), (7, False), (9, False)], [(4, False)]]
    documents = [[{"pubid": pubid, "oracle": oracle} for pubid, oracle in row] for row in rows]
    found = dataset_rows._is_whole(
        pa.array(documents, pa.list_(pa.struct([("pubid", pa.int64()), ("oracle", pa.bool_())])))
    )
    assert found.to_pylist() == [True, False, True, True, False, True, False, False]


def test_a_rejected_answer_is_that_of_the_best_found_distractor_else_of_the_first(settled: Settle):
    documents = {
        "drawn": [(1, True, None), (5, False, None), (4, False, None)],
        "found": [(6, False, None), (1, True, None), (5, False, 3), (4, False, 2)],
        "twice the first": [(9, False, 1), (4, False, 1)],
        "none": [(1, True, None)],
    }
    schema = "name string, documents array<struct<pubid bigint, oracle boolean, rank int>>"
    rows = session.start(settled()).createDataFrame([*documents.items()], schema)
    found = rows.selectExpr("name", f"{dataset_rows._REJECTED} AS chosen").selectExpr(
        "name", "chosen.pubid", "chosen.place"
    )
    assert {name: (pubid, place) for name, pubid, place in found.collect()} == {
        "drawn": (5, 1), "found": (4, 3), "twice the first": (4, 1), "none": (None, None),
    }  # fmt: skip


@pytest.mark.row
def test_a_row_that_lost_the_distractor_of_the_rejected_answer_has_none(tmp_path: Path):
    sheep = [f"Sheep {number} was counted in {number} places." for number in range(6)]
    joined = {"pubid": 1, "question": "Does it?", "passages": ["It worked.", *sheep], "oracle": "It worked.", "distracted": False,
              "original_answer": None, "final_decision": None, "completion": "So it does.", "finish_reason": "stop",
              "rejected_answer": "Sheep do.", "is_whole": [True] + 6 * [False]}  # fmt: skip
    at, rejected = Storage(str(tmp_path)), Counter()
    for most, place in itertools.product((0, 160), range(1, 7)):
        conf = config.load(assignments=[f"dataset.max_tokens={most}"])
        task = dataset_shards.ShardsTask(conf.dataset, conf.completions, at, Placement({"train": 1}, 10, 0))
        row = dataset_shards._finish({**joined, "rejected_place": place}, "train", task).training_row
        assert row
        assert (row.rejected_answer is None) == (sheep[place - 1] not in row.passages)
        rejected[most] += row.rejected_answer is None
    assert rejected[0] == 0
    assert 0 < rejected[160] < 6


@pytest.mark.row
def test_answers_are_gathered_to_tables_of_many_rows(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dataset_rows, "GATHERED_ROWS", 5)
    batches = [pa.RecordBatch.from_pydict({"n": list(range(start, start + 2))}) for start in range(0, 14, 2)]
    assert [table["n"].to_pylist() for table in dataset_rows._gathered(iter(batches))] == [
        [0, 1, 2, 3, 4, 5],
        [6, 7, 8, 9, 10, 11],
        [12, 13],
    ]
    assert list(dataset_rows._gathered(iter([]))) == []


def test_parts_of_a_shard_change_none_of_its_bytes(settled: Settle, walked: Walk, monkeypatch: pytest.MonkeyPatch):
    found = {}
    for rows in (25_000, 7):
        monkeypatch.setattr(placement, "PART_ROWS", rows)
        conf = settled("dataset.shard_rows=100", 'dataset.formats=["messages","preference"]')
        tables.storage(conf.lake, schemas.DATASET).delete("")
        found[rows] = {file.path: file.sha256 for file in walked(conf).files}
    assert found[25_000] == found[7]


CITED = (
    "It was small [1]. ##begin_quote##Pain fell by 30% within two hours##end_quote## [2] Then all slept [3]."
    "\n<ANSWER>: Yes, it does [2]."
)


@pytest.mark.parametrize("tokens", [0, 380])
def test_a_citation_names_the_same_passage_for_teacher_and_student(
    settled: Settle, walked: Walk, fake: config.Endpoint, tmp_path: Path, tokens: int
):
    own = {
        number: [
            f"Trial {number} was small.",
            f"Pain fell by 30% within two hours of {number}.",
            f"All {number} slept.",
        ]
        for number in range(1, 61)
    }
    records = [article(number, passages, f"Does drug {number} help?") for number, passages in own.items()]
    source = write_articles(tmp_path / "articles.parquet", records)
    behave(fake.url, {"share": 1, "text": CITED})
    conf = settled(
        f"articles.source={source}", "articles.validation_share=0", "articles.test_share=0", f"endpoints.fake.url={fake.url}",
        "base.distractors=9", "completions.style=cot", "completions.passage_marks=numbers", f"dataset.max_tokens={tokens}",
        'dataset.formats=["prompt_completion"]',
    )  # fmt: skip
    try:
        version = walked(conf)
    finally:
        behave(fake.url)
    assert (version.counts["kept"], bool(sum(version.counts["shortened"].values()))) == ({"train": 60}, tokens > 0)
    path = Path(browse.folder(conf.lake, version), "prompt_completion/data/train-00000-of-00001.jsonl")
    kinds = Counter()
    for record in map(json.loads, path.read_text().splitlines()):
        prompt, target = record["prompt"][-1]["content"], record["completion"][0]["content"]
        shown = dict(re.findall(r"^(?:Context: )?(\[\d+\]) (.*)$", prompt, re.MULTILINE))
        passages = own[int(re.search(r"drug (\d+)", prompt)[1])]
        places = {text: place for place, text in shown.items()}
        kinds[passages[0] in places] += 1
        cited = [f" {places.get(passage, '')}".rstrip() for passage in passages]
        expected = CITED.replace(" [1]", "{0}").replace(" [2]", "{1}").replace(" [3]", "{2}").format(*cited)
        assert target == expected
    assert min(kinds[True], kinds[False]) > 5


def test_no_training_row_left_is_an_error_and_nothing_is_published(settled: Settle, walked: Walk):
    conf = settled("completions.max_new_tokens=1")
    with pytest.raises(InputError, match=r"no training row is left of 300; reasons: 300 truncated$"):
        walked(conf)
    assert tables.storage(conf.lake, schemas.DATASET).list() == []


def test_too_many_rejected_rows_are_an_error_that_names_them_and_nothing_is_published(settled: Settle, make: Make):
    shares = ["articles.validation_share=0", "articles.test_share=0"]
    source = ["articles.source=sample:60", "dataset.answer=original", *shares]
    conf = settled(*source, "dataset.min_words=30")  # 32 of the 60 conclusions are shorter
    make(conf, articles, base, completions)
    with pytest.raises(InputError) as caught:
        dataset.run(conf)
    assert str(caught.value) == (
        "32 of 60 rows (53.3 %) are rejected, more than dataset.max_rejected_share = 0.5; nothing was published, and the answers "
        "are stored. Reasons: 32 too short. Set the checks of [dataset.gate] that may fail to flag, or raise the setting to go on "
        "without these rows"
    )
    assert tables.storage(conf.lake, schemas.DATASET).list() == []
    version = dataset.run(settled(*source, "dataset.min_words=30", "dataset.max_rejected_share=0.54"))
    assert version.counts["kept"] == {"train": 28}
    assert dataset.run(settled(*source, "dataset.min_words=30", "dataset.max_rejected_share=1")).id == version.id


def test_a_first_file_without_conclusions_still_gives_formats_that_load(settled: Settle, walked: Walk, tmp_path: Path):
    source = tmp_path / "source"
    found = [
        article(number, [f"Trial {number} had {number} patients."], f"Does drug {number} help?")
        for number in range(120)
    ]
    whole = pa.Table.from_pylist(found)
    source.mkdir()
    pq.write_table(whole.slice(0, 60).drop_columns("long_answer"), source / "a.parquet")
    lines = [{**each, "long_answer": float("nan") if each["pubid"] % 2 else "It does."} for each in found[60:]]
    (source / "b.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    shares = ["articles.validation_share=0.2", "articles.test_share=0.2"]
    conf = settled(ALL, f"articles.source={source}", *shares, "dataset.shard_rows=30")
    version = walked(conf)
    for name in get_args(FormatName):
        parts = loaded(conf, version, name, tmp_path / name)
        if name != "preference":
            assert {split: part["rows"] for split, part in parts.items()} == version.counts["kept"]


def test_the_manifest_tells_settings_inputs_counts_and_digests(settled: Settle, walked: Walk):
    conf = settled("endpoints.fake.input_price=2.0", "endpoints.fake.output_price=10.0")
    version = walked(conf)
    manifest = json.loads(Path(browse.folder(conf.lake, version), "manifest.json").read_text())
    assert manifest["inputs"].keys() == {"base", "completions"}
    assert manifest["settings"]["base"]["distractors"] == 3
    tokens = manifest["counts"]["tokens"]
    assert manifest["counts"]["dollars"] == pytest.approx(
        (tokens["prompt"] * 2 + tokens["completion"] * 10) / 1e6, abs=1e-4
    )
    assert all(len(file["sha256"]) == 64 for file in manifest["files"])
