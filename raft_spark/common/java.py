"""Find a Java for Spark, or download Java 17 to PREFIX/jdk, where the session looks.   python -m raft_spark.common.java"""

import os
import shutil
import sys
from pathlib import Path

from raft_spark.errors import ConfigError

JAVA_HINT = "Java 17 was not found; install it (Debian: apt-get install openjdk-17-jre-headless) or set JAVA_HOME"


def java_home() -> str:
    """Return the first Java home of JAVA_HOME, the PATH and PREFIX/jdk/*, where `fetch` puts one.

    Raises ConfigError that says what to install when there is none.
    """
    on_path = shutil.which("java")
    found = [os.environ.get("JAVA_HOME", ""), str(Path(on_path).resolve().parents[1]) if on_path else ""]
    found += sorted(str(path) for path in Path(sys.prefix).glob("jdk/*"))
    home = next((home for home in found if home and (Path(home) / "bin/java").exists()), None)
    if home is None:
        raise ConfigError(JAVA_HINT)
    return home


def fetch() -> str:
    """Return a Java home, and download Java 17 with install-jdk when there is none.

    Raises ConfigError that says what to install when the download fails.
    """
    try:
        return java_home()
    except ConfigError as error:
        import jdk  # noqa: PLC0415 - only a machine without Java needs it

        try:
            return str(jdk.install("17", path=str(Path(sys.prefix) / "jdk")))
        except (OSError, jdk.JdkError) as failed:
            msg = f"{error}; the download of Java 17 failed: {failed}"
            raise ConfigError(msg) from failed


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{fetch()}\n")
    except ConfigError as error:
        sys.exit(str(error))
