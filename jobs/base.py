"""articles -> base.   spark-submit jobs/base.py conf/emr.toml [--set section.key=value]"""

import sys

from raft_spark import preflight

preflight.check()

from raft_spark import base, session

if __name__ == "__main__":
    session.job(base.run, sys.argv[1:])
