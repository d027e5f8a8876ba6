"""Real federations: their deployment and their server."""
