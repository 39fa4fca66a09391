"""A file of held-out pubids is read in each form that people have; what is no pubid is named with its place."""

import json
from pathlib import Path

import boto3
import pytest

from raft_spark import config
from raft_spark.errors import InputError
from raft_spark.sources import held_out

pytestmark = pytest.mark.row
SUM_OF_TEST_GROUND_TRUTH = 9_799_672_822  # jq '[keys[] | tonumber] | add' test_ground_truth.json


def read(path: object, *assignments: str) -> list[int]:
    return held_out.read(config.load(assignments=[f"articles.holdout={path}", *assignments])).tolist()


@pytest.mark.parametrize(
    "text",
    [
        "21645374\n7\n12377809\n",
        "12377809\r\n7\r\n\r\n 21645374 ",
        "\ufeff7\n12377809\n21645374\n7\n",
        "[21645374, 7, 12377809]",
        '["21645374", "7", "12377809"]',
        '{"12377809": "yes", "21645374": "no",\n "7": "maybe"}',
        '{"12377809": {"QUESTION": "q"}, "21645374": {}, "7": {}}',
        '[{"pubid": 7, "question": "q"}, {"pubid": 12377809}, {"pubid": "21645374"}]',
    ],
)
def test_each_form_gives_the_same_pubids(tmp_path: Path, text: str):
    (tmp_path / "ids").write_text(text)
    assert read(tmp_path / "ids") == [7, 12377809, 21645374]


def test_pubmedqas_test_questions_have_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    official = read("pubmedqa-test")
    assert len(official) == len(set(official)) == 500
    assert official == sorted(official)
    assert {12377809, 24577079, 18284441} < set(official)  # the first yes, no and maybe of test_ground_truth.json
    assert (official[0], official[-1]) == (7482275, 29112560)
    assert sum(official) == SUM_OF_TEST_GROUND_TRUTH
    (tmp_path / "pubmedqa-test").write_text("7")
    monkeypatch.chdir(tmp_path)
    assert read("./pubmedqa-test") == [7]


def test_a_single_pubid_and_none(tmp_path: Path):
    (tmp_path / "ids").write_text("7")
    assert read(tmp_path / "ids") == [7]
    assert read("") == []


def test_the_home_folder_a_relative_path_and_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3: str):
    (tmp_path / "ids.txt").write_text("7")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert read("~/ids.txt") == read("ids.txt") == [7]
    boto3.client("s3", endpoint_url=s3).put_object(Bucket="lake", Key="my ids.json", Body=json.dumps([8]).encode())
    assert read("s3://lake/my ids.json", f"lake.s3_endpoint={s3}") == [8]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pubid\n7\n", "line 1 has 'pubid', which is no pubid; it must be an integer from 0 on"),
        ("7\n8,9\n", "line 2 has '8,9', which is no pubid"),
        ("[7, 1.5]", "entry 2 has 1.5, which is no pubid"),
        ("[true]", "entry 1 has True, which is no pubid"),
        ("[-1]", "entry 1 has -1, which is no pubid"),
        ('{"PMC-7": "yes"}', "entry 1 has 'PMC-7', which is no pubid"),
        ('[{"id": 7}]', "entry 1 has None, which is no pubid"),
        ("\n\n", "a file without a pubid; it must have one a line"),
        ("[]", "a file without a pubid; it must have one a line"),
    ],
)
def test_what_is_no_pubid_is_named_with_its_place(tmp_path: Path, text: str, message: str):
    (tmp_path / "ids").write_text(text)
    with pytest.raises(InputError) as caught:
        read(tmp_path / "ids")
    assert str(caught.value).startswith(f"articles.holdout is '{tmp_path}/ids'")
    assert message in str(caught.value)


def test_a_file_that_is_missing_or_a_folder_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"articles.holdout is '/.*/nothing'; no such file is there"):
        read(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"articles.holdout is '/.*': .* cannot be read"):
        read(tmp_path)
