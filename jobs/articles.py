"""source -> articles.   spark-submit jobs/articles.py conf/emr.toml [--set section.key=value]"""

import sys
from functools import partial

from raft_spark import preflight

preflight.check()

from raft_spark.stages import registry, runner

if __name__ == "__main__":
    runner.run_job(partial(runner.run, registry.ARTICLES), sys.argv[1:])
