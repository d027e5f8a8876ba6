"""Benchmarks of fedperfit and their plain baseline: `fedperfit bench`, `make bench`."""
