"""The process a client runs in: its paths, its slice of the machine, its time limit."""
