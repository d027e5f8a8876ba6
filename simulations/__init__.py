"""What a person runs: the `fedperfit` command, the launcher, and what reads run records afterwards."""
