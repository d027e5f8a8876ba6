"""The commands of `fedperfit`: what words mean, and what is printed; the work is done by the modules beside."""
