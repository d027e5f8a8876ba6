"""Experiments on several runs, or on one afterwards: compare, sweep, tune, cold start, analysis, audit, ability."""
