"""What every command shows people with: tables, plots, progress, trackers."""
