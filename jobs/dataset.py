"""base + completions -> dataset.   spark-submit jobs/dataset.py conf/emr.toml [--set section.key=value]"""

import sys

from raft_spark import preflight

preflight.check()

from raft_spark import dataset, session

if __name__ == "__main__":
    session.job(dataset.run, sys.argv[1:])
