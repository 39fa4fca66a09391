"""The command line with teachers on their bad days: how many rows are answered, what is paid for twice, how the run ends."""

import shutil
from pathlib import Path

import pytest

from support import teacher_runs
from support.bad_teachers import TEXT, BadTeacher
from support.teacher_runs import ROWS, Ended

pytestmark = [pytest.mark.spark, pytest.mark.timeout(600)]

ONCE = ("think", "reasoning_field", "parts", "null_reason", "stream", "slow_some")  # nothing is asked twice
BUSY = ("busy_429", "busy_529", "busy_500", "busy_in_200", "bedrock_busy", "retry_after_ms")
AGAIN = ("abort", "out_of_resources", "status_424", "status_499", "status_409")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return teacher_runs.make_lake(tmp_path_factory.mktemp("lakes") / "original")


@pytest.fixture
def root(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "lake"))


def run(root: Path, teacher: BadTeacher, *assignments: str) -> Ended:
    return teacher_runs.run_here(root, teacher_runs.bad_endpoint(teacher), *assignments)


def test_a_wrong_key_told_as_400_fails_every_run_until_it_is_mended(root: Path):
    with BadTeacher("bad_key_400") as teacher:
        for again in (1, 2):
            ended = run(root, teacher)
            assert (ended.status, ended.answers, ended.permanent) == (4, 0, 0), ended.words
            assert "endpoint 'mine' refuses every request: status 400: the key is not valid" in ended.words
            where = f"it was asked for model 'm' at {teacher.address}/v1; correct endpoints.mine.api_key_env"
            assert where in ended.words
            assert teacher.calls <= again * 2 * 16
        teacher.mode = "think"
        ended = run(root, teacher)
    assert (ended.status, ended.answers, ended.permanent) == (0, ROWS, 0), ended.words


@pytest.mark.parametrize(
    "mode",
    ["busy_503", "long_restart", *(pytest.param(mode, marks=pytest.mark.slow) for mode in (*BUSY, *ONCE, *AGAIN))],
)
def test_every_row_is_answered(root: Path, mode: str):
    more = ("completions.in_flight=32", "completions.attempts=20") if mode != "long_restart" else ()
    with BadTeacher(mode) as teacher:
        ended = run(root, teacher, *more)
    assert (ended.status, ended.answers, ended.permanent) == (0, ROWS, 0), ended.words
    assert teacher.distinct == ROWS
    assert set(ended.texts) == {"Yes, the treatment works." if mode == "stream" else TEXT}
    assert mode not in ONCE or teacher.most_for_one == 1
    assert ("came without a finish_reason" in ended.words) == (mode == "null_reason")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "words", "answers"),
    [
        ("bad_model_422", "refuses every request: status 422: no model of this name", 0),
        ("bedrock_retired", "refuses every request: ValidationException: the weights of this one are gone", 0),
        ("quota", "refuses: status 429: the quota is used up", 12),
        ("long_wait", "asks to wait 86,400 s, longer than a request may take by completions.deadline_seconds", 12),
        ("always_503", "has not answered for", 0),
    ],
)
def test_what_concerns_every_row_ends_the_run_and_the_next_one_too(root: Path, mode: str, words: str, answers: int):
    with BadTeacher(mode) as teacher:
        for again in (1, 2):
            ended = run(root, teacher, "completions.deadline_seconds=20")
            assert (ended.status, ended.answers, ended.permanent) == (4, answers, 0), ended.words
            assert words in ended.words
            assert mode == "always_503" or teacher.calls <= answers + again * 2 * 16


@pytest.mark.slow
def test_a_refusal_of_every_row_is_named_and_asked_again_only_when_told(root: Path):
    with BadTeacher("refusal_field") as teacher:
        for _ in range(2):
            ended = run(root, teacher)
            assert (ended.status, ended.answers, ended.permanent) == (4, 0, ROWS), ended.words
            assert "--set completions.retry=filtered" in ended.words
    assert (teacher.calls, teacher.most_for_one) == (ROWS, 1)
