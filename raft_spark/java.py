"""No Java -> a Java 17 in this environment: PREFIX/jdk, where the session looks.   python -m raft_spark.java"""

import sys
from pathlib import Path

from raft_spark.errors import ConfigError
from raft_spark.session import java_home


def fetch() -> str:
    """Return a Java home, fetched with install-jdk where there is none. Raises ConfigError that says what to install."""
    try:
        return java_home()
    except ConfigError as error:
        import jdk  # noqa: PLC0415 - only a machine without Java needs it

        try:
            return str(jdk.install("17", path=str(Path(sys.prefix) / "jdk")))
        except (OSError, jdk.JdkError) as failed:
            msg = f"{error}; fetching one failed: {failed}"
            raise ConfigError(msg) from failed


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{fetch()}\n")
    except ConfigError as error:
        sys.exit(str(error))
