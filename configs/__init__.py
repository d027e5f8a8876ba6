"""The typed config of a run, how it is loaded, and the values derived from it."""
