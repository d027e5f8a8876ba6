"""What fedperfit's speed is measured against, and the measuring: `fedperfit bench`, `make bench`."""
