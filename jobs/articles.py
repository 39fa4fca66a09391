"""PubMedQA -> articles.   spark-submit jobs/articles.py conf/emr.toml [--set section.key=value]"""

import sys

from raft_spark import preflight

preflight.check()

from raft_spark import articles, session

if __name__ == "__main__":
    session.job(articles.run, sys.argv[1:])
