"""Experiments: the specification of a cell, the store, and tables over cells."""
