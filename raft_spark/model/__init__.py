"""Beside the stages: a student is trained on a dataset, hosted, and listed with what it costs. No Spark here."""
