"""The dress rehearsal: run on this machine what EMR Serverless would get.   make rehearsal

A Spark standalone cluster, an S3 server and a model server on loopback replace AWS, and a Python without packages replaces
EMR's. The command line is derived from the arguments of StartJobRun only.
"""
