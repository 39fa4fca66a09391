"""Servers that raft-spark starts on this machine."""
