"""One run: from a config to a finished run record."""
