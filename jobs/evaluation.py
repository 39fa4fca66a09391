"""articles -> evaluation.   spark-submit jobs/evaluation.py conf/emr.toml [--set section.key=value]"""

import sys
from functools import partial

from raft_spark import preflight

preflight.check()

from raft_spark import evaluation, watched

if __name__ == "__main__":
    watched.job(partial(watched.run, evaluation.run), sys.argv[1:])
