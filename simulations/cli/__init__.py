"""The `fedperfit` command, one file per command. These files read options and print; other packages do the work.

Modules that load PyTorch are imported inside a command's function, so `--help`, `runs` and mistyped options are fast.
"""
