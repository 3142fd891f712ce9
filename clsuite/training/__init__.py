"""Running one cell: what the parts share, the loop, metrics, state and exact resume."""
