"""Retrieval and prompts of the methods that tune nothing."""
