"""PubMedQA -> articles.   spark-submit jobs/articles.py conf/emr.toml [--set section.key=value]"""

import sys
from functools import partial

from raft_spark import preflight

preflight.check()

from raft_spark import articles, watched

if __name__ == "__main__":
    watched.job(partial(watched.run, articles.run), sys.argv[1:])
