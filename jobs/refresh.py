"""source -> dataset, when there is something new.   spark-submit jobs/refresh.py conf/emr.toml [--set section.key=value]"""

import sys

from raft_spark import preflight

preflight.check()

from raft_spark import refresh, watched

if __name__ == "__main__":
    watched.job(refresh.run, sys.argv[1:])
