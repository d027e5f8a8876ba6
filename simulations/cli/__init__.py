"""The commands of `fedperfit`: what words mean, and what is printed; the work is done by the modules beside.

A command imports what loads PyTorch when it runs: `--help`, `runs` and a wrong word shall not wait for that.
"""
