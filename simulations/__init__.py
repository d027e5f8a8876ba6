"""What a person runs: the `fedperfit` command, engines, experiments, and what reads run records afterwards.

Programs import from `fedperfit`.
"""
