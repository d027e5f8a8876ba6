"""Aggregation of many clients' updates into one set of shared tensors, on the server."""
