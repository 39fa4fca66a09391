"""Imitate the model services for tests, with faults on request."""
