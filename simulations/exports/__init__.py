"""`fedperfit export` and `fedperfit chat`: use the model that a run serves outside the simulation."""
