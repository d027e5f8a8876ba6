"""How predictions are scored: sums that clients return, and metrics from them."""
