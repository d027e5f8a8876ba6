"""Inspection without a run: a config's parameters, a dataset's contents."""
