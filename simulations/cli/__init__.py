"""The `fedperfit` command: one file a command, which reads options and prints; other rooms do the work.

A command imports what loads PyTorch only when it runs: `--help`, `runs` and a mistyped option must not wait for that.
"""
