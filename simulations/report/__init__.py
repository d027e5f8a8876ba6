"""`fedperfit report`: one HTML file that shows run records, comparisons and cold-start experiments."""
