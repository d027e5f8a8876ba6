"""Estimates of the cost of far larger federations, from measured runs."""
