"""The frozen language model: loading it, passing examples through it, and keeping what never changes."""
