"""Output for every command: tables, plots, progress, trackers."""
