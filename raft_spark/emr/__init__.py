"""From a checkout to EMR Serverless.

package    a checkout -> a release: one folder, named by what is inside      raft_spark/emr/package.py
"""
