"""Scoring of predictions: sums that clients return, and the metrics computed from them."""
