"""Define the command line, raft-spark."""
