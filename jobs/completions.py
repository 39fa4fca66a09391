"""base -> completions.   spark-submit jobs/completions.py conf/emr.toml [--set section.key=value]"""

import sys
from functools import partial

from raft_spark import preflight

preflight.check()

from raft_spark import completions, watched

if __name__ == "__main__":
    watched.job(partial(watched.run, completions.run), sys.argv[1:])
