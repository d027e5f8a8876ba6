"""Sweeps: every method with every combination of some config keys' values."""
