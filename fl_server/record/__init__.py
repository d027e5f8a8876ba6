"""The run record: its schema, tables, ledger and checkpoint, and how they are written and read."""
