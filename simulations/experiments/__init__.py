"""Experiments of many runs: compare, tune, cold start."""
