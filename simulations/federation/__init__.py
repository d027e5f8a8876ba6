"""A real federation: what it starts from, and its server."""
