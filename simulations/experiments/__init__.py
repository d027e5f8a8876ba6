"""Experiments that consist of several runs: compare, tune, cold start."""
