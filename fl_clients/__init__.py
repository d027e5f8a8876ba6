"""The client side: reads one user's history, trains an adapter on it, keeps the private tensors."""
