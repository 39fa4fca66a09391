"""From a checkout to EMR Serverless.

package    a checkout -> a release: one folder, named by what is inside      raft_spark/emr/package.py
document   settings, a job, a release -> what StartJobRun is sent            raft_spark/emr/document.py
submit     that -> a run, started once                                       raft_spark/emr/submit.py
follow     a run -> its end, and what came of it                             raft_spark/emr/follow.py
"""
