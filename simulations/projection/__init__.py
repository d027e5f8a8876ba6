"""What measured runs say about far larger ones."""
