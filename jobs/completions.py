"""base -> completions.   spark-submit jobs/completions.py conf/emr.toml [--set section.key=value]"""

import sys

from raft_spark import preflight

preflight.check()

from raft_spark import completions, session

if __name__ == "__main__":
    session.job(completions.run, sys.argv[1:])
