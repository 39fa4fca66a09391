"""Answers that the store refused are kept on this machine, and stored when the next run begins."""

import tempfile
from pathlib import Path

import pytest

from raft_spark.errors import InputError
from raft_spark.inference import unstored
from raft_spark.inference.answer_store import AnswerFile
from raft_spark.lake.filesystem import Storage
from raft_spark.lake.lease import PATH

pytestmark = pytest.mark.row

FILES = [
    AnswerFile("data/day=2026-11-22/r-p00001-a-3-1.parquet", b"one"),
    AnswerFile("data/day=2026-11-22/r-p00002-b-2-0.parquet", b"two"),
]


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    return tmp_path / "tmp"


@pytest.fixture
def store(tmp_path: Path) -> Storage:
    """A store whose lease is held."""
    found = Storage(str(tmp_path / "lake/completions"))
    found.write(PATH, b"{}")
    return found


def refuse(store: Storage) -> None:
    """Make every write to the store fail, also root's."""
    store.write("data", b"in the way")


def test_a_store_that_takes_the_answers_now_gets_them(store: Storage, temporary: Path):
    assert unstored.rescue(store, FILES) == unstored.Rescued(tuple(FILES), 0)
    assert store.read(FILES[0].path) == b"one"
    assert list(temporary.iterdir()) == []


def test_what_the_store_refuses_again_is_kept_and_stored_by_the_next_run(store: Storage, temporary: Path):
    refuse(store)
    assert unstored.rescue(store, FILES) == unstored.Rescued((), 5)
    with pytest.raises(InputError, match=r"answers of an earlier run, kept in .*, cannot be stored in .*completions"):
        unstored.restore(store)
    store.delete("data")
    assert unstored.restore(store) == 2
    assert [store.read(file.path) for file in FILES] == [b"one", b"two"]
    assert unstored.restore(store) == 0
    assert [path for path in temporary.rglob("*") if path.is_file()] == []


def test_a_store_that_was_removed_is_not_made_anew(store: Storage):
    store.delete(PATH)
    assert unstored.rescue(store, FILES).kept == 5
    assert store.list() == []


def test_each_store_gets_its_own_answers(store: Storage, tmp_path: Path):
    refuse(store)
    unstored.rescue(store, FILES)
    assert unstored.restore(Storage(str(tmp_path / "other/completions"))) == 0
    assert unstored.restore(Storage(str(tmp_path / "lake/evaluation"))) == 0


def test_only_this_user_can_read_what_is_kept(store: Storage, temporary: Path):
    refuse(store)
    unstored.rescue(store, FILES)
    (folder,) = temporary.iterdir()
    assert folder.stat().st_mode & 0o077 == 0


def test_what_can_be_kept_nowhere_is_not_counted_as_kept(store: Storage, temporary: Path):
    refuse(store)
    temporary.rmdir()
    temporary.write_text("no folder")
    assert unstored.rescue(store, FILES) == unstored.Rescued((), 0)


def test_a_folder_that_somebody_else_made_is_not_used(store: Storage, temporary: Path, tmp_path: Path):
    unstored._user_folder().symlink_to(tmp_path / "foreign", target_is_directory=True)
    (tmp_path / "foreign").mkdir()
    refuse(store)
    assert unstored.rescue(store, FILES).kept == 0
    assert list((tmp_path / "foreign").iterdir()) == []
    assert unstored.restore(store) == 0
