"""What the coordinator does: draw cohorts, aggregate replies, count bytes, write the run record."""
