"""The dress rehearsal: what would be sent to EMR Serverless, run on this machine.   make rehearsal

A Spark standalone cluster, an S3 server and a model server on loopback stand for AWS, a Python with nothing installed for
EMR's. The command line is derived from the StartJobRun document alone.
"""
