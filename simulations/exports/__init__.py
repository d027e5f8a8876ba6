"""`fedperfit export` and `fedperfit chat`: the model one user of a run is served, outside of the simulation."""
