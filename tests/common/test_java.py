"""Where no Java is found, the run says in one sentence what to do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raft_spark.common import java
from raft_spark.errors import ConfigError

pytestmark = pytest.mark.row


def test_java_is_found_by_its_home_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/java").touch()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert java.java_home() == str(tmp_path)


def test_no_java_is_an_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    with pytest.raises(
        ConfigError, match=r"install it .Debian: apt-get install openjdk-17-jre-headless. or set JAVA_HOME"
    ):
        java.java_home()


def test_a_java_in_the_environment_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    (tmp_path / "jdk/jdk-17/bin").mkdir(parents=True)
    (tmp_path / "jdk/jdk-17/bin/java").touch()
    assert java.java_home() == str(tmp_path / "jdk/jdk-17")


def test_where_none_can_be_fetched_either_it_is_one_line(tmp_path: Path):
    closed = "http://127.0.0.1:9"
    environment = {
        name: value for name, value in os.environ.items() if name != "JAVA_HOME" and "proxy" not in name.lower()
    }
    environment |= {"PATH": str(tmp_path), "HTTPS_PROXY": closed, "HTTP_PROXY": closed}
    command = [sys.executable, "-m", "raft_spark.common.java"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Java 17 was not found; install it" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
