"""Synthetic LaMP users with planted collective tastes and planted personal deviations from them."""
