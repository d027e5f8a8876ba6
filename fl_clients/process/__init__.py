"""The process a client runs in: its paths, its share of the machine, its time limit."""
