"""The server side: draws cohorts, aggregates updates, counts bytes, writes the run record."""
