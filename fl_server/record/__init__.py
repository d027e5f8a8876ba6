"""The run record: its schema, tables, ledger and checkpoint, and who writes and reads them."""
