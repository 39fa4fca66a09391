"""Estimate what a run or an evaluation costs."""
