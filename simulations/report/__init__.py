"""`fedperfit report`: one HTML file that shows run records and experiments."""
