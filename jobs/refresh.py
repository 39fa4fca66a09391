"""source -> dataset, if the source or the settings have changed.   spark-submit jobs/refresh.py conf/emr.toml [--set section.key=value]"""

import sys

from raft_spark import preflight

preflight.check()

from raft_spark.stages import refresh, runner

if __name__ == "__main__":
    runner.run_job(refresh.run, sys.argv[1:])
