"""Run model servers on this machine."""
