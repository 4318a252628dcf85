"""Where fingerprints live and are found again: SQLite is the truth, search indexes are derived."""
