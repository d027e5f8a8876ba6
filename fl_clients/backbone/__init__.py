"""The frozen language model: loading it, running examples through it, and storing the states that never change."""
