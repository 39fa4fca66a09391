"""base + completions -> dataset.   spark-submit jobs/dataset.py conf/emr.toml [--set section.key=value]"""

import sys
from functools import partial

from raft_spark import preflight

preflight.check()

from raft_spark import dataset, watched

if __name__ == "__main__":
    watched.job(partial(watched.run, dataset.run), sys.argv[1:])
