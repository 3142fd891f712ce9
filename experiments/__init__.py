"""Ready experiment files: one a claim or a table."""
