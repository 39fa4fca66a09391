"""Run the jobs on EMR Serverless.

package    checkout -> release: a folder that is named by a hash of its content
job_run    settings, job, release -> the arguments of StartJobRun
submit     upload the release and start the run, once
follow     wait for the end of a run, then print its cost or why it failed
"""
