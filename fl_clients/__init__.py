"""What a device does: read one user's history, train an adapter on it, keep what is private."""
