"""What a comparison's runs say beside each other: curves, tests, tables, figures."""
