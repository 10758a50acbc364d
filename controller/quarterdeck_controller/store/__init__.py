"""Everything the controller must remember, in one SQLite file."""
