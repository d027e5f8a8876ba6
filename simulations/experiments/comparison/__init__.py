"""Analysis of a comparison's runs: curves, tests, tables, figures."""
